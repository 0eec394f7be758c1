"""`context.stop()`: at every point and in every phase the run ends cleanly, each call with one result."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import anyio
import pytest

from streamchat.core.fold import fold
from streamchat.core.history import result_text
from streamchat.errors import ModelError
from streamchat.messages import ToolCallPart
from streamchat.models.base import ModelOutput, ModelRequest
from streamchat.orchestration import run
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Hooks, RunOptions
from streamchat.orchestrator import orchestrate
from streamchat.testing import Call, ScriptedModel, Stall, Step
from streamchat.tools import ToolContext, ToolError, ToolOutcome, ToolRegistry, abandoned
from streamchat.tools.values import CANCELLED, STILL_RUNNING
from tests.orchestrator.support import (
    FAST,
    Log,
    Stubborn,
    Watched,
    assert_whole,
    asyncio_only,
    play,
    stored,
    until_blocked,
)

pytestmark = pytest.mark.anyio


def ready_tools() -> ToolRegistry:
    tools = ToolRegistry()

    @tools.tool
    async def quick(n: int = 0) -> int:
        return n

    @tools.tool
    def threaded() -> str:
        return "x"

    @tools.tool(idempotent=True, retries=1, retry_wait=0.0)
    async def flaky(ctx: ToolContext) -> str:
        ctx.progress("trying")
        if ctx.attempt == 1:
            raise ToolError("not yet", retry=True)
        return "x"

    return tools


def rich_steps() -> list[Step | str]:
    calls = [
        Call("quick", {"n": 1}),
        Call("threaded"),
        Call("flaky"),
        Call("nope"),
        Call("quick", {"n": "x"}),
    ]
    return [
        Step("Let me see.", reasoning="Hm", calls=calls),
        Step("So", error="connection", error_after=1),
        Step("So then", calls=[Call("quick", id="call_1_0")]),
        "Done.",
    ]


async def stopped_at(point: int, batch: int) -> Log:
    """Stop before the event with the number ``point`` is asked for."""
    context, log = RunContext(), Log()
    model = ScriptedModel(rich_steps(), batch=batch)
    async with aclosing(
        orchestrate(model, "hi", tools=ready_tools(), context=context, options=FAST)
    ) as events:
        while True:
            if len(log.events) == point:
                context.stop("enough", by="me")
            try:
                log.events.append(await anext(events))
            except StopAsyncIteration:
                return log


@pytest.mark.parametrize("batch", [1, 4])
async def test_stop_before_any_event_ends_the_run_cleanly(batch):
    whole = len((await stopped_at(-1, batch)).events)
    assert whole > 40
    cancelled = 0
    for point in range(whole + 1):
        log = await stopped_at(point, batch)
        assert_whole(log.events)
        if log.status == "cancelled":
            cancelled += 1
            assert (log.of("cancelled")[0].reason, log.of("cancelled")[0].by) == ("enough", "me")
    assert cancelled >= whole - 3, "only the ending itself is too late"


async def stop_when(
    model: ScriptedModel | Watched,
    reached: Callable[[Log], bool],
    *,
    tools: ToolRegistry | None = None,
    options: RunOptions = FAST,
    history: Sequence = (),
    also: Callable[[], object] = lambda: None,
) -> Log:
    """Stop while the generator waits for what comes after ``reached``."""
    context, log, there = RunContext(), Log(), anyio.Event()
    count = 0

    def look(log: Log) -> None:
        if reached(log):
            there.set()

    if reached(log):
        there.set()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def consume() -> None:
                await play(
                    model,
                    tools=tools,
                    context=context,
                    options=options,
                    log=log,
                    after_each=look,
                    history=history,
                )

            group.start_soon(consume)
            await there.wait()
            await until_blocked()
            count = len(log.events)
            context.stop("enough")
            context.stop("again")
            also()
    new = [event.type for event in log.events[count:]]
    assert new[-3:] == ["cancelled", "message_completed", "finalized"]
    assert log.of("cancelled")[0].reason == "enough"
    assert_whole([*history, *log.events])
    return log


def seen(kind: str, count: int = 1) -> Callable[[Log], bool]:
    return lambda log: len(log.of(kind)) >= count


async def test_stop_while_the_model_thinks():
    model = Watched(ScriptedModel([Step("never", stall_after=0)]))
    log = await stop_when(model, seen("status"))
    assert (log.text, model.open) == ("", 0)


async def test_stop_in_mid_stream_keeps_the_partial_text():
    model = Watched(ScriptedModel([Step("one two three", stall_after=2)]))
    log = await stop_when(model, seen("text_delta", 2))
    assert (log.text, model.open) == ("one two", 0)


async def test_the_response_is_closed_before_the_ending_is_handed_out():
    """Nothing more is paid for while somebody makes the ending durable."""
    model, context, still_open = Watched(ScriptedModel(["one two three"])), RunContext(), []

    def stop(log: Log) -> None:
        if len(log.of("text_delta")) == 1:
            context.stop()
        if log.of("cancelled"):
            still_open.append(model.open)

    await play(model, context=context, after_each=stop)
    assert still_open == [0, 0, 0]


async def test_stop_in_the_middle_of_a_call_that_streams_leaves_no_call():
    model = Watched(ScriptedModel([Step("Look:", calls=[Call("quick", {"n": 1})], stall_after=2)]))
    log = await stop_when(model, seen("tool_call_delta"), tools=ready_tools())
    assert [part.type for part in log.of("message_completed")[0].content] == ["text"]


async def test_stop_while_the_model_waits_to_ask_again():
    class Retrying(ScriptedModel):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
            async with aclosing(super().stream(request)) as batches:
                async for batch in batches:
                    yield batch
                    await anyio.sleep_forever()

    await stop_when(Retrying([Step("x", retries=1)]), seen("status", 2))


async def test_stop_that_the_model_takes_for_a_failure_keeps_the_partial_text():
    class Touchy(ScriptedModel):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
            async with aclosing(super().stream(request)) as batches:
                try:
                    async for batch in batches:
                        yield batch
                except anyio.get_cancelled_exc_class():
                    raise ModelError("the connection was closed", code="connection", retryable=True) from None

    log = await stop_when(Touchy([Step("one two three", stall_after=2)]), seen("text_delta", 2))
    assert (log.text, log.of("step_reset")) == ("one two", [])


async def test_stop_in_the_pause_before_a_restart():
    model = Watched(ScriptedModel([Step("one two", error="connection", error_after=1)]))
    log = await stop_when(model, seen("step_reset"), options=RunOptions(restart_delay=30))
    assert (log.text, model.open, model.asked) == ("", 0, 1)


async def test_stop_while_the_model_finishes_with_its_response(monkeypatch):
    monkeypatch.setattr(run, "_DRAIN_SECONDS", 1000.0)

    class Lingering(ScriptedModel):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
            async with aclosing(super().stream(request)) as batches:
                async for batch in batches:
                    yield batch
            await anyio.sleep_forever()

    log = await stop_when(
        Lingering([Step("all of it", calls=[Call("quick")])]), seen("model_completed"), tools=ready_tools()
    )
    assert log.text == "all of it"
    assert log.outcomes() == ["cancelled"]


@pytest.mark.parametrize("hook", ["before_run", "before_step", "after_step"])
async def test_stop_while_a_hook_waits(hook):
    entered = anyio.Event()

    async def wait(*arguments: object) -> None:
        entered.set()
        await anyio.sleep_forever()

    options = RunOptions(hooks=Hooks(**{hook: wait}))
    before = {"before_run": "run_started", "before_step": "step_started", "after_step": "model_completed"}
    await stop_when(ScriptedModel(["x"]), seen(before[hook]), options=options)
    assert entered.is_set()


async def test_stop_while_a_tool_runs():
    tools, entered, cleaned = ToolRegistry(), anyio.Event(), []

    @tools.tool
    async def work() -> None:
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append(True)

    tools.include(ready_tools())
    model = ScriptedModel([Step(calls=[Call("work"), Call("quick"), Call("nope")])])
    log = await stop_when(model, seen("tool_result", 2), tools=tools)
    assert {r.call_id: r.outcome for r in log.of("tool_result")} == {
        "call_1_0": "cancelled",
        "call_1_1": "ok",
        "call_1_2": "error",
    }
    assert cleaned == [True]


async def test_a_tool_may_await_while_it_cleans_up():
    tools, cleaned = ToolRegistry(), []

    @tools.tool
    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            cleaned.append(True)

    await stop_when(ScriptedModel([Step(calls=[Call("work")])]), seen("tool_started"), tools=tools)
    assert cleaned == [True]


@asyncio_only
async def test_on_asyncio_a_tool_may_await_in_its_finally_without_a_shield():
    """Cancellation comes once; an anyio scope would cut every further await."""
    tools, cleaned = ToolRegistry(), []

    @tools.tool
    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(0.01)
            cleaned.append(True)

    await stop_when(ScriptedModel([Step(calls=[Call("work")])]), seen("tool_started"), tools=tools)
    assert cleaned == [True]


@pytest.mark.parametrize("at", ["tool_started", "tool_progress"])
async def test_stop_while_a_tool_runs_in_a_thread(at):
    tools, release = ToolRegistry(), threading.Event()

    @tools.tool
    def work(ctx: ToolContext) -> str:
        ctx.progress("begun")
        while not ctx.cancelled and not release.is_set():
            time.sleep(0.002)
        raise ToolError("Given up.") if ctx.cancelled else AssertionError

    log = await stop_when(
        ScriptedModel([Step(calls=[Call("work")])]), seen(at), tools=tools, options=RunOptions(grace=10)
    )
    assert log.of("tool_result")[0].error == "Given up."


def told_when_cancelled(log: Log) -> tuple[str | None, str]:
    """The result's error, and what the model is told on the next turn."""
    (result,) = log.of("tool_result")
    assert result.outcome == "cancelled"
    (part,) = [part for part in fold(log.events).parts if isinstance(part, ToolCallPart)]
    return result.error, result_text(part)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("in_thread", [True, False])
