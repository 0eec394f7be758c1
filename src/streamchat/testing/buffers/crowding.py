"""Behaviours among many: runs that are written at the same time, by several processes, do not mix."""

from __future__ import annotations

import anyio

from streamchat.buffers.base import EventBuffer, Lease
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, ending

__all__: list[str] = []


@behaviour
async def many_runs_written_at_once_do_not_mix(bench: Bench) -> None:
    leases = [await bench.held() for _ in range(20)]

    async def write(buffer: EventBuffer, lease: Lease) -> None:
        for number in range(8):
            texts = [f"{lease.run_id}/{number}/{n}" for n in range(number % 4)]
            lease = (await buffer.append(lease, deltas(*texts))).lease
        await buffer.append(lease, ending(), then="over")

    async with bench.another() as theirs, anyio.create_task_group() as group:
        for number, lease in enumerate(leases):
            group.start_soon(write, theirs if number % 2 else bench.buffer, lease)
    for lease in leases:
        page = await bench.buffer.read(lease.run_id)
        assert [event.seq for event in page.events] == list(range(1, page.last_seq + 1))
        assert page.closed
        expected = [f"{lease.run_id}/{number}/{n}" for number in range(8) for n in range(number % 4)]
        assert await bench.texts(lease.run_id) == expected


@behaviour
async def of_two_writers_with_one_lease_the_log_is_one_of_theirs(bench: Bench) -> None:
    lease = await bench.held()
    kept: list[str] = []

    async def write(name: str) -> None:
        held = lease
        try:
            for number in range(5):
                held = (await bench.buffer.append(held, deltas(f"{name}{number}"))).lease
        except Exception:
            return
        kept.append(name)

    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(write, name)
    assert len(kept) == 1
    assert await bench.texts(lease.run_id) == [f"{kept[0]}{number}" for number in range(5)]
