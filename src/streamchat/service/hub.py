"""Hands runs to readers: one topic per run and process, any number of subscriptions, each at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from streamchat.buffers.base import EventBuffer, Page
from streamchat.core.cursor import Cursor, Reset, owner_of, resolve
from streamchat.core.fold import Folder
from streamchat.events import TERMINAL, StoredEvent, dump_json
from streamchat.service.log import read_log
from streamchat.service.looks import Looks
from streamchat.service.subscription import Subscription
from streamchat.service.topic import Encoder, HistoryReset, Topic

__all__ = ["Encoder", "HistoryReset", "Hub", "Subscription"]


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

    async def log(self, run_id: str) -> Sequence[StoredEvent]:
        """Return all that is stored of a run; see `Looks.log`."""
        return await self._looks.log(run_id)

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
