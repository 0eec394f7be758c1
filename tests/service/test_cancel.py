"""A cancel, whatever the run is at: each call has exactly one result, and the next turn is one that a strict
provider takes: one that refuses calls without an answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from streamchat import (
    EventBuffer,
    RunOptions,
    ServiceLimits,
    StreamChat,
    ToolContext,
    ToolRegistry,
    check_log,
    fold,
)
from streamchat.errors import ModelError
from streamchat.models.base import ModelRequest
from streamchat.testing import Call, ScriptedModel, Stall, Step
from streamchat.testing.script import Flag
from streamchat.tools import Deferred

from .support import WatchedBuffer, drain, log_of

pytestmark = pytest.mark.anyio


class World:
    """A conversation with tools of each sort, and a model that calls the one that the user names."""

    def __init__(self, store: EventBuffer) -> None:
        self.stall, self.begun, self.told = Stall(), Flag(), Flag()
        self.busy = True
        self.outcomes: list[str] = []
        watched: Any = WatchedBuffer(store)
        self.chat = StreamChat(
            model=ScriptedModel(self.answer),
            tools=self.tools(),
            buffer=watched,
            allow_anonymous=True,
            on_busy="enqueue",
            options=RunOptions(grace=30.0, tool_timeout=30.0, restart_delay=30.0),
            limits=ServiceLimits(look_every=0.05),
        )

    def answer(self, request: ModelRequest) -> Step:
        asked = str(request.messages[-1].content)
        if asked == "think":
            return Step("Let me think about it.", stall_after=2, stall=self.stall)
        if asked == "break off":
            return Step("Well, ", error=ModelError("gone", code="connection", retryable=True), error_after=1)
        if asked.startswith("call "):
            return Step("Let me see. ", calls=[Call(asked[5:]), Call("quick")])
        return Step("Fine.")

    def tools(self) -> ToolRegistry:
        tools = ToolRegistry()

        @tools.tool
        async def quick() -> str:
            return "ok"

        @tools.tool
        async def waits() -> str:
            self.begun.set()
            await asyncio.Event().wait()
            return "never"

        @tools.tool
        def listens(ctx: ToolContext) -> str:
            self.begun.set()
            while not ctx.cancelled:
                time.sleep(0.01)
            self.told.set()
            return "told"

        @tools.tool(requires_approval=True)
        async def asks() -> str:
            raise AssertionError

        @tools.tool(client_side=True)
        def page() -> str:
            raise AssertionError

        @tools.tool(deferred=True)
        async def builds(ctx: ToolContext) -> Deferred:
            return Deferred("begun")

        return tools

    async def start(self, text: str) -> str:
        return (await self.chat.start("c", text)).run_id

    async def suspended(self, text: str) -> str:
        run_id = await self.start(text)
        while (await self.chat.buffer.get(run_id)).status != "suspended":
            await asyncio.sleep(0.01)
        return run_id


async def while_it_thinks(world: World) -> str:
    run_id = await world.start("think")
    await world.stall.reached()
    return run_id


async def while_it_waits_to_be_asked_again(world: World) -> str:
    run_id = await world.start("break off")
    while "retrying" not in [getattr(event, "status", None) for event in await log_of(world.chat, run_id)]:
        await asyncio.sleep(0.01)
    return run_id


async def in_a_tool(world: World) -> str:
    run_id = await world.start("call waits")
    await world.begun.wait()
    return run_id


async def in_a_thread(world: World) -> str:
    run_id = await world.start("call listens")
    await world.begun.wait()
    return run_id


async def at_an_approval(world: World) -> str:
    return await world.suspended("call asks")


async def at_a_tool_of_the_page(world: World) -> str:
    return await world.suspended("call page")


async def while_a_job_is_at_work(world: World) -> str:
    return await world.suspended("call builds")


async def in_the_line(world: World) -> str:
    await world.suspended("call asks")
    return await world.start("anything")


MOMENTS: dict[Callable[[World], Awaitable[str]], str | None] = {
    while_it_thinks: None,
    while_it_waits_to_be_asked_again: None,
    in_a_tool: "cancelled",
    in_a_thread: "ok",  # it heard of it, and returned
    at_an_approval: "cancelled",
    at_a_tool_of_the_page: "cancelled",
    while_a_job_is_at_work: "cancelled",
    in_the_line: None,
}


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
async def test_a_cancel_leaves_no_call_open_and_the_next_turn_works(
    any_store: EventBuffer, moment: Callable[[World], Awaitable[str]]
) -> None:
    world = World(any_store)
    async with world.chat as chat:
        run_id = await moment(world)
        await chat.cancel(run_id, reason="enough")
        await drain(chat, run_id)
        log = await log_of(chat, run_id)
        assert check_log(log) == "over"
        state = fold(log)
        assert state.status == "cancelled"
        results = Counter(event.call_id for event in log if event.type == "tool_result")
        assert results == Counter(call.call_id for call in state.calls)
        ended = MOMENTS[moment]
        assert [call.outcome for call in state.calls if call.name != "quick"] == ([ended] if ended else [])
        answer = await chat.start("c", "go on", on_busy="interrupt")
        await drain(chat, answer.run_id)
        assert (await chat.status(answer.run_id)).text == "Fine."
        if moment is in_a_thread:
            await world.told.wait()