async def test_the_result_of_a_call_that_had_begun_says_that_its_effect_is_not_known(ends, in_thread):
    tools, release, lets_go = ToolRegistry(), threading.Event(), anyio.Event()

    def threaded(ctx: ToolContext) -> str:
        while not release.is_set() and not (ends and ctx.cancelled):
            time.sleep(0.002)
        raise ValueError("no matter")

    async def task() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            if not ends:
                with anyio.CancelScope(shield=True):
                    await lets_go.wait()
        return "no matter"

    tools.add(threaded if in_thread else task, name="work")
    try:
        options = RunOptions(grace=30 if ends else 0.01)
        model = ScriptedModel([Step(calls=[Call("work")])])
        log = await stop_when(model, seen("tool_started"), tools=tools, options=options)
    finally:
        release.set()
        lets_go.set()
    error, words = told_when_cancelled(log)
    assert error == (CANCELLED if ends else STILL_RUNNING)
    assert error is not None
    assert error in words
    assert "Do not repeat it" in words
    with anyio.fail_after(10):
        while any(call.tool == "work" for call in abandoned()):
            await anyio.sleep(0.01)


async def test_the_result_of_a_call_that_never_began_says_so():
    tools, entered = ToolRegistry(), []

    @tools.tool(concurrency=1)
    async def work() -> None:
        entered.append(True)
        await anyio.sleep_forever()

    model = ScriptedModel([Step(calls=[Call("work"), Call("work")])])
    log = await stop_when(model, seen("tool_started"), tools=tools)
    parts = [part for part in fold(log.events).parts if isinstance(part, ToolCallPart)]
    assert [(part.attempts, part.error) for part in parts] == [(1, CANCELLED), (0, None)]
    assert result_text(parts[1]) == "The call was cancelled before it was started."
    assert entered == [True]


