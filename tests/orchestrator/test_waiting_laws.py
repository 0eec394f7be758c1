"""Laws of runs that wait: whatever is cut, answered or stopped, each call comes to exactly one result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamchat.core.answers import Answer, AnswerKind, used_by
from streamchat.core.fold import fold
from streamchat.core.lifecycle import BARRIERS
from streamchat.events import StreamEvent, Suspended, Wait
from streamchat.messages import ToolCallPart
from streamchat.models.base import ModelRequest
from streamchat.orchestration.options import Limits, RunOptions
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import Deferred, ToolContext, ToolRegistry
from tests.orchestrator.support import Log, assert_concluded, assert_whole
from tests.orchestrator.waiting import Desk

some = settings(max_examples=settings.default.max_examples // 2)

OPTIONS = RunOptions(
    max_step_restarts=0,
    grace=0.2,
    tool_timeout=None,
    approval_timeout=1000,
    client_timeout=1000,
    job_timeout=1000,
    limits=Limits(max_takeovers=None),
)
KINDS: dict[str, AnswerKind] = {"approval": "approval", "tool_result": "tool_result", "job": "job_result"}


@dataclass
class Shop:
    """Tools of every sort, and which calls they really began."""

    began: Counter[str] = field(default_factory=Counter)
    idempotent: set[str] = field(default_factory=set)

    def tools(self) -> ToolRegistry:
        tools = ToolRegistry()

        def note(ctx: ToolContext) -> str:
            self.began[ctx.call_id] += 1
            return ctx.call_id

        @tools.tool(requires_approval=lambda ctx, arguments: "May it?")
        async def pay(ctx: ToolContext, n: int = 0) -> str:
            return note(ctx)

        @tools.tool(client_side=True)
        def ask(n: int = 0) -> str:
            raise AssertionError

        @tools.tool(deferred=True)
        async def render(ctx: ToolContext, n: int = 0) -> Deferred:
            note(ctx)
            return Deferred("begun")

        @tools.tool(deferred=True, wait_for_job=False)
        async def index(ctx: ToolContext, n: int = 0) -> Deferred:
            note(ctx)
            return Deferred("begun")

        @tools.tool(deferred=True, requires_approval=True, after_job="end")
        async def publish(ctx: ToolContext, n: int = 0) -> Deferred:
            note(ctx)
            return Deferred("begun")

        @tools.tool(idempotent=True)
        async def look(ctx: ToolContext, n: int = 0) -> str:
            self.idempotent.add(ctx.call_id)
            return note(ctx)

        @tools.tool
        async def once(ctx: ToolContext, n: int = 0) -> str:
            return note(ctx)

        return tools


def model_of(steps: Sequence[Step]) -> ScriptedModel:
    """Goes by the history that it is given, as models do, and is as strict as providers are."""

    def answer(request: ModelRequest) -> Step:
        done = sum(message.role == "assistant" for message in request.messages)
        return steps[min(done, len(steps) - 1)]

    return ScriptedModel(answer, batch=3)


def body_for(kind: str, how: str) -> dict[str, Any]:
    if kind == "approval":
        edited = {"arguments": {"n": 9}} if how == "edit" else {}
        return {"approved": how != "no", **edited}
    return {"error": "it failed"} if how == "no" else {"output": "from outside"}


def check(events: Sequence[StreamEvent], shop: Shop) -> None:
    """What holds of every log, at any time."""
    starts = Counter(event.call_id for event in events if event.type == "tool_started")  # type: ignore[union-attr]
    for call_id, count in shop.began.items():
        assert count <= starts[call_id], "nothing runs that was not claimed"
        assert call_id in shop.idempotent or count == 1
    for call in fold(events).calls:
        if call.approval is not None and call.approval.approved is not True:
            assert shop.began[call.call_id] == 0, "what nobody agreed to never runs"
        if call.name in ("pay", "publish") and shop.began[call.call_id]:
            assert call.approval is not None
            assert call.approval.approved
        if call.executed_by == "client":
            assert starts[call.call_id] == 0


# Every cut of one run.

STEPS = [
    Step(
        "Let me see.",
        calls=[
            Call("pay", id="yes"), Call("pay", id="no"), Call("pay", id="edit"), Call("ask", id="ask"),
            Call("render", id="render"), Call("look", id="look"), Call("once", id="once"), Call("nope"),
        ],
    ),
    Step("Then this.", calls=[Call("index", id="index"), Call("publish", id="publish")]),
    Step("Nearly.", calls=[Call("once", id="again")]),
    Step("All is done."),
]  # fmt: skip
HOW = {"no": "no", "edit": "edit"}


def desk_for(shop: Shop) -> Desk:
    return Desk(model_of(STEPS), shop.tools(), OPTIONS)


async def to_its_end(desk: Desk, posted: dict[tuple[str, str], int]) -> None:
    """Answer whatever a suspended run waits for, one wait at a time, until it is over."""
    for _ in range(40):
        await desk.live()
        if desk.state.over:
            return
        suspended = desk.events[-1]
        assert isinstance(suspended, Suspended)
        answer_first(desk, suspended.waits, posted)
    raise AssertionError("it goes on for ever")


def answer_first(desk: Desk, waits: Sequence[Wait], posted: dict[tuple[str, str], int]) -> None:
    wait = waits[0]
    kind = KINDS[wait.kind]
    desk.post(kind, wait.call_id, **body_for(wait.kind, HOW.get(wait.call_id, "ok")))
    posted[kind, wait.call_id] = len(desk.events)


@pytest.mark.anyio
async def test_a_run_with_every_sort_of_wait_goes_on_from_every_cut_of_its_log():
    posted: dict[tuple[str, str], int] = {}
    first = Shop()
    whole = desk_for(first)
    await to_its_end(whole, posted)
    check(whole.events, first)
    assert_whole(whole.events)
    expected = {call.call_id: call for call in whole.state.calls}
    assert len(posted) == 8
    for cut in range(len(whole.events) + 1):
        prefix = whole.events[:cut]
        shop = Shop()
        desk = desk_for(shop)
        desk.events = list(prefix)
        used = {key for event in prefix for key in used_by(event)}
        desk.inbox = [
            Answer(kind, call_id, body_for(_wait_kind(kind), HOW.get(call_id, "ok")), at=desk.now)  # type: ignore[arg-type]
            for (kind, call_id), at in posted.items()
            if at <= cut and (kind, call_id) not in used
        ]
        await to_its_end(desk, {})
        check_cut(prefix, desk, shop, expected)


def _wait_kind(kind: str) -> str:
    return "job" if kind == "job_result" else kind


def check_cut(
    prefix: Sequence[StreamEvent], desk: Desk, shop: Shop, expected: dict[str, ToolCallPart]
) -> None:
    at = f"cut at {len(prefix)}"
    assert_whole(desk.events)
    assert desk.state.status == "success", at
    assert desk.state.text == "Let me see.Then this.Nearly.All is done.", at
    before = {call.call_id: call for call in fold(prefix).calls}
    for call in desk.state.calls:
        was = before.get(call.call_id)
        if was is not None and was.state in ("done", "deferred"):
            assert shop.began[call.call_id] == 0, at
        if was is not None and was.state == "running" and call.name != "look":
            assert shop.began[call.call_id] == 0, at
            assert call.outcome in ("unknown", "ok"), at
        else:
            assert (call.outcome, call.output) == (
                expected[call.call_id].outcome,
                expected[call.call_id].output,
            ), at
    assert all(count == 1 for count in shop.began.values()), at


# Random scripts, answers, deaths and stops.

NAMES = ["pay", "ask", "render", "index", "publish", "look", "once", "nope"]
turns = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)


@dataclass(frozen=True)
class Round:
    """What comes from outside, how time passes, and then one life of a worker: ``death`` ends it early."""

    answers: tuple[tuple[int, str], ...]
    stray: tuple[int, AnswerKind] | None
    hours: int
    death: tuple[int, int] | None


rounds = st.builds(
    Round,
    answers=st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["ok", "edit", "no", "ok"])), min_size=1, max_size=3
    ).map(tuple),
    stray=st.none() | st.tuples(st.integers(0, 9), st.sampled_from(list(KINDS.values()))),
    hours=st.sampled_from([0, 0, 0, 1]),
    death=st.none() | st.tuples(st.integers(1, 15), st.integers(0, 2)),
)


def script_of(wanted: Sequence[Sequence[str]]) -> list[Step]:
    steps = [
        Step(f"Step {number}.", calls=[Call(name, id=f"c{number}{at}") for at, name in enumerate(names)])
        for number, names in enumerate(wanted)
    ]
    return [*steps, Step("The end.")]


async def run_random(wanted: Sequence[Sequence[str]], lives: Sequence[Round], stop_at: int | None) -> None:
    shop = Shop()
    desk = Desk(model_of(script_of(wanted)), shop.tools(), OPTIONS)
    for one in lives:
        if desk.events and desk.state.over:
            break
        for number, how in one.answers:
            post_some(desk, number, how)
        if one.stray is not None:
            post_stray(desk, *one.stray)
        desk.now += one.hours * 3_600_000
        if one.death is None:
            await desk.live()
        else:
            await die(desk, *one.death)
        check(desk.events, shop)
        if desk.events:
            assert_concluded(desk.events)
    if stop_at is not None:

        def stop(log: Log) -> None:
            if len(log.events) >= stop_at:
                desk.context.stop("enough")

        await desk.live(stop)
    # Whatever has happened: answers, or else time, bring it to its end.
    for _ in range(60):
        if desk.events and desk.state.over:
            break
        await desk.live()
        assert not desk.inbox or desk.state.over, "what is not taken would keep the run from resting"
        desk.now += 1_000_000
    assert_whole(desk.events)
    check(desk.events, shop)
    assert desk.state.status == "success" or stop_at is not None
    assert not desk.model.problems, "no strict provider would have refused"  # type: ignore[attr-defined]


def post_some(desk: Desk, number: int, how: str) -> None:
    """Answer one of the waits that the log tells of, unless that was done."""
    waits = desk.state.waits if desk.events else ()
    if not waits:
        return
    wait = waits[number % len(waits)]
    kind = KINDS[wait.kind]
    late = wait.expires_at is not None and desk.now >= wait.expires_at
    if not late and not any((a.kind, a.call_id) == (kind, wait.call_id) for a in desk.inbox):
        desk.post(kind, wait.call_id, **body_for(wait.kind, how))


def post_stray(desk: Desk, number: int, kind: AnswerKind) -> None:
    """An answer that came past the door: of a kind, or to a call, that waits for nothing of the sort."""
    calls = desk.state.calls if desk.events else ()
    if calls:
        call = calls[number % len(calls)]
        if not any(w.call_id == call.call_id and KINDS[w.kind] == kind for w in desk.state.waits):
            desk.inbox.append(Answer(kind, call.call_id, {"approved": True, "output": 1}, at=desk.now))


async def die(desk: Desk, batches: int, lost: int) -> None:
    """One life that ends after so many batches; the store lacks the last ones, as far as barriers allow."""
    events, inbox = list(desk.events), list(desk.inbox)
    log = await desk.live(lambda log: len(log.borders) >= batches)
    borders = [0, *log.borders]
    end = len(borders) - 1
    while lost and end > 0:
        batch = log.events[borders[end - 1] : borders[end]]
        if end < len(borders) - 1 and any(event.type in BARRIERS for event in batch):
            break
        end, lost = end - 1, lost - 1
    desk.events, desk.inbox = events, inbox
    desk.keep(log.events[: borders[end]])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@some
@given(
    wanted=st.lists(turns, min_size=1, max_size=3),
    lives=st.lists(rounds, min_size=2, max_size=8),
    stop_at=st.none() | st.integers(1, 20),
)
def test_nothing_leaves_a_call_without_its_result_or_a_run_that_nothing_wakes(
    backend, wanted, lives, stop_at
):
    anyio.run(run_random, wanted, lives, stop_at, backend=backend)


def test_the_log_of_a_life_is_kept_whole_unless_it_died() -> None:
    """The harness itself: what `die` forgets is never behind a barrier."""

    async def main() -> None:
        desk = desk_for(Shop())
        await die(desk, 100, 0)
        assert isinstance(desk.events[-1], Suspended)
        length = len(desk.events)
        desk.approve("yes")
        await die(desk, 2, 2)
        assert len(desk.events) == length + 1, "run_resumed was durable before the next was asked for"
        assert len(desk.inbox) == 1

    anyio.run(main)
