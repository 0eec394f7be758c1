"""A store, a strict provider over HTTP, and processes of which one follows the other, killed or in order."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

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
from streamchat.testing import Call, ScriptedProvider, Step
from streamchat.tools import Deferred
from tests.buffers.backends import Backend

from .support import Mortal, drain, log_of


def options(**more: Any) -> RunOptions:
    """How runs go here; ``more`` is a test's own."""
    return RunOptions(tool_timeout=5.0, grace=0.1, **more)


class Jumping:
    """The time in milliseconds, by a clock that can be put on."""

    def __init__(self) -> None:
        self._ahead = 0

    def __call__(self) -> int:
        return now_ms() + self._ahead

    def jump(self, seconds: float) -> None:
        self._ahead += round(seconds * 1000)


class World:
    """A store, a provider, and one process after the other."""

    def __init__(self, backend: Backend, store: EventBuffer, provider: ScriptedProvider, client: AsyncOpenAI):
        self.backend = backend
        self.store = store
        self.provider = provider
        self.client = client
        self.effects: Counter[str] = Counter()
        self.open_ones = AsyncExitStack()
        self.alive: list[StreamChat] = []

    async def process(self, **more: Any) -> StreamChat:
        """Begin a process, with its own way to the store where the store can be shared.

        ``more`` takes the place of what the service is given; `options` makes its ``options``.
        """
        store = self.store
        if self.backend.shares:
            store = await self.open_ones.enter_async_context(self.backend.open(store))
        mortal: Any = Mortal(store)
        given: dict[str, Any] = {
            "model": OpenAIChatModel(self.client, "scripted"),
            "tools": self.tools(),
            "options": options(),
            **more,
        }
        chat = StreamChat(
            buffer=mortal,
            allow_anonymous=True,
            on_busy="enqueue",
            limits=ServiceLimits(look_every=0.05, drain_seconds=0.0),
            lease_ttl=1.5,  # shorter, it is lost on a busy machine, and a model's step is asked again
            **given,
        )
        self.alive.append(chat)
        return await chat.open()

    async def end(self, chat: StreamChat, *, killed: bool) -> None:
        chat.buffer.dead = killed  # type: ignore[attr-defined]
        await chat.close()
        self.alive.remove(chat)

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


async def suspended(chat: StreamChat, run_id: str) -> RunStatus:
    while (await chat.buffer.get(run_id)).status != "suspended":
        await asyncio.sleep(0.01)
    return await chat.status(run_id)


async def ended(chat: StreamChat, run_id: str) -> RunStatus:
    """Wait until a run is over; its log is legal, and each of its calls has one result."""
    await drain(chat, run_id)
    log = await log_of(chat, run_id)
    assert check_log(log) == "over"
    results = [event.call_id for event in log if event.type == "tool_result"]
    assert sorted(results) == sorted(call.call_id for call in fold(log).calls)
    return await chat.status(run_id)


async def called(world: World, chat: StreamChat, call: Call) -> tuple[Started, str]:
    """Begin a run whose one call waits for somebody; return the call's id too."""
    world.provider.add(Step("Let me see. ", calls=[call]), "Done.")
    started = await chat.start("c", "Go on")
    (wait,) = (await suspended(chat, started.run_id)).state.waits
    return started, wait.call_id
