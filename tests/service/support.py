"""A buffer that is watched, and disturbed, and what several tests of the service look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

from streamchat import EventBuffer, HistoryReset, Principal, StoredEvent, StreamChat, StreamEvent
from streamchat.buffers.base import Appended, Lease, NewEvent, Page
from streamchat.errors import BufferUnavailable, LeaseLost
from streamchat.service.log import read_log


class WatchedBuffer:
    """Passes everything on to another buffer; records the appends, and asks ``before`` and ``after`` each
    one."""

    def __init__(self, inner: EventBuffer) -> None:
        self.inner = inner
        self.batches: list[tuple[str, ...]] = []
        self.reads = 0
        self.before: Callable[[Sequence[NewEvent]], Any] | None = None
        self.after: Callable[[Sequence[NewEvent]], Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def close(self) -> None:
        """The fixture closes the inner one: a test may use it for a second service."""

    async def append(self, lease: Lease, events: Sequence[NewEvent], **more: Any) -> Appended:
        for ask in (self.before,):
            if ask is not None and (answer := ask(events)) is not None:
                await answer
        appended = await self.inner.append(lease, events, **more)
        self.batches.append(tuple(event.type for event in events))
        if self.after is not None and (answer := self.after(events)) is not None:
            await answer
        return appended

    async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        self.reads += 1
        return await self.inner.read(run_id, after, limit)


class Mortal:
    """A way to a store that a process loses when it dies: from then on nothing reaches the store.

    ``left`` is how much it still sees of the store before it dies, None for ever: each call counts before it
    is made and once more when it is done, so that what the store has done may never be heard of; ``unheard``
    names calls with which it dies so.
    """

    def __init__(self, inner: EventBuffer) -> None:
        self._inner = inner
        self.dead = False
        self.left: int | None = None
        self.unheard: Collection[str] = ()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*arguments: Any, **named: Any) -> Any:
            self._look(name)
            result = await found(*arguments, **named)
            self.dead = self.dead or name in self.unheard
            self._look(name)
            return result

        return call

    def _look(self, name: str) -> None:
        if self.left is not None:
            self.dead = self.dead or self.left <= 0
            self.left -= 1
        if self.dead:
            # A worker that lost its lease lets go at once, where it would ask an absent store again.
            kind = LeaseLost if name in ("append", "renew") else BufferUnavailable
            raise kind("this process has died")

    async def close(self) -> None:
        """The store outlives its processes."""


async def log_of(chat: StreamChat, run_id: str) -> list[StreamEvent]:
    """The events of a run, as they are stored."""
    return [stored.event for stored in await read_log(chat.buffer, run_id)]


async def paused(chat: StreamChat, run_id: str, principal: Principal | None = None) -> None:
    """Read a run until it is suspended."""
    async with chat.attach(run_id, principal=principal) as reading:
        async for event in reading:
            if event.type == "suspended":
                return
    raise AssertionError(f"run {run_id} never paused")


async def drain(chat: StreamChat, run_id: str, after: str | None = None) -> list[StoredEvent]:
    """Read a run from a cursor until it is over."""
    events: list[StoredEvent] = []
    async with await chat.attach(run_id, after) as subscription:
        while not subscription.finished:
            got = await subscription.next()
            assert got is not None
            assert not isinstance(got, HistoryReset)
            events += got
    return events
