"""Who is connected, in whichever process, and what their leaving comes to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamchat.buffers.base import RunRecord
from streamchat.buffers.notes import LocalNotes, NewNote
from streamchat.errors import BufferUnavailable, InvalidInput, RunNotFound
from streamchat.service.presence import PresenceKeeper, Reader, grace_of

pytestmark = pytest.mark.anyio

GRACE, TTL = 40.0, 30.0
RUN = RunRecord(
    run_id="run",
    conversation_id="conversation",
    message_id="message",
    status="running",
    head_seq=1,
    generation="g",
    fence=1,
    request=b"{}",
    principal=None,
    parent_run_id=None,
    owner="worker",
    lease_until=None,
    wake_at=None,
    log_version=1,
    created_at=0,
    updated_at=0,
)


@dataclass(eq=False)
class Connection:
    """As much of a `Subscription` as presence looks at."""

    cursor: str = "g.0"
    finished: bool = False
    returning: float | None = None
    on_close: Any = None
    left_at: float | None = None

    def reader(self, client_id: str | None = None) -> Reader:
        return Reader(cast(Any, self), client_id, None, since=0)

    def close(self) -> None:
        if self.on_close is not None:
            self.on_close(self)


@dataclass
class World:
    """A store with a clock that moves when it is told to, and the processes over it."""

    now: float = 0.0
    run: RunRecord | None = RUN
    cancelled_at: list[float] = field(default_factory=list)
    store: LocalNotes = field(init=False)

    def __post_init__(self) -> None:
        self.store = LocalNotes(lambda: round(self.now * 1000))

    def process(self) -> PresenceKeeper:
        keeper = PresenceKeeper(self.store, self._get, self._cancel, ttl=TTL)
        keeper.start()
        return keeper

    async def _get(self, run_id: str) -> RunRecord:
        if self.run is None:
            raise RunNotFound(run_id)
        return self.run

    async def _cancel(self, run_id: str) -> None:
        self.cancelled_at.append(self.now)

    async def pass_time(self, seconds: float, *alive: PresenceKeeper) -> None:
        """Let time pass; who is alive renews what it has noted meanwhile."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + TTL / 3)
            for keeper in alive:
                await written(keeper, *keeper._here)

    async def sweep(self, keeper: PresenceKeeper) -> None:
        for run_id in {note.run_id for note in await self.store.due_notes()}:
            await keeper.settle(run_id)
            await written(keeper)


async def written(keeper: PresenceKeeper, *again: str) -> None:
    """Wait until a process has noted all that it knows, and ``again`` what it had noted before."""
    keeper._dirty.update(again)
    keeper._wake.set()
    while keeper._dirty or keeper._saved or keeper._wake.is_set():
        await asyncio.sleep(0)


async def crash(keeper: PresenceKeeper) -> None:
    """End a process as kill -9 does: what it has noted stays as it is."""
    for timer in (*keeper._timers.values(), *([keeper._lazy] if keeper._lazy else [])):
        timer.cancel()
    task, keeper._task = keeper._task, None
    assert task is not None
    task.cancel()
    await asyncio.wait({task})


@asynccontextmanager
async def world(count: int = 2) -> AsyncIterator[tuple[World, list[PresenceKeeper]]]:
    made = World()
    keepers = [made.process() for _ in range(count)]
    try:
        yield made, keepers
    finally:
        for keeper in keepers:
            if keeper._task is not None:
                await crash(keeper)


async def connect(keeper: PresenceKeeper, grace: float | None = GRACE) -> Connection:
    connection = Connection()
    await keeper.enter(RUN, grace, connection.reader())
    return connection


async def leave(keeper: PresenceKeeper, connection: Connection) -> None:
    connection.close()
    await written(keeper)


async def test_a_run_that_nobody_ever_read_is_left_alone() -> None:
    async with world() as (made, (here, _)):
        await made.pass_time(1000)
        await here.settle("run")
        assert made.cancelled_at == []


async def test_when_the_last_reader_has_been_gone_for_the_grace_time_the_run_is_cancelled() -> None:
    async with world() as (made, (here, other)):
        first, second = await connect(here), await connect(here)
        await leave(here, first)
        await made.pass_time(1000, here)
        await made.sweep(other)
        await leave(here, second)
        await made.pass_time(GRACE - 1, here)
        await made.sweep(other)
        assert made.cancelled_at == []
        await made.pass_time(1, here)
        await made.sweep(here)
        assert made.cancelled_at == [made.now]
        assert await made.store.notes("run") == []


