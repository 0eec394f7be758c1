"""Going on from a log: at every cut of a real one, whoever wrote it and however it ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import anyio
import pytest

from streamchat.core.fold import fold
from streamchat.events import Finalized, StoredEvent, StreamEvent, ToolStarted
from streamchat.messages import ToolCallPart
from streamchat.models.base import ModelRequest
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Hooks, Limits, RunOptions
from streamchat.orchestration.run_log import RunLog
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import OutcomeUnknown, ToolContext, ToolError, ToolRegistry
from tests.orchestrator.support import FAST, Log, assert_whole, play, stored

pytestmark = pytest.mark.anyio


class Workshop:
    """Tools that count, and a model that goes by the history that it is given, as real ones do."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.keys: dict[str, set[str]] = {}
        self.attempts: list[tuple[str, int]] = []
        self.tools = ToolRegistry()
        self.requests: list[ModelRequest] = []

        @self.tools.tool
        async def pay(ctx: ToolContext) -> str:
            self.note(ctx)
            return "paid"

        @self.tools.tool(idempotent=True)
        async def look(ctx: ToolContext, n: int) -> int:
            self.note(ctx)
            return n

        @self.tools.tool
        def file(ctx: ToolContext) -> str:
            self.note(ctx)
            return "filed"

    def note(self, ctx: ToolContext) -> None:
        self.ran[ctx.call_id] += 1
        self.keys.setdefault(ctx.call_id, set()).add(ctx.idempotency_key)
        self.attempts.append((ctx.call_id, ctx.attempt))

    def model(self, batch: int = 2) -> ScriptedModel:
        calls = [Call("pay", id="functions.pay:0"), Call("look", {"n": 1}), Call("nope"), Call("file")]
        steps = [
            Step("Let me see.", reasoning="Hm", calls=calls),
            Step("And then", calls=[Call("pay", id="functions.pay:0"), Call("look", {"n": 2})]),
            Step("All is done."),
        ]

        def answer(request: ModelRequest) -> Step:
            self.requests.append(request)
            return steps[sum(message.role == "assistant" for message in request.messages)]

        return ScriptedModel(answer, batch=batch)

    async def whole(self) -> Log:
        log = await play(self.model(), tools=self.tools)
        assert log.status == "success"
        return log


TEXT = "Let me see.And thenAll is done."
CALLS = 6


@pytest.mark.parametrize("form", ["plain", "stored"])
async def test_a_run_goes_on_from_every_cut_of_its_log(form):
    whole = await Workshop().whole()
    assert len(whole.events) > 40
    for cut in range(len(whole.events) + 1):
        # Restarts are none, so a reset by a takeover that counted as one would end the run.
        options = RunOptions(max_step_restarts=0, grace=0.2, tool_timeout=None)
        prefix: Sequence[StreamEvent | StoredEvent] = whole.events[:cut]
        if form == "stored":
            prefix = stored(whole.events[:cut])
        shop = Workshop()
        log = await play(shop.model(), tools=shop.tools, history=prefix, options=options)
        events = [*whole.events[:cut], *log.events]
        assert_whole(events)
        assert log.status == "success" if log.events else cut == len(whole.events)
        assert fold(events).text == TEXT, f"cut at {cut}"
        check_beginning(whole.events[:cut], log)
        check_tools(whole.events[:cut], events, shop)


def check_beginning(prefix: Sequence[StreamEvent], log: Log) -> None:
    state = fold(prefix)
    kinds = log.types()
    if not prefix:
        assert kinds[0] == "run_started"
    elif len(prefix) == 1:
        assert "run_resumed" not in kinds, "what only `create` wrote was not begun by anybody"
    elif len(prefix) > 1 and not state.over and prefix[-1].type != "message_completed":
        assert kinds[0] == "run_resumed"
        assert log.events[0].reason == "takeover"  # type: ignore[union-attr]
    assert "run_started" not in kinds[1:]
    last = state.steps[-1] if state.steps else None
    is_open = last is not None and not last.model_completed
    resets = log.of("step_reset")
    assert len(resets) == (1 if is_open else 0)
    if is_open:
        assert (kinds[1], resets[0].reason, resets[0].attempt) == ("step_reset", "takeover", 2)
        assert log.of("step_started") == [] or log.of("step_started")[0].step > resets[0].step


