"""Each principal's share: how many runs one may have, and whose turn it is among those that wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from streamchat.buffers.base import EventBuffer
from streamchat.errors import RunNotFound, TooManyRuns
from streamchat.principal import Principal

__all__ = ["FairQueue", "Shares"]

_NEWEST = 100


class FairQueue:
    """Ids of runs that wait, each principal's in order; the principals take turns."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[tuple[str | None, str] | None, OrderedDict[str, None]] = OrderedDict()
        self._lane_of: dict[str, tuple[str | None, str] | None] = {}

    def __len__(self) -> int:
        return len(self._lane_of)

    def add(self, run_id: str, principal: Principal | None) -> None:
        """Put a run behind those of the same principal; one that waits already keeps its place."""
        if run_id not in self._lane_of:
            key = _key(principal)
            self._lane_of[run_id] = key
            self._lanes.setdefault(key, OrderedDict())[run_id] = None

    def first(self) -> str | None:
        """Return the run whose turn it is; None where none waits."""
        lane = next(iter(self._lanes.values()), None)
        return None if lane is None else next(iter(lane))

    def remove(self, run_id: str) -> None:
        """Take a run out, if it is here; its principal's next turn comes after those of all others."""
        if run_id not in self._lane_of:
            return
        key = self._lane_of.pop(run_id)
        lane = self._lanes[key]
        del lane[run_id]
        if lane:
            self._lanes.move_to_end(key)
        else:
            del self._lanes[key]


class Shares:
    """Holds each principal to ``most`` runs that are queued or at work, in whichever process (None: any
    number).

    The principal's newest conversations are looked at, one start after the other. So what several processes
    begin in the same instant may come to a few more.
    """

    def __init__(self, buffer: EventBuffer, most: int | None) -> None:
        self._buffer = buffer
        self._most = most
        self._locks: WeakValueDictionary[tuple[str | None, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def place(
        self, principal: Principal | None, conversation_id: str | None
    ) -> AsyncGenerator[None, None]:
        """Keep other starts of this principal waiting while a run is created in a conversation.

        What is at work in that conversation does not count: the conversation itself takes only one. Raises
        `TooManyRuns`.
        """
        key = _key(principal)
        if self._most is None or principal is None or key is None:
            yield
            return
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            at_work = await self._at_work(principal, conversation_id, self._most)
            if at_work >= self._most:
                raise TooManyRuns(
                    f"{principal!r} has {at_work} runs queued or at work "
                    f"(max_runs_per_principal={self._most}); wait for one to end",
                    retry_after=2.0,
                )
            yield

    async def _at_work(self, principal: Principal, conversation_id: str | None, most: int) -> int:
        """How many of the principal's runs are queued or at work; counted up to ``most``."""
        found = 0
        newest = await self._buffer.conversations(principal.id, principal.tenant, limit=_NEWEST)
        for conversation in newest:
            run_id = conversation.active_run_id
            if run_id is None or conversation.conversation_id == conversation_id:
                continue
            try:
                run = await self._buffer.get(run_id)
            except RunNotFound:
                continue
            found += run.status in ("queued", "running")
            if found >= most:
                break
        return found


def _key(principal: Principal | None) -> tuple[str | None, str] | None:
    return None if principal is None else (principal.tenant, principal.id)
