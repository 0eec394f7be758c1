"""A worker that goes, killed or in order, while a run waits: another goes on, whatever it waited for.

The provider speaks HTTP, and refuses with 400 any history in which a call has no answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

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
from streamchat.buffers.shared import now_ms
from streamchat.models import OpenAIChatModel
from streamchat.service.status import RunStatus, Started
from streamchat.testing import Call, Reply, ScriptedProvider, Step
from streamchat.tools import Deferred
from tests.buffers.backends import BACKENDS, Backend
from tests.buffers.redis_backend import Redis

from .support import Mortal, drain, log_of

pytestmark = pytest.mark.anyio


class World:
    """A store, a provider, and one process after the other."""

    def __init__(self, backend: Backend, store: EventBuffer, provider: ScriptedProvider, client: AsyncOpenAI):
        self.backend = backend
        self.store = store
        self.provider = provider
        self.client = client
        self.effects: Counter[str] = Counter()
        self.open_ones = AsyncExitStack()

    async def process(self) -> StreamChat:
        """Begin a process, with its own way to the store where the store can be shared."""
        store = self.store
        if self.backend.shares:
            store = await self.open_ones.enter_async_context(self.backend.open(store))
        mortal: Any = Mortal(store)
        chat = StreamChat(
            model=OpenAIChatModel(self.client, "scripted"),
            tools=self.tools(),
            buffer=mortal,
            allow_anonymous=True,
            on_busy="enqueue",
            options=RunOptions(tool_timeout=5.0, grace=0.1),
            limits=ServiceLimits(look_every=0.05, drain_seconds=0.0),
            lease_ttl=0.5,
        )
        return await chat.open()

    async def end(self, chat: StreamChat, *, killed: bool) -> None:
        chat.buffer.dead = killed  # type: ignore[attr-defined]
        await chat.close()

    def tools(self) -> ToolRegistry:
        tools = ToolRegistry()

        @tools.tool(requires_approval=True)
        async def pay(amount: int, ctx: ToolContext) -> str:
            self.effects[ctx.idempotency_key] += 1
            return f"paid {amount}"

        @tools.tool(client_side=True)
        def locate() -> str:
            raise AssertionError

        @tools.tool(deferred=True)
        async def render(ctx: ToolContext) -> Deferred:
            self.effects[ctx.idempotency_key] += 1
            return Deferred("Rendering.")

        @tools.tool
        async def note(ctx: ToolContext) -> str:
            self.effects[ctx.idempotency_key] += 1
            return "noted"

        return tools


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        "postgresql",
        pytest.param("mariadb", marks=pytest.mark.slow),
        pytest.param("redis", marks=pytest.mark.slow),
    ]
)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    kind: type[Backend] = {**BACKENDS, "redis": Redis}[request.param]
    backend = kind(tmp_path, request.getfixturevalue(kind.service) if kind.service else "")
    backend.clock = now_ms if request.param == "memory" else None
    async with backend.open() as store, ScriptedProvider() as provider, provider.client() as client:
        made = World(backend, store, provider, client)
        async with made.open_ones:
            yield made
        provider.assert_used_up()
        assert all(count == 1 for count in made.effects.values())


async def suspended(chat: StreamChat, run_id: str) -> RunStatus:
    while (await chat.buffer.get(run_id)).status != "suspended":
        await asyncio.sleep(0.01)
    return await chat.status(run_id)


async def called(world: World, chat: StreamChat, call: Call) -> tuple[Started, str]:
    """Begin a run whose one call waits for somebody; return the call's id too."""
    world.provider.add(Step("Let me see. ", calls=[call]), "Done.")
    started = await chat.start("c", "Go on")
    (wait,) = (await suspended(chat, started.run_id)).state.waits
    return started, wait.call_id


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