def check_tools(prefix: Sequence[StreamEvent], events: Sequence[StreamEvent], shop: Workshop) -> None:
    before = fold(prefix)
    after = {call.call_id: call for call in fold(events).calls}
    assert len(after) == CALLS
    for call in before.calls:
        ran, now = shop.ran[call.call_id], after.get(call.call_id)
        if call.state == "done":
            assert ran == 0, "what has its result is not run again"
        elif now is not None and call.state == "running" and call.name == "look":
            assert (ran, now.outcome, now.attempts) == (1, "ok", 2)
        elif now is not None and call.state == "running":
            assert (ran, now.outcome) == (0, "unknown")
    assert all(count == 1 for count in shop.ran.values())
    assert all(len(keys) == 1 for keys in shop.keys.values())


async def test_the_idempotency_key_is_that_of_the_run_whoever_goes_on():
    shop = Workshop()
    first = await play(
        shop.model(),
        tools=shop.tools,
        context=RunContext(run_id="r1"),
        after_each=lambda log: len(log.of("tool_started")) == 3,
    )
    context = RunContext()  # told nothing: the log knows whose run it is
    log = await play(shop.model(), tools=shop.tools, context=context, history=first.events, options=FAST)
    started = [
        e for e in [*first.events, *log.events] if isinstance(e, ToolStarted) and e.call_id == "call_1_1"
    ]
    assert [event.attempt for event in started] == [1, 2]
    assert {event.idempotency_key for event in started} == {"r1:call_1_1"}
    assert shop.attempts[0] == ("call_1_1", 2)
    assert context.run_id == "r1"


async def test_what_became_unknown_is_told_to_the_model():
    shop = Workshop()
    first = await play(
        shop.model(), tools=shop.tools, after_each=lambda log: len(log.of("tool_started")) == 3
    )
    log = await play(shop.model(), tools=shop.tools, history=first.events)
    assert log.results()["functions.pay:0"].outcome == "unknown"
    told = {m.call_id: m.content for m in shop.requests[-1].messages if m.role == "tool"}
    assert "not known" in told["functions.pay:0"]


async def test_reconcile_is_asked_what_became_of_a_call():
    asked = []

    async def ask(context: ToolContext, arguments: dict) -> str:
        asked.append((context.idempotency_key, context.attempt, context.fence, arguments))
        return "it was paid"

    first, tools = await started_call(reconcile=ask)
    context = RunContext(fence=2)
    log = await play(ScriptedModel(["Done."]), tools=tools, history=first.events, context=context)
    assert asked == [(f"{context.run_id}:call_1_0", 1, 2, {"n": 1})]
    assert (log.outcomes(), log.of("tool_result")[0].output) == (["ok"], "it was paid")
    assert log.of("tool_started") == []
    assert_whole([*first.events, *log.events])


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (OutcomeUnknown("no idea"), "unknown"),
        (RuntimeError("x"), "unknown"),
        (ToolError("It failed."), "error"),
    ],
)
async def test_a_reconcile_that_does_not_know_leaves_the_call_unknown(failure, outcome):
    def ask(context: ToolContext) -> None:
        raise failure

    first, tools = await started_call(reconcile=ask)
    log = await play(ScriptedModel(["Done."]), tools=tools, history=first.events)
    assert log.outcomes() == [outcome]
    assert log.status == "success"


async def started_call(**options: object) -> tuple[Log, ToolRegistry]:
    """A log that ends when its one call was started, and the tools."""
    tools = ToolRegistry()

    async def pay(n: int) -> str:
        ran.append(n)
        return "x"

    ran: list[int] = []
    tools.add(pay, **options)  # type: ignore[arg-type]
    model = ScriptedModel([Step("Look:", calls=[Call("pay", {"n": 1})])])
    log = await play(model, tools=tools, after_each=lambda log: log.of("tool_started"))
    assert ran == []
    return log, tools


async def test_a_started_call_whose_tool_is_gone_is_unknown():
    first, _ = await started_call()
    log = await play(ScriptedModel(["Done."]), tools=ToolRegistry(), history=first.events)
    assert log.outcomes() == ["unknown"]
    assert_whole([*first.events, *log.events])


