"""Behaviours of `trim`: finished runs only, their last batch stays, and a reader is told what is gone."""

from __future__ import annotations

from streamchat.core.cursor import Cursor, Position, Reset, resolve
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, ending

__all__: list[str] = []

_FAR = 2**52


@behaviour
async def a_trimmed_log_keeps_its_last_batch_and_says_what_is_gone(bench: Bench) -> None:
    lease = await bench.held()
    lease = (await bench.buffer.append(lease, deltas("a", "b"), then="queue")).lease
    lease = await bench.claimed(lease.run_id)
    lease = (await bench.buffer.append(lease, deltas("c", "d"))).lease
    await bench.buffer.append(lease, ending(), then="over")
    before = await bench.buffer.read(lease.run_id)
    assert await bench.buffer.trim(_FAR) == 1
    page = await bench.buffer.read(lease.run_id)
    assert (page.first_seq, page.last_seq, page.closed) == (6, 7, True)
    assert list(page.events) == list(before.events[5:])
    assert page.segments == before.segments
    for event in before.events:
        verdict = resolve(Cursor(event.generation, event.seq), page.segments, page.first_seq, page.last_seq)
        assert verdict == (Position(event.seq) if event.seq >= 5 else Reset("trimmed"))
        later = await bench.buffer.read(lease.run_id, event.seq)
        assert list(later.events) == [e for e in page.events if e.seq > event.seq]
    assert resolve(None, page.segments, page.first_seq, page.last_seq) == Reset("trimmed")
    record = await bench.buffer.get(lease.run_id)
    assert (record.status, record.head_seq) == ("success", 7)
    # The same batch is still recognized.
    assert (await bench.buffer.append(lease, ending(), then="over")).recovered


@behaviour
async def only_runs_that_ended_long_ago_are_trimmed(bench: Bench) -> None:
    active = await bench.held()
    active = (await bench.buffer.append(active, deltas("a"))).lease
    old = await bench.held()
    old = (await bench.buffer.append(old, deltas("a"))).lease
    await bench.buffer.append(old, ending(), then="over")
    await bench.advance(0.05)
    young = await bench.held()
    young = (await bench.buffer.append(young, deltas("a"))).lease
    await bench.buffer.append(young, ending(), then="over")
    ended = (await bench.buffer.get(young.run_id)).updated_at
    assert await bench.buffer.trim(0) == 0
    assert await bench.buffer.trim(ended) == 1
    assert (await bench.buffer.read(old.run_id)).first_seq == 3
    assert (await bench.buffer.read(young.run_id)).first_seq == 1
    assert await bench.buffer.trim(_FAR) == 1
    assert await bench.buffer.trim(_FAR) == 0
    assert (await bench.buffer.read(active.run_id)).first_seq == 1


@behaviour
async def a_call_trims_at_most_its_limit(bench: Bench) -> None:
    for _ in range(5):
        lease = await bench.held()
        await bench.buffer.append(lease, ending(), then="over")
    assert [await bench.buffer.trim(_FAR, 2) for _ in range(4)] == [2, 2, 1, 0]
