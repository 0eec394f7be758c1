"""Hard ends: the generator cannot yield any more, so it cleans up, and the log can be concluded by others."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import anyio
import pytest

from streamchat.events import StreamEvent
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.orchestrator import orchestrate
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import ToolContext, ToolRegistry, abandoned
from tests.orchestrator.support import (
    FAST,
    Log,
    Stubborn,
    Watched,
    assert_concluded,
    asyncio_only,
    play,
    until_blocked,
)

pytestmark = pytest.mark.anyio


class Bench:
    """A run that waits at a known place: the model thinks, streams, or a tool works."""

    def __init__(self, place: str) -> None:
        self.tools = ToolRegistry()
        self.cleaned: list[str] = []
        self.entered = anyio.Event()

        @self.tools.tool
        async def work() -> None:
            self.entered.set()
            try:
                await anyio.sleep_forever()
            finally:
                self.cleaned.append("work")

        @self.tools.tool
        async def quick() -> str:
            return "x"

        steps = {
            "thinking": [Step("never", stall_after=0)],
            "streaming": [Step("one two three", stall_after=2)],
            "pause": [Step("one two", error="connection", error_after=1)],
            "tool": [Step("Look:", calls=[Call("quick"), Call("work")])],
        }[place]
        self.last = {
            "thinking": "status",
            "streaming": "text_delta",
            "pause": "status",
            "tool": "tool_result",
        }[place]
        self.count = {"thinking": 1, "streaming": 2, "pause": 2, "tool": 1}[place]
        self.place = place
        self.model = Watched(ScriptedModel(steps))
        self.log = Log()
        self.context = RunContext()
        self.options = RunOptions(restart_delay=30, grace=0.2)
        self.there = anyio.Event()

    def events(self) -> AsyncGenerator[StreamEvent, None]:
        return orchestrate(self.model, "hi", tools=self.tools, context=self.context, options=self.options)

    def reached(self) -> bool:
        return len(self.log.of(self.last)) >= self.count

    async def consume(self) -> None:
        """Read on, also past the place where the run waits."""
        async with aclosing(self.events()) as events:
            async for event in events:
                self.log.events.append(event)
                if self.reached():
                    self.there.set()

    async def waiting(self) -> None:
        await self.there.wait()
        await until_blocked()

    def assert_clean(self) -> None:
        assert self.model.open == 0, "the provider's response is closed"
        assert self.cleaned == (["work"] if self.entered.is_set() else [])
        assert self.entered.is_set() == (self.place == "tool")
        assert_concluded(self.log.events)


PLACES = ["thinking", "streaming", "pause", "tool"]


@pytest.mark.parametrize("place", PLACES)
async def test_an_outside_cancellation_cleans_up(place):
    bench = Bench(place)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(bench.consume)
            await bench.waiting()
            group.cancel_scope.cancel()
    bench.assert_clean()


@asyncio_only
@pytest.mark.parametrize("place", PLACES)
async def test_task_cancel_cleans_up_and_is_raised(place):
    bench = Bench(place)
    task = asyncio.create_task(bench.consume())
    await bench.waiting()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    bench.assert_clean()


@asyncio_only
@pytest.mark.parametrize("place", PLACES)
async def test_asyncio_timeout_around_the_loop_ends_it(place):
    bench = Bench(place)
    deadline = asyncio.timeout(None)

    async def consume() -> None:
        async with deadline:
            await bench.consume()

    task = asyncio.create_task(consume())
    await bench.waiting()
    deadline.reschedule(0)
    with pytest.raises(TimeoutError):
        await task
    bench.assert_clean()


@pytest.mark.parametrize("place", PLACES)
async def test_an_anyio_timeout_around_the_loop_ends_it(place):
    bench = Bench(place)
    ended = False

    async def consume() -> None:
        nonlocal ended
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await bench.consume()
        ended = scope.cancelled_caught

    scopes: list[anyio.CancelScope] = []
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await bench.waiting()
            scopes[0].cancel()
    assert ended
    bench.assert_clean()


POINTS = [
    "run_started",
    "step_started",
    "text_delta",
    "tool_call_delta",
    "model_completed",
    "tool_started",
    "tool_result",
]


@pytest.mark.parametrize("at", POINTS)
@pytest.mark.parametrize("how", ["break", "exception", "aclose"])
async def test_leaving_the_loop_early_cleans_up_at_once(how, at):
    bench = Bench("tool")
    with suppress(KeyError):
        async with aclosing(bench.events()) as events:
            async for event in events:
                bench.log.events.append(event)
                if not bench.log.of(at) or bench.context.more:
                    continue
                if how == "exception":
                    raise KeyError("the consumer's own")
                if how == "aclose":
                    await events.aclose()
                break
    assert bench.model.open == 0
    assert not bench.entered.is_set() or bench.cleaned == ["work"]
    assert_concluded(bench.log.events)


@pytest.mark.parametrize("place", ["streaming", "tool"])
async def test_aclose_raises_nothing_and_may_be_called_twice(place):
    bench = Bench(place)
    events = bench.events()
    async for event in events:
        bench.log.events.append(event)
        if bench.reached():
            break
    await events.aclose()
    await events.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    assert bench.model.open == 0


@asyncio_only
@pytest.mark.parametrize("at", ["text_delta", "tool_result"])
async def test_a_bare_break_cleans_up_a_little_later(at):
    bench = Bench("tool")

    async def consume() -> None:
        async for event in bench.events():
            if event.type == at:
                break

    await consume()
    gc.collect()
    with anyio.fail_after(5):
        while bench.model.open or (bench.entered.is_set() and not bench.cleaned):
            await asyncio.sleep(0)


async def test_a_generator_that_is_dropped_cleans_up():
    bench = Bench("tool")
    events = bench.events()
    async for event in events:
        if event.type == "tool_result":
            break
    await until_blocked()
    assert bench.entered.is_set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # trio says that this is no good style, rightly
        del events
        gc.collect()
        with anyio.fail_after(5):
            while not bench.cleaned:
                await anyio.sleep(0.001)
    assert bench.model.open == 0
    await until_blocked()


async def test_a_generator_that_was_never_started_leaves_nothing():
    bench = Bench("streaming")
    events = bench.events()
    await events.aclose()
    assert bench.model.asked == 0
    del events
    gc.collect()


@asyncio_only
async def test_a_second_cancellation_does_not_leave_the_tools_running():
    """The first cancels them, the second only ends the waiting for them."""
    bench = Bench("tool")
    stubborn = Stubborn()
    bench.options = RunOptions(grace=30)
    bench.tools = ToolRegistry()
    bench.tools.add(stubborn, name="work", description="d")
    bench.tools.add(lambda: "x", name="quick", description="d")
    task = asyncio.create_task(bench.consume())
    await bench.waiting()
    assert stubborn.entered.is_set()
    task.cancel()
    await until_blocked()
    assert not task.done(), "the tool has its grace time"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stubborn.gate.set()
    await asyncio.wait_for(stubborn.left.wait(), 5)
    await until_blocked()


async def test_a_hard_end_while_the_run_is_being_stopped_still_waits_for_the_tools():
    bench, cleaned, cleaning = Bench("tool"), [], anyio.Event()
    bench.tools = ToolRegistry()
    bench.options = RunOptions(grace=10)

    @bench.tools.tool
    async def work() -> None:
        bench.entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaning.set()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            cleaned.append(True)

    @bench.tools.tool
    async def quick() -> None:
        pass

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:

            async def consume() -> None:
                try:
                    await bench.consume()
                finally:
                    assert cleaned == [True], "the generator ended before its tool"

            group.start_soon(consume)
            await bench.waiting()
            bench.context.stop()
            await cleaning.wait()
            group.cancel_scope.cancel()
    assert cleaned == [True]
    assert_concluded(bench.log.events)


@pytest.mark.leaves_tasks
async def test_a_tool_that_swallows_the_hard_end_is_abandoned_after_the_grace_time():
    stubborn = Stubborn()
    bench = Bench("tool")
    bench.options = RunOptions(grace=0.05)
    bench.tools = ToolRegistry()
    bench.tools.add(stubborn, name="work", description="d")
    bench.tools.add(lambda: "x", name="quick", description="d")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(bench.consume)
            await bench.waiting()
            group.cancel_scope.cancel()
        assert [call.tool for call in abandoned()] == ["work"]
        stubborn.gate.set()
        await stubborn.left.wait()
    assert_concluded(bench.log.events)


async def test_a_thread_is_told_of_the_hard_end_and_waited_for():
    tools, told, entered = ToolRegistry(), threading.Event(), threading.Event()

    @tools.tool
    def work(ctx: ToolContext) -> None:
        entered.set()
        while not ctx.cancelled:
            pass
        told.set()

    model = ScriptedModel([Step(calls=[Call("work")])])

    async def consume() -> None:
        await play(model, tools=tools, options=RunOptions(grace=10))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            while not entered.is_set():
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()
    assert told.is_set(), "the end of the generator came after the thread's"


async def test_a_model_that_fails_to_close_does_not_keep_the_tools_from_being_ended():
    class Bad(ScriptedModel):
        async def stream(self, request):
            try:
                async with aclosing(super().stream(request)) as batches:
                    async for batch in batches:
                        yield batch
            finally:
                raise RuntimeError("cannot close")

    log = Log()
    with suppress(KeyError):
        async with aclosing(orchestrate(Bad(["one two"]), "hi", options=FAST)) as events:
            async for event in events:
                log.events.append(event)
                if event.type == "text_delta":
                    raise KeyError
    assert_concluded(log.events)


@asyncio_only
async def test_the_end_of_the_loop_ends_the_run():
    """`asyncio.run` cancels what is left and closes generators; that must not hang or complain."""
    bench = Bench("tool")

    def run() -> None:
        async def main() -> None:
            bench.entered = anyio.Event()
            events = bench.events()
            kept.append(events)
            async for event in events:
                if event.type == "tool_result":
                    break

        asyncio.run(main())

    kept: list[object] = []
    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.005)
    assert bench.model.open == 0
    assert bench.cleaned == ["work"]