async def test_a_result_that_comes_within_the_grace_time_is_kept():
    """The side effect happened: a log that said "cancelled" would not be true."""
    tools, release = ToolRegistry(), threading.Event()

    @tools.tool
    def work() -> str:
        release.wait(10)
        return "sent"

    log = await stop_when(
        ScriptedModel([Step(calls=[Call("work")])]),
        seen("tool_started"),
        tools=tools,
        options=RunOptions(grace=10),
        also=release.set,
    )
    assert (log.outcomes(), log.of("tool_result")[0].output) == (["ok"], "sent")


async def test_a_kept_result_goes_through_the_hook_as_well():
    tools, release = ToolRegistry(), threading.Event()

    @tools.tool
    def work() -> str:
        release.wait(10)
        return "secret"

    def redact(context: ToolContext, call: object, outcome: ToolOutcome) -> ToolOutcome:
        return ToolOutcome(outcome.outcome, output="***")

    log = await stop_when(
        ScriptedModel([Step(calls=[Call("work")])]),
        seen("tool_started"),
        tools=tools,
        options=RunOptions(grace=10, hooks=Hooks(after_tool=redact)),
        also=release.set,
    )
    assert log.of("tool_result")[0].output == "***"


@pytest.mark.leaves_tasks
async def test_stop_while_a_tool_swallows_cancellation():
    tools, stubborn = ToolRegistry(), Stubborn()
    tools.add(stubborn, name="stubborn", description="d")
    log = await stop_when(
        ScriptedModel([Step(calls=[Call("stubborn")])]),
        seen("tool_started"),
        tools=tools,
        options=RunOptions(grace=0.05),
    )
    assert log.outcomes() == ["cancelled"]
    assert [call.tool for call in abandoned()] == ["stubborn"]
    stubborn.gate.set()
    with anyio.fail_after(5):
        await stubborn.left.wait()