async def test_who_comes_back_through_another_process_in_time_keeps_the_run() -> None:
    async with world() as (made, (here, other)):
        await leave(here, await connect(here))
        await made.pass_time(GRACE - 1)
        again = await connect(other)
        await made.pass_time(1000, here, other)
        await made.sweep(here)
        await made.sweep(other)
        assert made.cancelled_at == []
        await leave(other, again)
        await made.pass_time(GRACE, here, other)
        await made.sweep(here)
        assert len(made.cancelled_at) == 1


async def test_a_process_that_dies_leaves_its_readers_the_same_time_to_come_back() -> None:
    async with world() as (made, (here, other)):
        await connect(other)
        await crash(other)
        await made.pass_time(TTL, here)
        await made.sweep(here)
        await made.pass_time(GRACE - 1, here)
        await made.sweep(here)
        assert made.cancelled_at == []
        await made.pass_time(1, here)
        await made.sweep(here)
        assert len(made.cancelled_at) == 1
        assert await made.store.notes("run") == []


async def test_without_grace_a_leaving_ends_the_run_at_once_and_a_crash_when_it_is_noticed() -> None:
    async with world() as (made, (here, other)):
        await leave(here, await connect(here, 0.0))
        while not made.cancelled_at:
            await asyncio.sleep(0)
        await connect(other, 0.0)
        await crash(other)
        await made.pass_time(TTL, here)
        await made.sweep(here)
        assert len(made.cancelled_at) == 2


async def test_a_run_that_is_suspended_over_or_gone_is_not_cancelled() -> None:
    for run in (replace(RUN, status="suspended"), replace(RUN, status="success"), None):
        async with world() as (made, (here, other)):
            made.run = run
            await leave(here, await connect(here))
            await made.pass_time(GRACE)
            await made.sweep(other)
            assert made.cancelled_at == []
            assert await made.store.notes("run") == []


async def test_who_was_sent_away_is_given_the_time_to_come_back() -> None:
    async with world() as (made, (here, _)):
        connection = await connect(here, 0.0)
        connection.returning = 2.0
        await leave(here, connection)
        await made.pass_time(7.0)
        await made.sweep(here)
        assert made.cancelled_at == []
        await made.pass_time(10.0)
        await made.sweep(here)
        assert len(made.cancelled_at) == 1


async def test_a_process_that_shuts_down_leaves_its_readers_to_the_others() -> None:
    async with world() as (made, (here, other)):
        connection = await connect(here)
        await here.stop()
        connection.close()
        await made.pass_time(GRACE, other)
        await made.sweep(other)
        assert len(made.cancelled_at) == 1


async def test_where_leaving_has_no_consequence_nothing_stays_noted() -> None:
    async with world() as (made, (here, other)):
        connection = await connect(here, None)
        await written(here)
        assert len(await made.store.notes("run")) == 1
        await leave(here, connection)
        assert await made.store.notes("run") == []
        # Gone before it was noted: nothing is written at all.
        await leave(here, await connect(here, None))
        assert await made.store.notes("run") == []
        await connect(other, None)
        await written(other)
        await crash(other)
        await made.pass_time(TTL)
        await made.sweep(here)
        assert (made.cancelled_at, await made.store.notes("run")) == ([], [])


async def test_all_processes_tell_of_each_other_until_a_note_is_too_old() -> None:
    async with world() as (made, (here, other)):
        await here.enter(RUN, None, Connection(cursor="g.7").reader("phone"))
        await other.enter(RUN, None, Connection(cursor="g.9").reader("laptop"))
        await written(here)
        await written(other)
        for keeper in (here, other):
            told = {(presence.client_id, presence.cursor) for presence in await keeper.of("run")}
            assert told == {("phone", "g.7"), ("laptop", "g.9")}
        await made.pass_time(TTL, here)
        assert [presence.client_id for presence in await here.of("run")] == ["phone"]


class Away(LocalNotes):
    """A store that cannot be reached for a while."""

    def __init__(self) -> None:
        super().__init__(lambda: 0)
        self.away = False

    async def write_notes(self, notes: Any) -> None:
        if self.away:
            raise BufferUnavailable("the store is away")
        await super().write_notes(notes)


