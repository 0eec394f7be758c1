"""Each principal's share: how many runs one may have and begin, and whose turn it is among those that
wait."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from streamchat.buffers.base import EventBuffer
from streamchat.errors import RunNotFound, TooManyRuns, TooManyStarts
from streamchat.principal import Principal

__all__ = ["FairQueue", "Pace", "Shares"]

_NEWEST = 100
_MINUTE = 60.0


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


class Pace:
    """Holds each principal to ``most`` starts within any 60 seconds of this process.

    It remembers the times of the last minute's starts, of principals who began something in it.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        # Those who started something last are last, so who has been quiet for a minute is found in front.
        self._starts: OrderedDict[tuple[str | None, str], deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._starts)

    def check(self, key: tuple[str | None, str]) -> None:
        """Raise `TooManyStarts`, with the time after which one more is within the bound."""
        starts = self._starts.get(key, ())
        now = self._clock()
        recent = [at for at in starts if at > now - _MINUTE]
        if len(recent) >= self._most:
            wait = recent[-self._most] + _MINUTE - now if self._most > 0 else _MINUTE
            raise TooManyStarts(
                f"the principal {key[1]!r} began {len(recent)} runs within a minute "
                f"(max_starts_per_minute={self._most})",
                retry_after=wait,
            )

    def began(self, key: tuple[str | None, str]) -> None:
        """Count a start."""
        now = self._clock()
        self._starts.setdefault(key, deque(maxlen=max(1, self._most))).append(now)
        self._starts.move_to_end(key)
        while (first := next(iter(self._starts))) != key and self._starts[first][-1] <= now - _MINUTE:
            del self._starts[first]


class Shares:
    """Holds each principal to ``most`` runs that are queued or at work, in whichever process, and to
    ``per_minute`` starts in this one (None: any number).

    The principal's newest conversations are looked at, one start after the other. So what several processes
    begin in the same instant may come to a few more.
    """

    def __init__(self, buffer: EventBuffer, most: int | None, per_minute: int | None = None) -> None:
        self._buffer = buffer
        self._most = most
        self._pace = None if per_minute is None else Pace(per_minute)
        self._locks: WeakValueDictionary[tuple[str | None, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def place(
        self, principal: Principal | None, conversation_id: str | None
    ) -> AsyncGenerator[None, None]:
        """Keep other starts of this principal waiting while a run is created in a conversation.

        What is at work in that conversation does not count: the conversation itself takes only one. Raises
        `TooManyRuns`, `TooManyStarts`.
        """
        key = _key(principal)
        if principal is None or key is None or (self._most is None and self._pace is None):
            yield
            return
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if self._pace is not None:
                self._pace.check(key)
            await self._check_at_work(principal, conversation_id)
            yield

    def began(self, principal: Principal | None) -> None:
        """Count a run that was created in its place."""
        key = _key(principal)
        if self._pace is not None and key is not None:
            self._pace.began(key)

    async def _check_at_work(self, principal: Principal, conversation_id: str | None) -> None:
        if self._most is not None:
            at_work = await self._at_work(principal, conversation_id, self._most)
            if at_work >= self._most:
                raise TooManyRuns(
                    f"{principal!r} has {at_work} runs queued or at work "
                    f"(max_runs_per_principal={self._most}); wait for one to end",
                    retry_after=2.0,
                )

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
