"""What holds on asyncio alone: a cancellation is one moment and not a state, and loops end early."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest
from anyio import Event

from streamchat.tools import ToolContext, abandoned, run_attempt, settle
from tests.tools.support import LIMIT, Watched, make, stubborn


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.mark.anyio
async def test_a_tools_cleanup_may_await_without_a_shield(watched: Watched) -> None:
    said = []

    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(0.001)
            said.append("cleaned")

    async def call() -> None:
        await run_attempt(make(slow), {}, watched.context())

    # Both ways in: a time limit, and an anyio scope around the caller, which cancels by level.
    await run_attempt(make(slow, timeout=LIMIT), {}, watched.context())
    with anyio.move_on_after(LIMIT):
        await call()
    assert said == ["cleaned", "cleaned"]


@pytest.mark.anyio
async def test_a_second_cancellation_ends_the_wait_and_the_tool_is_abandoned(watched: Watched) -> None:
    release, begun = Event(), Event()
    tool = make(stubborn(release))

    async def call() -> None:
        begun.set()
        await run_attempt(tool, {}, watched.context(), grace=30)

    task = asyncio.create_task(call())
    await begun.wait()
    for _ in range(2):
        await asyncio.sleep(0.005)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(abandoned()) == 1
    release.set()
    assert await settle(30)


def test_a_thread_that_outlives_its_loop_gives_its_slot_back_when_it_ends(watched: Watched) -> None:
    release = threading.Event()
    runs: list[threading.Thread] = []

    def tool(ctx: ToolContext) -> None:
        runs.append(threading.current_thread())
        release.wait()
        ctx.progress("to nobody")

    made = make(tool, timeout=LIMIT, concurrency=1)
    assert made.slots is not None
    outcome = asyncio.run(run_attempt(made, {}, watched.context(), grace=0))
    assert outcome.abandoned
    assert made.slots.in_use == 1
    assert [call.in_thread for call in abandoned()] == [True]
    release.set()
    runs[0].join(30)
    assert made.slots.in_use == 0
    assert abandoned() == []
    assert watched.events == []


def test_a_loop_that_ends_under_an_attempt_ends_its_tool(watched: Watched) -> None:
    ended = []

    async def tool(ctx: ToolContext) -> None:
        try:
            ctx.deps.set()
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async def main() -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(run_attempt(make(tool), {}, watched.context(deps=begun)))
        await begun.wait()
        assert not task.done()

    asyncio.run(main())
    assert ended == [True]
    assert abandoned() == []
