"""Hands runs to readers: one topic per run and process, any number of subscriptions, each at its own pace.

A subscription that is slow falls out of the topic's window and reads the store by itself until it has caught
up: it is never dropped silently, holds nothing in memory meanwhile, and slows nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

from streamchat.buffers.base import EventBuffer, Page
from streamchat.core.cursor import Cursor, Reset, owner_of, resolve
from streamchat.core.fold import Folder
from streamchat.errors import Busy
from streamchat.events import TERMINAL, StoredEvent, dump_json
from streamchat.service.log import read_log
from streamchat.service.looks import Looks
from streamchat.service.topic import PAGE, TELLING, Encoder, Follower, HistoryReset, Topic, encode_all

__all__ = ["Encoder", "HistoryReset", "Hub", "Subscription"]

_SOON = 1.0
"""Seconds until a reader should come back whose process shuts down."""

_Given: TypeAlias = HistoryReset | Sequence[StoredEvent]


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

    def __init__(self, hub: Hub, topic: Topic, generation: str, after: int, *, finished: bool) -> None:
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


class Hub:
    """All topics of a process. ``window`` is bytes of event data kept per run, ``poll`` seconds between
    looks."""

    def __init__(self, buffer: EventBuffer, *, window: int = 1024 * 1024, poll: float = 2.0) -> None:
        self.buffer = buffer
        self._window = window
        self._poll = poll
        self._topics: dict[str, Topic] = {}
        self._fed: set[str] = set()
        self._looks = Looks(buffer, self._looked)
        self._readers: set[asyncio.Task[None]] = set()
        self.leaving = False

    async def subscribe(self, run_id: str, cursor: Cursor | None = None) -> Subscription:
        """Read a run from ``cursor`` (exclusive; None is the start). Raises `RunNotFound`,
        `BufferUnavailable`.

        A cursor that cannot be continued is no error: the first thing handed out is then a `HistoryReset`.
        """
        known = self._from_window(run_id, cursor)
        if known is not None:
            return known
        page = await self._looks.look(run_id, cursor.seq if cursor else 0)
        known = self._from_window(run_id, cursor)  # of which others have taken more in meanwhile
        if known is not None:
            return known
        verdict = resolve(cursor, page.segments, page.first_seq, page.last_seq)
        if isinstance(verdict, Reset):
            reset = await self.make_reset(run_id, verdict.reason)
            generation = reset.id.rpartition(".")[0]
            topic = self._join(run_id, reset.last_seq, generation)
            subscription = Subscription(self, topic, generation, reset.last_seq, finished=False)
            subscription._reset = reset
            return subscription
        after = verdict.after
        finished = suspended = False
        if after and after == page.last_seq:
            # Told by the last event itself: a status may be ahead of what this reader was given.
            seen = bool(page.events) and page.events[-1].seq == after
            last = page if seen else await self.buffer.read(run_id, after - 1, 1)
            finished = last.closed
            suspended = bool(last.events) and last.events[-1].type == "suspended"
        generation = owner_of(after, page.segments) or ""
        topic = self._join(run_id, after, generation, page)
        subscription = Subscription(self, topic, generation, after, finished=finished)
        subscription.suspended = suspended
        return subscription

    def _from_window(self, run_id: str, cursor: Cursor | None) -> Subscription | None:
        """Subscribe without asking the store, where the run's topic knows the event of the cursor."""
        topic = self._topics.get(run_id)
        after = cursor.seq if cursor is not None else 0
        generation = None if topic is None or topic.error is not None else topic.generation_at(after)
        if generation is None or (cursor is not None and generation != cursor.generation):
            return None
        assert topic is not None
        last = topic.last if after == topic.head else None
        if last is None and after and after == topic.head:
            return None  # whether the run was over there, or suspended
        self._count_in(topic)
        finished = last is not None and last.type == TERMINAL
        subscription = Subscription(self, topic, generation, after, finished=finished)
        subscription.suspended = last is not None and last.type == "suspended"
        return subscription

    def _looked(self, run_id: str, page: Page) -> None:
        topic = self._topics.get(run_id)
        if topic is not None and topic.error is None and page.events:
            topic.extend(page.events, owner_of(page.events[0].seq - 1, page.segments) or "")

    def _join(self, run_id: str, after: int, generation: str, page: Page | None = None) -> Topic:
        """Return the run's topic, with one subscriber more; where it is new, it begins with ``page``."""
        topic = self._topics.get(run_id)
        if topic is None or topic.error is not None:
            seed: Sequence[StoredEvent] = ()
            if page is not None and page.events and page.events[-1].seq == page.last_seq:
                seed = page.events
                after = seed[0].seq - 1
                generation = owner_of(after, page.segments) or ""
            topic = Topic(run_id, self.buffer, after, generation, window=self._window, poll=self._poll)
            topic.feed(seed)
            topic.fed = run_id in self._fed
            self._topics[run_id] = topic
        self._count_in(topic)
        return topic

    def _count_in(self, topic: Topic) -> None:
        topic.subscribers += 1
        if topic.reader is None and not topic.over:
            topic.reader = asyncio.create_task(topic.read(), name=f"streamchat read {topic.run_id}")
            self._readers.add(topic.reader)
            topic.reader.add_done_callback(self._readers.discard)

    async def leave(self, topic: Topic) -> None:
        """Count one subscription less; the last one takes the topic with it."""
        topic.subscribers -= 1
        if topic.subscribers == 0:
            if self._topics.get(topic.run_id) is topic:
                del self._topics[topic.run_id]
            if topic.reader is not None and not topic.reader.done():
                topic.reader.cancel()
                await asyncio.wait({topic.reader})

    async def make_reset(self, run_id: str, reason: str) -> HistoryReset:
        """Fold all that is stored into the snapshot that replaces what a client has."""
        events = await read_log(self.buffer, run_id)
        folder = Folder()
        for event in events:
            folder.add(event)
        snapshot = dump_json(folder.state.model_dump(mode="json", exclude_none=True))
        last = events[-1]
        return HistoryReset(reason, events[0].seq, last.seq, snapshot, last.id, over=last.type == TERMINAL)

    def publish(self, run_id: str, events: Sequence[StoredEvent]) -> None:
        """Take events that a driver of this process has just made durable."""
        topic = self._topics.get(run_id)
        if topic is not None:
            topic.feed(events)

    def feed(self, run_id: str, fed: bool) -> None:
        """Note that a driver of this process holds the run (its topic then needs no reads), or no longer
        does."""
        (self._fed.add if fed else self._fed.discard)(run_id)
        topic = self._topics.get(run_id)
        if topic is not None:
            topic.set_fed(fed)

    def farewell(self) -> None:
        """Let subscriptions give what they have and then wait no more: readers are to come back elsewhere."""
        self.leaving = True
        for topic in list(self._topics.values()):
            topic.wake()

    async def close(self) -> None:
        """End all readers of the store; subscriptions are closed by their owners."""
        self.farewell()
        readers = list(self._readers)
        for reader in readers:
            reader.cancel()
        if readers:
            await asyncio.wait(readers)
        await self._looks.close()
