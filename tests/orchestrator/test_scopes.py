"""No cancel scope and no context variable leaks across a yield (PEP 789): consumers have their own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

import anyio
import pytest

from streamchat.models.base import ModelOutput, ModelRequest
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Hooks, Limits, RunOptions
from streamchat.orchestrator import orchestrate
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.testing.scripted import ScriptedStep
from streamchat.tools import ToolContext, ToolRegistry
from tests.orchestrator.support import FAST, Log, assert_whole, asyncio_only, play, until_blocked

pytestmark = pytest.mark.anyio

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def tools() -> ToolRegistry:
    registry = ToolRegistry()

    @registry.tool(timeout=30)
    async def look() -> int:
        await anyio.sleep(0)
        return 1

    @registry.tool
    def threaded() -> int:
        return 2

    return registry


def model() -> ScriptedModel:
    steps: list[ScriptedStep] = [
        Step("one two", calls=[Call("look"), Call("threaded")]),
        Step("three", error="connection", error_after=1),
        "three four",
    ]
    return ScriptedModel(steps)


# With a deadline there is a timer around every await.
OPTIONS = RunOptions(limits=Limits(deadline=30), restart_delay=0.0, grace=0.2)


async def test_a_scope_may_be_entered_before_and_left_after_any_event():
    """Scopes must nest within a task: if the generator held one over a yield, these would be misnested."""
    count = len((await play(model(), tools=tools(), options=OPTIONS)).events)
    for opened in range(0, count, 3):
        log = Log()
        events = orchestrate(model(), "hi", tools=tools(), options=OPTIONS)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(aclosing(events))
            with anyio.CancelScope() as scope:
                for _ in range(opened):
                    log.events.append(await anext(events))
            async for event in events:
                log.events.append(event)
                with anyio.move_on_after(10) as inner:
                    await anyio.lowlevel.checkpoint()
                assert not inner.cancelled_caught
            assert not scope.cancelled_caught
        assert_whole(log.events)


@pytest.mark.parametrize("library", ["anyio", "asyncio"])
async def test_a_timeout_of_the_consumer_hits_the_consumer_and_only_inside_of_it(library, anyio_backend_name):
    """The consumer's own work is cut off by its own timeout; the generator goes on unharmed."""
    if library == "asyncio" and anyio_backend_name != "asyncio":
        pytest.skip("an asyncio timeout needs asyncio")
    log, cut = Log(), 0
    async with aclosing(orchestrate(model(), "hi", tools=tools(), options=OPTIONS)) as events:
        async for event in events:
            log.events.append(event)
            if library == "asyncio":
                try:
                    async with asyncio.timeout(0):
                        await asyncio.sleep(10)
                except TimeoutError:
                    cut += 1
            else:
                with anyio.move_on_after(0) as scope:
                    await anyio.sleep(10)
                cut += scope.cancelled_caught
    assert cut == len(log.events)
    assert log.status == "success"
    assert_whole(log.events)


async def test_each_event_may_be_asked_for_within_a_scope_of_its_own():
    log = Log()
    async with aclosing(orchestrate(model(), "hi", tools=tools(), options=OPTIONS)) as events:
        while True:
            with anyio.fail_after(10):
                try:
                    log.events.append(await anext(events))
                except StopAsyncIteration:
                    break
    assert_whole(log.events)


async def test_each_event_may_be_asked_for_by_another_task():
    """A scope that was held over a yield could only be left by the task that entered it."""
    log = Log()
    events = orchestrate(model(), "hi", tools=tools(), options=OPTIONS)
    over = False

    async def ask() -> None:
        nonlocal over
        try:
            log.events.append(await anext(events))
        except StopAsyncIteration:
            over = True

    while not over:
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
    assert_whole(log.events)


async def test_closing_by_another_task_cleans_up():
    entered, cleaned = anyio.Event(), anyio.Event()
    registry = ToolRegistry()

    @registry.tool
    async def hang() -> None:
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.set()

    registry.include(tools())
    events = orchestrate(
        ScriptedModel([Step(calls=[Call("hang"), Call("look")])]), "hi", tools=registry, options=FAST
    )
    async for event in events:
        if event.type == "tool_result":
            break
    await entered.wait()
    async with anyio.create_task_group() as group:
        group.start_soon(events.aclose)
    assert cleaned.is_set()


async def test_context_variables_of_the_consumer_stay_its_own():
    """Neither tools nor their hooks change what the consumer has set; it may set and reset between events."""
    registry = ToolRegistry()

    @registry.tool
    async def look(ctx: ToolContext) -> str:
        before = variable.get()
        variable.set("by the tool")
        return before

    def meddle(*_: object) -> None:
        variable.set("by the hook")

    hooks = Hooks(before_tool=meddle)
    seen: list[str] = []
    run = orchestrate(
        ScriptedModel([Step("x", calls=[Call("look"), Call("look")]), "y"]),
        "hi",
        tools=registry,
        options=RunOptions(hooks=hooks),
    )
    async with aclosing(run) as events:
        variable.set("outer")
        async for event in events:
            assert variable.get() == "outer"
            token = variable.set("between events")
            seen.append(event.type)
            variable.reset(token)
    assert "tool_result" in seen
    assert variable.get() == "outer"


async def test_no_cancellation_is_left_pending_in_the_consumers_task():
    """After a stop, and after a deadline, whatever the consumer awaits next is not cut off."""
    for how in ("stop", "deadline"):
        context = RunContext()
        options = RunOptions(limits=Limits(deadline=0.05 if how == "deadline" else None), grace=0.2)
        stalled = ScriptedModel([Step("one two", stall_after=1)])

        async def run(stalled=stalled, context=context, options=options) -> None:
            async with aclosing(orchestrate(stalled, "hi", context=context, options=options)) as events:
                async for _ in events:
                    await anyio.sleep(0.001)
            await anyio.sleep(0.001)
            if asyncio_task() is not None:
                assert asyncio_task().cancelling() == 0

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await until_blocked()
            if how == "stop":
                context.stop()


def asyncio_task() -> asyncio.Task | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


@asyncio_only
async def test_a_stop_and_a_cancellation_in_the_same_moment_are_told_apart():
    """The cancellation is from outside and must go through, whichever came first."""
    for order in ("stop first", "cancel first"):
        context = RunContext()
        log = Log()
        task = asyncio.create_task(
            play(ScriptedModel([Step("one two", stall_after=1)]), context=context, log=log)
        )
        await until_blocked()
        if order == "stop first":
            context.stop()
            task.cancel()
        else:
            task.cancel()
            context.stop()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "finalized" not in log.types()


async def test_a_model_may_hold_scopes_of_its_own_within_a_read():
    class Scoped(ScriptedModel):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
            async with aclosing(super().stream(request)) as batches:
                while True:
                    with anyio.fail_after(5):
                        try:
                            batch = await anext(batches)
                        except StopAsyncIteration:
                            return
                    yield batch

    log = await play(Scoped(["one two three"]), options=OPTIONS)
    assert log.status == "success"


async def test_two_runs_side_by_side_in_one_task_do_not_meet():
    first = orchestrate(model(), "hi", tools=tools(), options=OPTIONS)
    second = orchestrate(model(), "hi", tools=tools(), options=OPTIONS)
    logs: list[list] = [[], []]
    async with aclosing(first), aclosing(second):
        over = [False, False]
        while not all(over):
            for index, events in enumerate((first, second)):
                try:
                    logs[index].append(await anext(events))
                except StopAsyncIteration:
                    over[index] = True
    for log in logs:
        assert_whole(log)
