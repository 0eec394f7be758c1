"""What only the memory buffer does: it forgets what is over, and stays within its bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamchat.buffers.at_once import append_now_of
from streamchat.buffers.base import Lease, MessageRecord, NewEvent
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.errors import BufferUnavailable, ConversationNotFound, RunNotFound
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending
from tests.buffers.backends import Memory

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]


class Small(Memory):
    """A memory buffer with bounds."""

    def __init__(self, **bounds: object) -> None:
        super().__init__(Path())
        self.bounds = {"retention": None, **bounds}

    def make(self) -> MemoryEventBuffer:
        return MemoryEventBuffer(clock=self.clock, **self.bounds)  # type: ignore[arg-type]

    def bench(self) -> Bench:
        return Bench(self.make(), None, self.advance, 30.0)


async def finish(bench: Bench, lease: Lease, *texts: str) -> str:
    await bench.buffer.append(lease, [*deltas(*texts), *ending()], then="over")
    return lease.run_id


async def is_there(bench: Bench, run_id: str) -> bool:
    try:
        await bench.buffer.get(run_id)
    except RunNotFound:
        return False
    return True


async def test_what_is_over_is_forgotten_after_its_retention() -> None:
    bench = Small(retention=60.0).bench()
    old = await bench.held(idempotency_key="k", digest="d")
    home = (await bench.buffer.get(old.run_id)).conversation_id
    await finish(bench, old)
    active = await bench.held()
    await bench.advance(30)
    young = await finish(bench, await bench.held())
    await bench.advance(30)
    assert [await is_there(bench, run) for run in (old.run_id, young, active.run_id)] == [False, True, True]
    with pytest.raises(RunNotFound):
        await bench.buffer.read(old.run_id)
    with pytest.raises(ConversationNotFound):
        await bench.buffer.messages(home)
    # Its key and ids are free again: nothing is remembered for ever.
    await bench.created(run_id=old.run_id, conversation_id=home, idempotency_key="k", digest="e")


async def test_the_oldest_of_what_is_over_makes_room_for_new_runs() -> None:
    bench = Small(max_runs=3).bench()
    active = await bench.held()
    over = [await finish(bench, await bench.held()) for _ in range(4)]
    assert [await is_there(bench, run) for run in over] == [False, False, True, True]
    assert await is_there(bench, active.run_id)


async def test_a_full_buffer_takes_no_new_run_and_drops_no_active_one() -> None:
    bench = Small(max_runs=2).bench()
    leases = [await bench.held() for _ in range(2)]
    with pytest.raises(BufferUnavailable, match="max_runs=2"):
        await bench.created()
    for lease in leases:
        await finish(bench, lease)
    await bench.created()


async def test_bytes_are_bounded_by_dropping_what_is_over() -> None:
    bench = Small(max_bytes=100_000).bench()
    big = "x" * 30_000
    first = await finish(bench, await bench.held(), big)
    second = await finish(bench, await bench.held(), big)
    assert await is_there(bench, first)
    active = await bench.held()
    active = (await bench.buffer.append(active, deltas(big, big))).lease
    assert [await is_there(bench, run) for run in (first, second)] == [False, True]
    # Appends to what is active always fit; new runs must wait.
    active = (await bench.buffer.append(active, deltas(big, big))).lease
    assert not await is_there(bench, second)
    with pytest.raises(BufferUnavailable, match="max_bytes=100000"):
        await bench.created()
    await finish(bench, active)
    await bench.created()


async def test_all_that_is_stored_is_counted_and_given_back() -> None:
    bench = Small(max_runs=1).bench()
    for _ in range(3):
        run = bench.new_run(request=b"r" * 500)
        record = MessageRecord(f"m-{run.run_id}", run.conversation_id, "user", "complete", b"c" * 100)
        await bench.buffer.create(run, [record], [NewEvent("custom", b"d" * 50, b"p" * 50)])
        lease = await bench.claimed(run.run_id)
        lease = (await bench.buffer.append(lease, deltas("a"), messages=[record, record])).lease
        await finish(bench, lease)
        await bench.buffer.trim(2**52)
    (last,) = bench.buffer._state.runs  # type: ignore[attr-defined]
    home = (await bench.buffer.get(last)).conversation_id
    await bench.buffer.delete(run_id=last)
    await bench.buffer.delete(conversation_id=home)
    state = bench.buffer._state  # type: ignore[attr-defined]
    assert state.size == 0
    left = [state.runs, state.conversations, state.message_homes, state.by_slot, state.ended, state.active]
    assert not any(left)


async def test_what_is_appended_now_is_what_append_would_have_written() -> None:
    bench, other = Small().bench(), Small().bench()
    lease, same = await bench.held(), await other.held()
    now = bench.buffer.append_now(lease, deltas("a", "b"))  # type: ignore[attr-defined]
    awaited = await other.buffer.append(same, deltas("a", "b"))
    assert [(e.seq, e.type, e.data) for e in now.events] == [(e.seq, e.type, e.data) for e in awaited.events]
    assert (now.lease.head_seq, now.recovered) == (awaited.lease.head_seq, False)
    page = await bench.buffer.read(lease.run_id)
    assert page.events[-2:] == now.events


async def test_what_may_not_be_written_is_not_written_now_either() -> None:
    bench = Small().bench()
    lease = await bench.held()
    append_now = bench.buffer.append_now  # type: ignore[attr-defined]
    moved = append_now(lease, deltas("a")).lease
    head = moved.head_seq
    stale = Lease(lease.run_id, "w", "0" * 16, lease.fence, head, lease.expires_at)
    unknown = Lease("nowhere", "w", lease.generation, lease.fence, head, lease.expires_at)
    # Another's, nobody's, the same batch again, one that would end the log.
    for refused, events in (
        (stale, deltas("b")),
        (unknown, deltas("b")),
        (lease, deltas("a")),
        (moved, ending()),
    ):
        assert append_now(refused, events) is None
    assert (await bench.buffer.read(lease.run_id)).last_seq == head


async def test_who_appends_without_waiting_is_refused_now_and_then() -> None:
    bench = Small().bench()
    lease = await bench.held()
    written = 0
    while (appended := bench.buffer.append_now(lease, deltas("a"))) is not None:  # type: ignore[attr-defined]
        lease, written = appended.lease, written + 1
        assert written < 100


async def test_a_subclass_with_its_own_append_is_asked_through_that_alone() -> None:
    class Own(MemoryEventBuffer):
        async def append(self, *arguments: Any, **more: Any) -> Any:
            raise AssertionError

    class Wrapper:
        def __getattr__(self, name: str) -> object:
            return getattr(MemoryEventBuffer(), name)

    assert append_now_of(MemoryEventBuffer()) is not None
    assert append_now_of(Own()) is None
    assert append_now_of(Wrapper()) is None  # type: ignore[arg-type]
