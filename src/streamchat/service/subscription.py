"""One reader of one run: what it was given, and what it is given next.

A subscription that is slow falls out of its topic's window and reads the store by itself until it has caught
up: it is never dropped silently, holds nothing in memory meanwhile, and slows nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from streamchat.buffers.base import EventBuffer, Page
from streamchat.core.cursor import Cursor, Reset, resolve
from streamchat.errors import Busy
from streamchat.events import TERMINAL, StoredEvent
from streamchat.service.topic import PAGE, TELLING, Encoder, Follower, HistoryReset, Topic, encode_all

__all__ = ["Home", "Subscription"]

_SOON = 1.0
"""Seconds until a reader should come back whose process shuts down."""

_Given: TypeAlias = HistoryReset | Sequence[StoredEvent]


class Home(Protocol):
    """What a subscription needs of the hub that made it."""

    buffer: EventBuffer
    leaving: bool

    async def make_reset(self, run_id: str, reason: str) -> HistoryReset:
        """See `Hub.make_reset`."""
        ...

    async def leave(self, topic: Topic) -> None:
        """See `Hub.leave`."""
        ...


class Subscription(Follower):
    """One reader of one run; made by `Hub.subscribe`, used by one task, closed by whoever opened it.

    ``cursor`` is what a client may be primed with: it moves with what was handed out. ``finished`` means that
    the terminal event was handed out, here or before this cursor. Whoever ends a connection that its client
    would have kept sets ``returning``: in how many seconds the client was told to come back.
    """

    __slots__ = (
        "_closed",
        "_epoch",
        "_followed",
        "_hub",
        "_reset",
        "_topic",
        "_waiter",
        "finished",
        "on_close",
        "returning",
        "suspended",
    )

    def __init__(self, hub: Home, topic: Topic, generation: str, after: int, *, finished: bool) -> None:
        self._hub = hub
        self._topic = topic
        self.generation = generation
        self.after = after
        self._epoch = topic.epoch
        self._reset: HistoryReset | None = None
        self._closed = False
        self._waiter: asyncio.Future[Any] | None = None
        self._followed: Encoder | None = None
        self.finished = finished
        self.suspended = False
        self.returning: float | None = None
        self.on_close: Callable[[Subscription], None] | None = None

    @property
    def run_id(self) -> str:
        """The run that is read."""
        return self._topic.run_id

    @property
    def cursor(self) -> str:
        """The id of the last thing handed out, or where the reading begins."""
        return f"{self.generation}.{self.after}"

    def next(self, seconds: float | None = None) -> Coroutine[Any, Any, _Given | None]:
        """Return what is there now, waiting for something at most ``seconds``; None when time runs out.

        None comes at once when there is nothing more to give here (`Hub.farewell`): come back elsewhere.

        Raises StopAsyncIteration after the terminal event and after `close`, `RunNotFound` when the run is
        gone, `BufferUnavailable`. Cancelled, it loses nothing.
        """
        return self._next(None, seconds)

    def next_bytes(self, encoder: Encoder, seconds: float | None = None) -> Coroutine[Any, Any, bytes | None]:
        """Return the same as `next`, encoded, all that is pending joined into one."""
        return self._next(encoder, seconds)

    @property
    def idle(self) -> bool:
        """Whether `next` would wait now."""
        return not (self._closed or self.finished) and self.after == self._topic.head

    def pull(self, encoder: Encoder) -> bytes | asyncio.Future[bool | bytes] | None:
        """Return what `next_bytes` would where it is there; or a future for it, to be awaited before the next
        call.

        None says that only `next_bytes` can tell: the end, a reset, what the store must be asked for. The
        future's result is the next bytes; or True where something has happened, and False after `nudge`: ask
        again. Its bytes count as handed out, so whoever is cancelled while awaiting it closes the
        subscription. Every delivery to every stream comes this way, without a coroutine.
        """
        topic = self._topic
        if self._closed or self.finished or self._reset is not None or self._epoch != topic.epoch:
            return None
        if self.after < topic.head:
            return self._bytes(encoder) if topic.base <= self.after else None
        if topic.error is not None or (self._hub.leaving and topic.current):
            return None
        if self.suspended:  # which what comes next may change
            self._waiter = topic.waiter()
            return self._waiter
        self.waiter = waiter = topic.new_waiter()
        if self._followed is not encoder:
            self._unfollow()
            self._followed = encoder
            topic.follow(self, encoder)
        return waiter

    async def _next(self, encoder: Encoder | None, seconds: float | None) -> Any:
        """What `next` and `next_bytes` promise."""
        topic = self._topic
        while True:
            if self._closed or self.finished:
                raise StopAsyncIteration
            if self._epoch != topic.epoch:
                self._epoch = topic.epoch
                await self._judge_again()
            if self._reset is not None:
                reset = self._take_reset()
                return reset if encoder is None else encoder.reset(reset)
            if topic.base <= self.after < topic.head:
                if encoder is not None:
                    return self._bytes(encoder)
                return self._handed_out(topic.after(self.after))
            if self.after < topic.base:
                page = await self._page_behind_the_window()
                if page is None:
                    continue
                events = self._handed_out(page.events)
                return events if encoder is None else b"".join(encode_all(encoder, events))
            if topic.error is not None:
                raise topic.error
            if self._hub.leaving and topic.current:
                return None
            if not await self._wait(seconds):
                return None

    def _bytes(self, encoder: Encoder) -> bytes:
        data, last = self._topic.bytes_after(self.after, encoder)
        self.after, self.generation = last.seq, last.generation
        if last.type in TELLING:
            self._note(last)
        elif self.suspended:
            self.suspended = False
        return data

    async def _wait(self, seconds: float | None) -> bool:
        self._waiter = waiter = self._topic.waiter()
        timer = None
        if seconds is not None:
            timer = asyncio.get_running_loop().call_later(seconds, _time_out, waiter)
        woken = False
        try:
            woken = bool(await waiter)
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
            if not woken:  # the topic forgets those that it wakes
                self._topic.give_up()
        return woken

    async def _page_behind_the_window(self) -> Page | None:
        page = await self._hub.buffer.read(self.run_id, self.after, PAGE)
        verdict = resolve(Cursor(self.generation, self.after), page.segments, page.first_seq, page.last_seq)
        if isinstance(verdict, Reset):
            self._reset = await self._hub.make_reset(self.run_id, verdict.reason)
            return None
        return page if page.events else None

    async def _judge_again(self) -> None:
        """The store holds another history than what was handed out by this process: does ours still stand?"""
        page = await self._hub.buffer.read(self.run_id, self.after, 1)
        verdict = resolve(Cursor(self.generation, self.after), page.segments, page.first_seq, page.last_seq)
        if isinstance(verdict, Reset):
            self._reset = await self._hub.make_reset(self.run_id, verdict.reason)

    def _take_reset(self) -> HistoryReset:
        reset, self._reset = self._reset, None
        assert reset is not None
        generation, _, seq = reset.id.rpartition(".")
        self.generation, self.after = generation, int(seq)
        self.finished = reset.over
        return reset

    def _handed_out(self, events: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
        self._note(events[-1])
        return events

    def _note(self, last: StoredEvent) -> None:
        self.after, self.generation = last.seq, last.generation
        self.suspended = last.type == "suspended"
        self.finished = last.type == TERMINAL

    def nudge(self) -> None:
        """Make a `next` that waits return None now, as if its time had run out; so for `pull`'s future."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(False)
            self._topic.give_up()
        if self._followed is not None and not self.waiter.done():
            self.waiter.set_result(False)

    def _unfollow(self) -> None:
        if self._followed is not None:
            self._topic.unfollow(self, self._followed)
            self._followed = None

    async def close(self) -> None:
        """Let go; a `next` that waits raises StopAsyncIteration. Idempotent."""
        if not self._closed:
            self._closed = True
            waiter, self._waiter = self._waiter, None
            if waiter is not None:
                if not waiter.done():
                    waiter.set_result(True)
                self._topic.give_up()
            if self._followed is not None:
                if not self.waiter.done():
                    self.waiter.set_result(True)
                self._unfollow()
            if self.on_close is not None:
                self.on_close(self)
            await self._hub.leave(self._topic)

    def __aiter__(self) -> AsyncGenerator[StoredEvent | HistoryReset, None]:
        return self.events()

    async def events(self) -> AsyncGenerator[StoredEvent | HistoryReset, None]:
        """Give one event after the other until the run is over or the subscription is closed; raises as
        `next` does, and `Busy` when this process shuts down before that."""
        while not self.finished and not self._closed:
            try:
                got = await self.next()
            except StopAsyncIteration:  # closed while it waited
                return
            if got is None:
                self.returning = _SOON
                raise Busy(
                    f"run {self.run_id}: this process is shutting down; go on elsewhere from the cursor "
                    f"{self.cursor}"
                )
            for event in (got,) if isinstance(got, HistoryReset) else got:
                yield event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _time_out(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