async def test_stop_while_a_thread_ignores_it():
    tools, release = ToolRegistry(), threading.Event()

    @tools.tool
    def deaf() -> None:
        release.wait(20)

    try:
        log = await stop_when(
            ScriptedModel([Step(calls=[Call("deaf")])]),
            seen("tool_started"),
            tools=tools,
            options=RunOptions(grace=0.05),
        )
        assert log.outcomes() == ["cancelled"]
        assert [call.tool for call in abandoned()] == ["deaf"]
    finally:
        release.set()
    with anyio.fail_after(5):
        while abandoned():
            await anyio.sleep(0.005)


async def test_stop_while_calls_wait_for_their_permit():
    tools, ran = ToolRegistry(), []

    @tools.tool
    async def work(n: int) -> None:
        ran.append(n)
        await anyio.sleep_forever()

    calls = [Call("work", {"n": n}) for n in range(4)]
    log = await stop_when(
        ScriptedModel([Step(calls=calls)]),
        seen("tool_started"),
        tools=tools,
        options=RunOptions(max_concurrent_tools=1, grace=0.2),
    )
    assert (ran, log.outcomes()) == ([0], ["cancelled"] * 4)
    assert len(log.of("tool_started")) == 1


async def test_stop_after_a_start_was_handed_out_means_that_the_tool_never_runs():
    tools, ran = ToolRegistry(), []
    tools.add(lambda: ran.append(1), name="work", description="d")
    context, log = RunContext(), Log()

    def stop(log: Log) -> None:
        if log.events[-1].type == "tool_started":
            context.stop()

    await play(
        ScriptedModel([Step(calls=[Call("work")])]), tools=tools, context=context, log=log, after_each=stop
    )
    assert (ran, log.outcomes()) == ([], ["cancelled"])
    assert_whole(log.events)


async def test_stop_while_a_tool_waits_for_its_retry():
    tools = ToolRegistry()

    @tools.tool(idempotent=True, retries=3, retry_wait=60.0)
    async def flaky() -> None:
        raise ToolError("no", retry=True)

    log = await stop_when(ScriptedModel([Step(calls=[Call("flaky")])]), seen("tool_started"), tools=tools)
    assert (log.outcomes(), len(log.of("tool_started"))) == (["cancelled"], 1)


@pytest.mark.parametrize("hook", ["before_tool", "after_tool"])
async def test_stop_while_a_tools_hook_waits(hook):
    async def wait(*arguments: object) -> None:
        await anyio.sleep_forever()

    options = RunOptions(grace=0.05, hooks=Hooks(**{hook: wait}))
    model = ScriptedModel([Step(calls=[Call("quick")])])
    at = {"before_tool": "model_completed", "after_tool": "tool_started"}[hook]
    log = await stop_when(model, seen(at), tools=ready_tools(), options=options)
    assert log.outcomes() == [{"before_tool": "cancelled", "after_tool": "error"}[hook]]