async def test_a_call_that_never_started_and_whose_tool_is_gone_is_told_to_the_model():
    first, _ = await started_call()
    log = await play(ScriptedModel(["Done."]), tools=ToolRegistry(), history=first.events[:-1])
    assert log.outcomes() == ["error"]
    assert_whole([*first.events[:-1], *log.events])


async def test_a_call_to_a_tool_that_was_unknown_then_stays_one_that_does_not_run():
    """The log says that the call does not run; readers were shown that."""
    model = ScriptedModel([Step(calls=[Call("pay", {"n": 1})])])
    first = await play(model, after_each=lambda log: log.of("model_completed"))
    _, tools = await started_call()
    log = await play(ScriptedModel(["Done."]), tools=tools, history=first.events)
    assert log.outcomes() == ["error"]
    assert log.of("tool_started") == []
    assert_whole([*first.events, *log.events])


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_started_call_whose_arguments_no_longer_fit_is_unknown(idempotent):
    first, _ = await started_call(idempotent=idempotent)
    tools = ToolRegistry()

    async def pay(n: str, amount: int) -> None:
        raise AssertionError

    tools.add(pay, idempotent=idempotent)
    log = await play(ScriptedModel(["Done."]), tools=tools, history=first.events)
    assert log.outcomes() == ["unknown"]
    assert_whole([*first.events, *log.events])


def waiting_time(ago: float, *, timeout: float | None, grace: float = 5.0) -> float:
    tools = ToolRegistry()
    tool = tools.add(lambda: None, name="t", description="d", idempotent=True, timeout=timeout)
    started = ToolStarted(step=1, call_id="c", idempotency_key="k")
    event = StoredEvent(1, int((time.time() - ago) * 1000), started, "g")
    log = RunLog([event], RunContext(), RunOptions(grace=grace), 0.0)
    return log.wait_before_rerun(ToolCallPart(call_id="c", name="t"), tool)


async def test_an_attempt_that_was_cut_off_has_its_timeout_and_the_grace_time_to_end():
    assert waiting_time(0, timeout=100) == pytest.approx(105, abs=2)
    assert waiting_time(60, timeout=100) == pytest.approx(45, abs=2)
    assert waiting_time(1000, timeout=100) == 0
    assert waiting_time(-1000, timeout=100) == 105, "a clock that is wrong makes nobody wait for ever"
    assert waiting_time(0, timeout=None) == 0


async def test_a_rerun_begins_only_after_the_wait():
    """With an hour to wait, the run stands: nothing was started when its deadline comes."""
    first, tools = await started_call(idempotent=True, timeout=3600)
    options = RunOptions(grace=0.1, limits=Limits(deadline=0.2))
    history = stored(first.events, at=int(time.time() * 1000))
    with anyio.fail_after(10):
        log = await play(ScriptedModel([]), tools=tools, history=history, options=options)
    assert log.of("tool_started") == []
    assert (log.outcomes(), log.error.code) == (["unknown"], "deadline")


async def test_resets_of_takeovers_are_not_counted_as_restarts():
    """Taken over in the middle of the same step again and again, it still has all its restarts."""
    history: list[StreamEvent] = []
    options = RunOptions(max_step_restarts=1, restart_delay=0.0, limits=Limits(max_takeovers=None))
    for _ in range(4):
        model = ScriptedModel([Step("one two three")])
        log = await play(model, history=history, options=options, after_each=lambda log: log.of("text_delta"))
        history += log.events
    failing = ScriptedModel([Step("one two", error="connection", error_after=1), Step("one two three")])
    log = await play(failing, history=history, options=options)
    history += log.events
    assert_whole(history)
    assert fold(history).text == "one two three"
    resets = [event for event in history if event.type == "step_reset"]
    assert [reset.attempt for reset in resets] == [2, 3, 4, 5, 6]  # type: ignore[union-attr]
    assert [reset.reason for reset in resets] == ["takeover"] * 4 + ["provider"]  # type: ignore[union-attr]


async def test_parts_are_never_used_again_over_resets():
    history: list[StreamEvent] = []
    for _ in range(3):
        log = await play(
            ScriptedModel([Step("a b", reasoning="r")]),
            history=history,
            after_each=lambda log: log.of("text_delta"),
        )
        history += log.events
    log = await play(ScriptedModel([Step("a b", reasoning="r")]), history=history)
    history += log.events
    assert_whole(history)  # which refuses a part that is used again
    assert [part.part for part in fold(history).parts] == [6, 7]


