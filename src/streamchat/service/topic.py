"""One run as this process's readers share it: a window of its newest events, fed once, handed to any number.

A topic has one reader of the store, however many subscribe; a driver in the same process feeds it directly,
and then the store is not read at all. Events are encoded once per encoder, and subscribers in step share the
joined bytes too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from streamchat.buffers.base import EventBuffer, Page
from streamchat.core.cursor import Cursor, Reset, owner_of, resolve
from streamchat.errors import BufferUnavailable, RunNotFound
from streamchat.events import TERMINAL, StoredEvent

__all__ = ["TELLING", "Encoder", "Follower", "HistoryReset", "Topic", "encode_all"]

log = logging.getLogger("streamchat.hub")

PAGE = 500
_MOST_AT_ONCE = 500
_LEAST_PAUSE = 0.02

TELLING = frozenset({"suspended", TERMINAL})
"""What changes more of a reader than its place."""


class HistoryReset:
    """Tells one client that its cursor cannot be continued: it replaces all that it has and folds on. Never
    stored.

    ``snapshot`` is the JSON of the `RunState` at ``last_seq``; ``id`` is the cursor from there on. The oldest
    event that is still stored is ``first_seq``; ``over`` says that nothing will follow.
    """

    __slots__ = ("first_seq", "id", "last_seq", "over", "reason", "snapshot")
    type = "history_reset"

    def __init__(
        self,
        reason: str,
        first_seq: int,
        last_seq: int,
        snapshot: bytes,
        id: str,
        *,
        over: bool = False,
    ) -> None:
        self.reason = reason
        self.first_seq = first_seq
        self.last_seq = last_seq
        self.snapshot = snapshot
        self.id = id
        self.over = over


class Encoder(Protocol):
    """Turns what a subscription gives into a wire's bytes; stateless, hashable, shared by all readers.

    It may also have ``events(events) -> list[bytes]``, which encodes each of several in one call.
    """

    def event(self, event: StoredEvent) -> bytes:
        """Encode one event."""
        ...

    def reset(self, reset: HistoryReset) -> bytes:
        """Encode a reset."""
        ...


def encode_all(encoder: Encoder, events: Sequence[StoredEvent]) -> list[bytes]:
    """Encode each event, in one call where the encoder has one for it."""
    several: Callable[[Sequence[StoredEvent]], list[bytes]] | None = getattr(encoder, "events", None)
    return [encoder.event(event) for event in events] if several is None else several(events)


class Follower:
    """A reader's place in a run, which a topic moves when it hands the next bytes to one that waits for them.

    ``after`` is the seq of the last event handed out, ``generation`` who wrote it. While ``waiter`` is not
    done, ``after`` is the topic's head.
    """

    __slots__ = ("after", "generation", "waiter")

    after: int
    generation: str
    waiter: asyncio.Future[bool | bytes]


class _Encoded:
    """What one encoder made of the window, event by event, and the last stretch that was joined."""

    __slots__ = ("chunks", "joined", "stretch")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.stretch: tuple[int, int] = (0, 0)
        self.joined = b""


class Topic:
    """The events of one run behind ``base`` (exclusive) up to ``head`` (inclusive), as far as this process
    knows.

    ``epoch`` changes when the store turned out to hold another history than what was handed out; every
    subscription then judges its own cursor again. ``current`` says that the store was read to its end once,
    or will not be. ``error`` is set when the run is gone, or cannot be read.
    """

    def __init__(
        self, run_id: str, buffer: EventBuffer, after: int, generation: str, *, window: int, poll: float
    ) -> None:
        self.run_id = run_id
        self.base = self.head = after
        self._base_generation = generation
        self.epoch = 0
        self.current = False
        self.fed = False
        self.subscribers = 0
        self.error: Exception | None = None
        self.reader: asyncio.Task[None] | None = None
        self._buffer = buffer
        self._window = window
        self._poll = poll
        self._events: list[StoredEvent] = []
        self._size = 0
        self._last: StoredEvent | None = None
        self._encoded: dict[Encoder, _Encoded] = {}
        self._waiters: list[asyncio.Future[Any]] = []
        self._given_up = 0
        self._followers: dict[Encoder, set[Follower]] = {}
        self.new_waiter: Callable[[], asyncio.Future[Any]] = asyncio.get_running_loop().create_future
        self._refresh = asyncio.Event()

    def generation_at(self, seq: int) -> str | None:
        """Return the generation that owns ``seq``; None where only the store can tell."""
        if seq == self.base:
            return self._base_generation
        return self._events[seq - self.base - 1].generation if self.base < seq <= self.head else None

    @property
    def last(self) -> StoredEvent | None:
        """The event at ``head``, if it is known here."""
        return self._last

    @property
    def over(self) -> bool:
        """Whether the last event of the run is known here."""
        return self._last is not None and self._last.type == TERMINAL

    def after(self, seq: int) -> Sequence[StoredEvent]:
        """Return what follows ``seq``, bounded; ``seq`` must be within the window."""
        start = seq - self.base
        return self._events[start : start + _MOST_AT_ONCE]

    def bytes_after(self, seq: int, encoder: Encoder) -> tuple[bytes, StoredEvent]:
        """Return the same, encoded and joined, and the last event in it; there must be one."""
        encoded = self._encoded.get(encoder)
        if encoded is None:
            encoded = self._encoded[encoder] = _Encoded()
        chunks, events = encoded.chunks, self._events
        size = len(events)
        missing = size - len(chunks)
        if missing == 1:
            chunks.append(encoder.event(events[-1]))
        elif missing:
            chunks += encode_all(encoder, events[-missing:])
        start = seq - self.base
        if start + 1 == size:
            return chunks[start], events[start]  # in step, as nearly always
        end = min(start + _MOST_AT_ONCE, size)
        stretch = (seq, self.base + end)
        if encoded.stretch != stretch:
            encoded.joined = b"".join(chunks[start:end])
            encoded.stretch = stretch
        return encoded.joined, events[end - 1]

    def feed(self, events: Sequence[StoredEvent]) -> None:
        """Take events that were just stored; what does not follow on makes the reader look into the store."""
        next_seq = self.head + 1
        if not events or events[-1].seq < next_seq:
            return
        known = next_seq - events[0].seq
        if known < 0:
            self._refresh.set()
            return
        new = events[known:] if known else events
        before = self.head
        self._events += new
        self._last = new[-1]
        self.head = self._last.seq
        for event in new:
            self._size += len(event.data)
        for encoder, followers in self._followers.items():
            if followers:
                self._hand_out(before, encoder, followers)
        if self._size > self._window:
            self._shrink()
        if self._last.type == TERMINAL:
            self._refresh.set()
        if self._waiters:
            self._wake_waiters()

    def _hand_out(self, before: int, encoder: Encoder, followers: set[Follower]) -> None:
        """Give those who wait the bytes behind ``before``, where nothing more need be known of them."""
        given: bool | bytes = True
        last = self._last
        assert last is not None
        if last.type not in TELLING:
            try:
                data, until = self.bytes_after(before, encoder)
            except Exception:
                pass  # raised again for each of them, and not for who feeds us
            else:
                if until is last:
                    given = data
        if given is True:
            self._wake_followers(followers)
            return
        seq, generation = last.seq, last.generation
        for follower in followers:
            waiter = follower.waiter
            if not waiter.done():
                follower.after = seq
                follower.generation = generation
                waiter.set_result(given)

    def _shrink(self) -> None:
        """Forget the older half of the window: who is behind it reads the store."""
        keep = len(self._events) // 2
        gone = len(self._events) - keep
        self._base_generation = self._events[gone - 1].generation
        self._events = self._events[gone:]
        self.base += gone
        self._size = sum(len(event.data) for event in self._events)
        for encoded in self._encoded.values():
            del encoded.chunks[:gone]
            encoded.stretch, encoded.joined = (0, 0), b""

    def extend(self, events: Sequence[StoredEvent], generation: str) -> None:
        """Take what stands before the window too, where that is without a gap and there is room for it.

        ``generation`` owns the seq before the first of ``events``.
        """
        before = [event for event in events if event.seq <= self.base]
        if not before or before[-1].seq != self.base or before[-1].generation != self._base_generation:
            return
        size = sum(len(event.data) for event in before)
        if self._size + size > self._window:
            return
        self._events = before + self._events
        self._size += size
        self._encoded.clear()  # what is kept of it stands in step with the events
        self.base, self._base_generation = before[0].seq - 1, generation
        if self._last is None:
            self._last = before[-1]

    def wake(self) -> None:
        """Wake all who wait."""
        self._wake_waiters()
        for followers in self._followers.values():
            self._wake_followers(followers)

    def _wake_followers(self, followers: set[Follower]) -> None:
        for follower in followers:
            if not follower.waiter.done():
                follower.waiter.set_result(True)

    def _wake_waiters(self) -> None:
        waiters = self._waiters
        self._waiters = []
        self._given_up = 0
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(True)

    def waiter(self) -> asyncio.Future[Any]:
        """Return a future that is True at the next change; the topic then forgets it."""
        future = self.new_waiter()
        self._waiters.append(future)
        return future

    def follow(self, follower: Follower, encoder: Encoder) -> None:
        """Let a follower at the head wait for the next bytes: they are its waiter's result, or True is, as
        above.

        Whoever waits again only makes a new waiter, with `new_waiter`.
        """
        followers = self._followers.get(encoder)
        if followers is None:
            followers = self._followers[encoder] = set()
        followers.add(follower)

    def unfollow(self, follower: Follower, encoder: Encoder) -> None:
        """Forget a follower."""
        self._followers[encoder].discard(follower)

    def give_up(self) -> None:
        """Note that one waiter is done for another reason: they are forgotten many at a time."""
        self._given_up += 1
        if self._given_up * 2 > len(self._waiters):
            self._given_up = 0
            self._waiters = [waiter for waiter in self._waiters if not waiter.done()]

    def set_fed(self, fed: bool) -> None:
        """Note that a driver here feeds the topic, or no longer does."""
        self.fed = fed
        if not fed:
            self._refresh.set()

    async def read(self) -> None:
        """Keep the topic up to date until the run is over; runs as a task of the hub, while there are
        subscribers."""
        follower = await self._buffer.follow(self.run_id)
        wait = 0.05
        try:
            while not self.over:
                self._refresh.clear()
                try:
                    await self._catch_up()
                    self._note_current()
                    wait = 0.05
                except BufferUnavailable as error:
                    log.warning(
                        "run %s: the store is away, tried again in %.2f s: %s", self.run_id, wait, error
                    )
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, 2.0)
                    continue
                if self.fed:
                    await self._refresh.wait()
                else:
                    if not await follower.wait(self._poll):
                        # A follower that was closed under us returns at once: no busy loop.
                        await asyncio.sleep(_LEAST_PAUSE)
        except RunNotFound as error:
            self.error = error
        except Exception as error:
            log.exception("run %s: reading the store failed", self.run_id)
            self.error = error
        finally:
            await follower.close()
            self._note_current()
            self.wake()

    def _note_current(self) -> None:
        if not self.current:
            self.current = True
            self.wake()

    async def _catch_up(self) -> None:
        while not self.over:
            page = await self._buffer.read(self.run_id, self.head, PAGE)
            if self._diverged(page):
                continue
            self.feed(page.events)
            if self.head >= page.last_seq:
                return

    def _diverged(self, page: Page) -> bool:
        """Start anew at the store's head if that does not continue what was handed out here."""
        at = self._last.generation if self._last is not None else None
        if at is not None:
            verdict = resolve(Cursor(at, self.head), page.segments, page.first_seq, page.last_seq)
            if not isinstance(verdict, Reset):
                return False
        elif self.head <= page.last_seq and self.head + 1 >= page.first_seq:
            return False
        self._events, self._encoded, self._last, self._size = [], {}, None, 0
        self.base = self.head = page.last_seq
        self._base_generation = owner_of(page.last_seq, page.segments) or ""
        self.epoch += 1
        self.wake()
        return True
