"""Which runs a process takes, and when it leaves them to others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamchat import MemoryEventBuffer, StreamChat
from streamchat.buffers.base import Claim, Lease
from streamchat.testing import ScriptedModel, Stall, Step

from .support import WatchedBuffer, drain

pytestmark = pytest.mark.anyio


class SlowToRenew(WatchedBuffer):
    """Renewals wait until they are let through, as in a process or before a store that is too busy."""

    def __init__(self, inner: MemoryEventBuffer) -> None:
        super().__init__(inner)
        self.renewing = asyncio.Event()
        self.through = asyncio.Event()
        self.claims = 0

    async def renew(self, lease: Lease, ttl: float) -> Lease:
        self.renewing.set()
        await self.through.wait()
        return await self.inner.renew(lease, ttl)

    async def claim(self, worker: str, ttl: float, run_id: str | None = None, **more: Any) -> Claim | None:
        self.claims += 1
        return await self.inner.claim(worker, ttl, run_id, **more)


async def test_a_process_that_cannot_renew_what_it_has_takes_nothing_more() -> None:
    stall = Stall()
    model = ScriptedModel([Step("Slow answer", stall_after=1, stall=stall)], repeat=True)
    store: Any = SlowToRenew(MemoryEventBuffer())
    ttl = 0.9
    async with StreamChat(model=model, buffer=store, allow_anonymous=True, lease_ttl=ttl) as chat:
        first = await chat.start(None, "hi")
        await store.renewing.wait()  # a third of the ttl is over
        await asyncio.sleep(ttl / 2)  # what is awaited here is time itself: the second third
        before = store.claims
        second = await chat.start(None, "hi")
        for _ in range(20):  # the supervisor has looked by then
            await asyncio.sleep(0)
        assert store.claims == before
        stall.release()
        store.through.set()
        for run in (first, second):
            events = await drain(chat, run.run_id)
            assert events[-1].event.type == "finalized"