async def test_who_cannot_be_noted_is_not_let_in_and_a_leaving_is_noted_later() -> None:
    made, store = World(), Away()
    keeper = PresenceKeeper(store, made._get, made._cancel, ttl=TTL)
    keeper.start()
    connection = await connect(keeper)
    store.away = True
    refused = Connection()
    with pytest.raises(BufferUnavailable):
        await keeper.enter(RUN, GRACE, refused.reader())
    with pytest.raises(BufferUnavailable):
        await keeper.enter(replace(RUN, run_id="other"), 0.0, Connection().reader())
    connection.close()
    refused.close()
    keeper._wake.set()
    while keeper._wake.is_set():
        await asyncio.sleep(0)
    store.away = False
    await written(keeper, "run")
    (note,) = await store.notes("run")
    assert note.body.endswith(b'"readers":[]}')
    assert await store.notes("other") == []
    await keeper.stop()


async def test_a_note_of_another_version_is_none_of_its_business() -> None:
    async with world() as (made, (here, _)):
        await made.store.write_notes([NewNote("run", "messages", b"not json", 0.0)])
        assert await here.of("run") == []
        await here.settle("run")
        assert len(await made.store.notes("run")) == 1


@pytest.mark.parametrize("policy", ["keep", "", -1, float("nan"), float("inf"), True, None])
def test_what_is_no_policy_is_refused(policy: Any) -> None:
    with pytest.raises(InvalidInput, match="on_disconnect"):
        grace_of(policy)


def test_policies_are_seconds_or_never() -> None:
    assert [grace_of("continue"), grace_of("cancel"), grace_of(0), grace_of(2.5)] == [None, 0.0, 0.0, 2.5]


# ------------------------------------------------------------------------------------------------------ a law

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["connect", "leave", "leave", "crash", "restart"]), st.integers(0, 2)),
        st.tuples(st.just("time"), st.sampled_from([1, int(GRACE / 2), int(GRACE), int(TTL)])),
    ),
    min_size=3,
    max_size=30,
)


@settings(max_examples=60)
@example([("connect", 0), ("crash", 0), ("time", 30)])
@example([("connect", 0), ("connect", 1), ("leave", 0), ("time", 40)])
@example([("connect", 0), ("crash", 0), ("time", 30), ("connect", 0), ("time", 40)])
@given(STEPS)
def test_a_run_is_cancelled_if_and_only_if_all_readers_have_been_gone_for_the_grace_time(
    steps: list[tuple[str, int]],
) -> None:
    asyncio.run(play(steps))


async def play(steps: list[tuple[str, int]]) -> None:
    async with world(3) as (made, keepers):
        readers: list[tuple[PresenceKeeper, Connection]] = []
        last_left: float | None = None

        def alive() -> list[PresenceKeeper]:
            return [keeper for keeper in keepers if keeper._task is not None]

        async def sweep() -> None:
            for keeper in alive():
                before = len(made.cancelled_at)
                await made.sweep(keeper)
                if len(made.cancelled_at) > before:
                    assert not readers, "cancelled under a reader"
                    assert last_left is not None
                    assert made.now >= last_left + GRACE, "cancelled too early"

        for action, number in steps:
            if action == "connect" and alive():
                keeper = alive()[number % len(alive())]
                readers.append((keeper, await connect(keeper)))
            elif action == "leave" and readers:
                await leave(*readers.pop(number % len(readers)))
                last_left = made.now
            elif action == "crash" and alive():
                keeper = alive()[number % len(alive())]
                if any(who is keeper for who, _ in readers):
                    last_left = made.now
                readers = [(who, connection) for who, connection in readers if who is not keeper]
                await crash(keeper)
            elif action == "restart":
                keepers.append(made.process())
            elif action == "time":
                await made.pass_time(number, *alive())
                await sweep()
        if last_left is None and not readers:
            return
        keepers.append(made.process())
        while readers:
            await leave(*readers.pop())
            last_left = made.now
        # Time for notes of the dead to lapse, for their readers to come back, and for a sweep after each.
        for _ in range(3):
            await made.pass_time(TTL + GRACE, *alive())
            await sweep()
        assert made.cancelled_at
        assert await made.store.notes("run") == []