async def test_stop_while_reconcile_is_asked_leaves_the_call_unknown():
    async def ask(context: ToolContext) -> None:
        await anyio.sleep_forever()

    history = await cut_off_history(reconcile=ask)
    tools = ToolRegistry()
    tools.add(never, name="pay", description="d", reconcile=ask)
    log = await stop_when(ScriptedModel([]), seen("run_resumed"), tools=tools, history=history)
    assert log.outcomes() == ["unknown"]


async def test_stop_while_an_idempotent_call_waits_for_the_earlier_attempt_to_end_leaves_it_unknown():
    history = await cut_off_history(idempotent=True)
    tools = ToolRegistry()
    tools.add(never, name="pay", description="d", idempotent=True, timeout=1000)
    now = int(time.time() * 1000)
    log = await stop_when(
        ScriptedModel([]), seen("run_resumed"), tools=tools, history=stored(history, at=now)
    )
    assert (log.outcomes(), log.of("tool_started")) == (["unknown"], [])


async def test_stop_at_the_first_event_of_a_takeover_leaves_a_started_call_unknown():
    history = await cut_off_history()
    tools, context = ToolRegistry(), RunContext()
    tools.add(never, name="pay", description="d")
    context.stop("enough")
    log = await play(ScriptedModel([]), tools=tools, context=context, history=history)
    assert log.types() == ["run_resumed", "tool_result", "cancelled", "message_completed", "finalized"]
    assert log.outcomes() == ["unknown"]
    assert_whole([*history, *log.events])


async def never() -> None:
    raise AssertionError("this call must not run here")


async def cut_off_history(**options: object) -> list:
    """A log that ends with a started call."""
    tools = ToolRegistry()
    tools.add(never, name="pay", description="d", **options)  # type: ignore[arg-type]
    log = await play(
        ScriptedModel([Step(calls=[Call("pay")])]), tools=tools, after_each=lambda log: log.of("tool_started")
    )
    return log.events


async def test_stop_by_a_tool_ends_its_own_run():
    tools, context = ToolRegistry(), RunContext()

    @tools.tool
    async def enough() -> str:
        context.stop("by the tool")
        return "stopped"

    log = await play(ScriptedModel([Step(calls=[Call("enough")])]), tools=tools, context=context)
    assert log.status == "cancelled"
    assert log.outcomes() == ["ok"], "what it returned is known"
    assert_whole(log.events)


async def test_stop_by_the_model_in_its_own_read_does_not_leak_a_cancellation():
    """Called from the very task that is being read for: nothing is cancelled that is not awaited."""
    context = RunContext()

    class Stopping(ScriptedModel):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
            async with aclosing(super().stream(request)) as batches:
                async for batch in batches:
                    context.stop("by the model")
                    yield batch

    log = await play(Stopping(["one two"]), context=context)
    await anyio.sleep(0)
    assert log.status == "cancelled"
    assert_whole(log.events)


async def test_a_model_that_will_not_close_is_not_waited_for_longer_than_the_grace_time():
    class Clinging(ScriptedModel):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
            try:
                async with aclosing(super().stream(request)) as batches:
                    async for batch in batches:
                        yield batch
            finally:
                await anyio.sleep_forever()

    context = RunContext()

    def stop(log: Log) -> None:
        if log.of("text_delta"):
            context.stop()

    with anyio.fail_after(10):
        log = await play(
            Clinging(["one two"]), context=context, after_each=stop, options=RunOptions(grace=0.05)
        )
    assert log.status == "cancelled"
    assert_whole(log.events)


async def test_a_model_that_raises_when_it_is_closed_changes_nothing():
    class Bad(ScriptedModel):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
            try:
                async with aclosing(super().stream(request)) as batches:
                    async for batch in batches:
                        yield batch
            finally:
                raise RuntimeError("cannot close")

    context = RunContext()

    def stop(log: Log) -> None:
        if log.of("text_delta"):
            context.stop()

    log = await play(Bad(["one two"]), context=context, after_each=stop)
    assert log.status == "cancelled"
    assert_whole(log.events)


async def test_a_stall_that_ends_after_the_stop_says_nothing_more():
    stall = Stall()
    model = ScriptedModel([Step("one two three", stall_after=1, stall=stall)])
    log = await stop_when(model, seen("text_delta"), also=stall.release)
    assert log.text.startswith("one")
