"""Who does not know what became of a batch puts no other in its place, whatever the store says later."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import Any

import pytest

from streamchat import ServiceLimits, StoredEvent, StreamChat, ToolRegistry, check_log
from streamchat.buffers.base import NewEvent
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.errors import BufferUnavailable
from streamchat.service.log import read_log
from streamchat.testing import Call, ScriptedModel, Step

from .support import WatchedBuffer, drain

pytestmark = pytest.mark.anyio


async def test_a_suspension_that_is_refused_after_it_was_read_and_lost_lets_go_of_the_run() -> None:
    """Found by the model: the store loses a suspension that somebody has read, and takes an answer."""
    tools = ToolRegistry()
    paid: list[int] = []

    @tools.tool(requires_approval=True)
    async def pay(amount: int) -> str:
        paid.append(amount)
        return "paid"

    inner = MemoryEventBuffer(retention=None)
    watched: Any = WatchedBuffer(inner)
    read: list[StoredEvent] = []
    earlier: list[Any] = []

    async with StreamChat(
        model=ScriptedModel([Step(calls=[Call("pay", {"amount": 7}, id="p")]), "Done."]),
        tools=tools,
        buffer=watched,
        allow_anonymous=True,
        limits=ServiceLimits(look_every=0.05),
    ) as chat:

        def suspends(batch: Sequence[NewEvent]) -> bool:
            return bool(batch) and batch[-1].type == "suspended" and not read

        def before(batch: Sequence[NewEvent]) -> None:
            if suspends(batch):
                earlier[:] = [copy.deepcopy(inner._state)]

        async def fail_over(batch: Sequence[NewEvent]) -> None:
            if suspends(batch):
                read.extend(await read_log(inner, started.run_id))
                inner._state = earlier[0]
                await chat.resolve_approval(started.run_id, "p", True)
                raise BufferUnavailable("the answer is lost, and the store with it")

        watched.before, watched.after = before, fail_over
        started = await chat.start(None, "pay")
        async with asyncio.timeout(20):
            log = await drain(chat, started.run_id)

    assert read
    assert read[-1].type == "suspended"
    stands = {event.id: (event.type, event.data) for event in log}
    for event in read:
        assert stands.get(event.id, (event.type, event.data)) == (event.type, event.data)
    check_log(log)
    assert paid == [7]
    assert log[-1].type == "finalized"
