"""A worker that goes, killed or in order, while a run waits: another goes on, whatever it waited for.

The provider speaks HTTP, and refuses with 400 any history in which a call has no answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from streamchat import StreamChat, check_log, fold
from streamchat.errors import AnswerConflict, RunOver
from streamchat.service.status import Started
from streamchat.testing import Call, Reply, Step

from .support import drain, log_of
from .world import World, called

pytestmark = pytest.mark.anyio


async def an_approval(world: World, chat: StreamChat) -> tuple[Started, GoOn]:
    started, call_id = await called(world, chat, Call("pay", {"amount": 7}))
    return started, lambda other: other.resolve_approval(started.run_id, call_id, True)


async def a_client_tool(world: World, chat: StreamChat) -> tuple[Started, GoOn]:
    started, call_id = await called(world, chat, Call("locate", {}))
    return started, lambda other: other.submit_tool_result(started.run_id, call_id, "here")


async def a_job(world: World, chat: StreamChat) -> tuple[Started, GoOn]:
    started, call_id = await called(world, chat, Call("render", {}))
    return started, lambda other: other.complete_job(f"{started.run_id}:{call_id}", "film.mp4")


async def a_retry_pause(world: World, chat: StreamChat) -> tuple[Started, GoOn]:
    """The provider wants to be left alone for a minute after the first step."""
    busy = Reply(json={"error": {"message": "slow down"}}, status=429, headers={"retry-after": "60"})
    world.provider.add(Step(calls=[Call("note", {})]), busy, "Done.")
    started = await chat.start("c", "Go on")
    while not any(
        event.type == "status" and event.status == "retrying" for event in await log_of(chat, started.run_id)
    ):
        await asyncio.sleep(0.01)
    return started, nothing


async def a_place_in_the_line(world: World, chat: StreamChat) -> tuple[Started, GoOn]:
    first, call_id = await called(world, chat, Call("pay", {"amount": 7}))
    world.provider.add("Done.")
    started = await chat.start("c", "And then")
    assert started.enqueued
    return started, lambda other: other.resolve_approval(first.run_id, call_id, False)


async def nothing(chat: StreamChat) -> None:
    """The other process goes on by itself."""


@pytest.mark.parametrize("wait", [an_approval, a_client_tool, a_job], ids=lambda wait: wait.__name__)
async def test_a_wait_whose_time_ran_out_while_no_process_was_there_ends_by_itself(
    later_world: World, wait: Callable[[World, StreamChat], Awaitable[tuple[Started, GoOn]]]
) -> None:
    world = later_world
    chat = await world.process()
    started, go_on = await wait(world, chat)
    await world.end(chat, killed=True)
    world.backend.clock.jump(8 * 24 * 3600)
    other = await world.process()
    await drain(other, started.run_id)
    events = await log_of(other, started.run_id)
    assert check_log(events) == "over"
    assert [event.reason for event in events if event.type == "run_resumed"] == ["expired"]
    (call,) = fold(events).calls
    assert call.outcome == ("denied" if wait is an_approval else "timeout")
    assert call.error, "it says why"
    assert (await other.status(started.run_id)).text.endswith("Done.")
    with pytest.raises((RunOver, AnswerConflict)):
        await go_on(other)
    world.provider.add("Next.")
    assert (await other.reply("c", "And then?")).text == "Next."
    await world.end(other, killed=False)


GoOn = Callable[[StreamChat], Awaitable[None]]
WAITS = [an_approval, a_client_tool, a_job, a_retry_pause, a_place_in_the_line]


@pytest.mark.parametrize(
    "killed", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["killed", "in_order"]
)
@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
async def test_a_run_whose_worker_goes_while_it_waits_is_ended_by_another(
    world: World, wait: Callable[[World, StreamChat], Awaitable[tuple[Started, GoOn]]], killed: bool
) -> None:
    chat = await world.process()
    started, go_on = await wait(world, chat)
    await world.end(chat, killed=killed)
    other = await world.process()
    try:
        await go_on(other)
        await drain(other, started.run_id)
        assert (await other.status(started.run_id)).text.endswith("Done.")
        for run in {row.run_id for row in await other.history("c")}:
            assert run is not None
            events = await log_of(other, run)
            assert check_log(events) == "over"
            results = Counter(event.call_id for event in events if event.type == "tool_result")
            assert results == Counter(call.call_id for call in fold(events).calls)
    finally:
        await world.end(other, killed=False)