async def test_a_provider_id_withdrawn_by_a_reset_may_be_used_again():
    step = Step("x", calls=[Call("look", {"n": 1}, id="functions.look:0")])
    shop = Workshop()
    first = await play(
        ScriptedModel([step]), tools=shop.tools, after_each=lambda log: log.of("tool_call_delta")
    )
    log = await play(ScriptedModel([step, "Done."]), tools=shop.tools, history=first.events)
    assert log.of("tool_call")[0].call_id == "functions.look:0"
    assert_whole([*first.events, *log.events])


@pytest.mark.parametrize("last", ["error", "cancelled", "message_completed"])
async def test_an_ending_that_is_half_there_is_finished(last):
    context = RunContext()
    if last == "cancelled":
        whole = await play(
            ScriptedModel(["one two"]),
            context=context,
            after_each=lambda log: context.stop() if log.of("text_delta") else None,
        )
    else:
        whole = await play(ScriptedModel([Step("one two", error="bad_request", error_after=1)]))
    cut = whole.types().index(last) + 1
    log = await play(ScriptedModel([]), history=whole.events[:cut])
    assert isinstance(log.events[-1], Finalized)
    assert "run_resumed" not in log.types()
    assert_whole([*whole.events[:cut], *log.events])


async def test_a_log_that_is_over_yields_nothing():
    whole = await play(ScriptedModel(["x"]))
    assert (await play(ScriptedModel([]), history=whole.events)).events == []


async def test_the_reason_of_the_resumption_is_the_contexts():
    whole = await play(ScriptedModel(["x"]), after_each=lambda log: log.of("status"))
    context = RunContext(resumed="handover", worker="w2")
    log = await play(ScriptedModel(["x"]), history=whole.events, context=context)
    assert (log.events[0].reason, log.events[0].worker) == ("handover", "w2")  # type: ignore[union-attr]


async def test_a_run_that_was_taken_over_too_often_ends():
    whole = await play(ScriptedModel(["x y"]), after_each=lambda log: log.of("text_delta"))
    history = list(whole.events)
    for _ in range(3):
        log = await play(ScriptedModel(["x y"]), history=history, after_each=lambda log: log.of("text_delta"))
        history += log.events
    options = RunOptions(limits=Limits(max_takeovers=3))
    log = await play(ScriptedModel([]), history=history, options=options)
    assert (log.error.phase, log.error.code) == ("limit", "max_takeovers")
    assert_whole([*history, *log.events])
    assert log.text == "x", "the partial text stands"


async def test_only_takeovers_count_for_that_limit():
    whole = await play(ScriptedModel(["x y"]), after_each=lambda log: log.of("text_delta"))
    history = list(whole.events)
    for _ in range(3):
        log = await play(
            ScriptedModel(["x y"]),
            history=history,
            context=RunContext(resumed="handover"),
            after_each=lambda log: log.of("text_delta"),
        )
        history += log.events
    options = RunOptions(limits=Limits(max_takeovers=0))
    log = await play(
        ScriptedModel(["x y"]), history=history, options=options, context=RunContext(resumed="handover")
    )
    assert log.status == "success"


async def test_what_providers_want_back_survives_a_takeover():
    signed = Call("look", {"n": 1}, extra={"extra_content": {"google": {"thought_signature": "s"}}})
    shop = Workshop()
    first = await play(
        ScriptedModel([Step(calls=[signed])]),
        tools=shop.tools,
        after_each=lambda log: log.of("model_completed"),
    )
    model = ScriptedModel(["Done."])
    await play(model, tools=shop.tools, history=stored(first.events))
    (call,) = model.requests[0].messages[1].calls
    assert call.extra == {"extra_content": {"google": {"thought_signature": "s"}}}


async def test_hooks_of_a_finished_step_are_not_called_again():
    shop, steps = Workshop(), []
    whole = await shop.whole()
    cut = whole.types().index("step_finished") + 1
    hooks = Hooks(after_step=lambda context, step: steps.append(step.step))
    await play(shop.model(), tools=shop.tools, history=whole.events[:cut], options=RunOptions(hooks=hooks))
    assert steps == [2, 3]
