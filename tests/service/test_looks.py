"""Readers that come at any time with any cursor share looks into the log; each gets its own tail of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat import MemoryEventBuffer, StoredEvent
from streamchat.buffers.base import Page
from streamchat.core.cursor import parse_cursor
from streamchat.errors import BufferUnavailable, Busy
from streamchat.service.hub import HistoryReset, Hub, Subscription
from streamchat.service.looks import Looks
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending, suspended

pytestmark = pytest.mark.anyio


class Slow(MemoryEventBuffer):
    """A store that takes some turns of the loop to answer, and counts what it is asked."""

    turns = 3
    reads = 0

    async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        self.reads += 1
        for _ in range(self.turns):
            await asyncio.sleep(0)
        page = await super().read(run_id, after, limit)
        for _ in range(self.turns):
            await asyncio.sleep(0)
        return page


class Life:
    """A run that grows, is handed from worker to worker, and is read by many."""

    def __init__(self, window: int, turns: int, poll: float = 30.0) -> None:
        self.buffer = Slow()
        self.buffer.turns = turns
        self.bench = Bench(self.buffer, None, None, 60.0)
        self.hub = Hub(self.buffer, window=window, poll=poll)
        self.reading: list[tuple[int, asyncio.Task[list[StoredEvent]]]] = []
        self.log: list[StoredEvent] = []

    async def begin(self) -> None:
        self.lease = await self.bench.held()
        await self.note()

    async def note(self) -> None:
        self.log = list((await MemoryEventBuffer.read(self.buffer, self.lease.run_id, 0, 1000)).events)

    async def append(self, count: int, publish: bool, then: Any = "hold") -> None:
        events = deltas(*(f"text {number}" for number in range(count)))
        if then == "over":
            events += ending()
        elif then == "suspend":
            events += suspended()
        self.lease = (await self.buffer.append(self.lease, events, then=then)).lease
        before = len(self.log)
        await self.note()
        if publish:
            self.hub.publish(self.lease.run_id, self.log[before:])

    async def hand_over(self) -> None:
        await self.buffer.append(self.lease, deltas("before"), then="queue")
        self.lease = await self.bench.claimed(self.lease.run_id, "another")
        await self.append(1, publish=False)

    def come(self, places: list[float | None]) -> None:
        """Readers come at once, each with the cursor of an event, or with none."""
        for place in places:
            event = None if place is None else self.log[int(place * len(self.log))]
            after = 0 if event is None else event.seq
            self.reading.append((after, asyncio.create_task(self.read(None if event is None else event.id))))

    async def read(self, cursor: str | None) -> list[StoredEvent]:
        got: list[StoredEvent] = []
        subscription: Subscription = await self.hub.subscribe(
            self.lease.run_id, None if cursor is None else parse_cursor(cursor)
        )
        async with subscription:
            while not subscription.finished:
                given = await subscription.next()
                assert given is not None
                assert not isinstance(given, HistoryReset)
                got += given
        return got


place = st.floats(0, 1, exclude_max=True)
places = st.lists(st.none() | place, min_size=1, max_size=12)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5), st.booleans()),
        st.tuples(st.just("come"), st.lists(place, min_size=1, max_size=2) | places),
        st.tuples(st.just("wait"), st.integers(1, 40)),
        st.tuples(st.just("hand over")),
        st.tuples(st.just("leave"), st.integers(0, 30)),
    ),
    max_size=12,
)


@given(steps, places, st.sampled_from([300, 10_000]), st.integers(0, 2))
def test_each_reader_gets_what_stands_behind_its_cursor(
    steps: list[tuple[Any, ...]], last: list[float | None], window: int, turns: int
) -> None:
    async def live() -> None:
        life = Life(window, turns, poll=0.001)
        await life.begin()
        await life.append(20, publish=False)
        for step in steps:
            match step:
                case ("append", count, publish):
                    await life.append(count, publish)
                case ("come", places):
                    life.come(places)
                case ("wait", rounds):
                    for _ in range(rounds):
                        await asyncio.sleep(0)
                case ("leave", number) if life.reading:
                    _, task = life.reading.pop(number % len(life.reading))
                    task.cancel()
                    await asyncio.wait([task])
                case ("hand over",):
                    await life.hand_over()
        await life.append(1, publish=True, then="over")
        life.come(last)
        async with asyncio.timeout(30):
            got = [(after, await task) for after, task in life.reading]
        for after, events in got:
            assert events == life.log[after:]
        await life.hub.close()

    asyncio.run(live())


async def test_a_crowd_that_comes_at_once_costs_two_reads_and_one_that_comes_later_none() -> None:
    life = Life(100_000, 3)
    await life.begin()
    for _ in range(20):
        await life.append(3, publish=False)
    before = life.buffer.reads
    life.come([number / 300 for number in range(300)])
    while life.hub._topics.get(life.lease.run_id) is None or not life.hub._topics[life.lease.run_id].current:
        await asyncio.sleep(0)
    assert life.buffer.reads - before == 2
    life.come([number / 300 for number in range(20, 300)])
    for _ in range(20):
        await asyncio.sleep(0)
    assert life.buffer.reads - before == 2
    await life.append(1, publish=True, then="over")
    for after, task in life.reading:
        assert await task == life.log[after:]
    await life.hub.close()


async def test_who_comes_later_and_has_less_has_the_rest_read_for_all_after_them() -> None:
    life = Life(100_000, 1)
    await life.begin()
    await life.append(40, publish=False)
    reads = []
    for place in (0.9, 0.5, 0.7, 0.1, 0.3, 0.9, 0.11):
        before = life.buffer.reads
        life.come([place])
        for _ in range(30):
            await asyncio.sleep(0)
        reads.append(life.buffer.reads - before)
    assert reads == [2, 1, 0, 1, 0, 0, 0]
    await life.append(1, publish=True, then="over")
    for after, task in life.reading:
        assert await task == life.log[after:]
    await life.hub.close()


async def test_a_suspended_run_is_suspended_for_all_who_come() -> None:
    life = Life(100_000, 1)
    await life.begin()
    await life.append(3, publish=False, then="suspend")
    cursor = parse_cursor(life.log[-1].id)
    subscriptions = [await life.hub.subscribe(life.lease.run_id, cursor) for _ in range(3)]
    assert [each.suspended for each in subscriptions] == [True] * 3
    for each in subscriptions:
        await each.close()
    await life.hub.close()


async def test_a_look_that_fails_fails_for_those_who_share_it_and_for_nobody_else() -> None:
    class Away(Slow):
        away = True

        async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
            await asyncio.sleep(0)
            if self.away:
                raise BufferUnavailable("away")
            return await super().read(run_id, after, limit)

    buffer = Away()
    run = await Bench(buffer, None, None, 60.0).created()
    looks = Looks(buffer, lambda run_id, page: None)
    failed = await asyncio.gather(*(looks.look(run.run_id, seq) for seq in range(3)), return_exceptions=True)
    assert [type(each) for each in failed] == [BufferUnavailable] * 3
    buffer.away = False
    assert (await looks.look(run.run_id, 0)).last_seq == 1


async def test_whoever_looks_while_the_process_ends_is_sent_elsewhere() -> None:
    buffer = Slow()
    buffer.turns = 1_000_000
    run = await Bench(buffer, None, None, 60.0).created()
    looks = Looks(buffer, lambda run_id, page: None)
    asking = asyncio.create_task(looks.look(run.run_id, 0))
    await asyncio.sleep(0.01)
    await looks.close()
    with pytest.raises(Busy):
        await asking


async def test_whole_logs_are_shared_but_never_older_than_who_asks_for_them() -> None:
    life = Life(100_000, 5)
    await life.begin()
    run_id = life.lease.run_id
    early = [asyncio.create_task(life.hub.log(run_id)) for _ in range(50)]
    while life.buffer.reads == 0:
        await asyncio.sleep(0)
    before = life.buffer.reads
    for _ in range(life.buffer.turns + 2):  # the store has looked, and has yet to answer
        await asyncio.sleep(0)
    await life.append(3, publish=False)
    late = [asyncio.create_task(life.hub.log(run_id)) for _ in range(50)]
    early[0].cancel()
    late[0].cancel()
    assert [len(await each) < len(life.log) for each in early[1:]] == [True] * 49
    assert [list(await each) for each in late[1:]] == [life.log] * 49
    assert (before, life.buffer.reads) == (1, 2)
    assert early[0].cancelled()
    assert late[0].cancelled()
    await life.hub.close()


async def test_who_reads_a_whole_log_while_the_process_ends_is_sent_elsewhere() -> None:
    buffer = Slow()
    buffer.turns = 1_000_000
    run = await Bench(buffer, None, None, 60.0).created()
    hub = Hub(buffer)
    asking = asyncio.create_task(hub.log(run.run_id))
    await asyncio.sleep(0.01)
    await hub.close()
    with pytest.raises(Busy):
        await asking
