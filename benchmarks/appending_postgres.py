"""Appending to PostgreSQL beside the bare driver with one statement a batch, by the size of the batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from benchmarks.measure import Case, Clock, Row, Scale, in_turns
from streamchat.buffers.base import Lease, NewEvent, NewRun
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.events import RunStarted, TextDelta
from tests.services.postgres import start_postgres

__all__ = ["appending_postgres", "postgres_buffer"]

BATCHES = (1, 10, 50, 200)
RUNS = 25

# The least that an appended batch takes: its run's row is moved on under the rule, its events are inserted.
_APPEND = """
    WITH moved AS (
        UPDATE streamchat_runs SET head_seq = head_seq + $4, updated_at = 0
        WHERE run_id = $1 AND generation = $2 AND head_seq = $3 AND owner IS NOT NULL RETURNING run_id
    )
    INSERT INTO streamchat_events (run_id, seq, type, data, private, at)
    SELECT moved.run_id, $3 + e.place, e.type, e.data, e.private, 0
    FROM moved, unnest($5::text[], $6::bytea[], $7::bytea[]) WITH ORDINALITY AS e(type, data, private, place)
"""


class _Bench:
    """A server, the bare driver and a buffer on it."""

    def __init__(self, bare: Any, buffer: SQLEventBuffer) -> None:
        self._bare = bare
        self._buffer = buffer
        self._made = 0

    def bare(self, batch: list[NewEvent], times: int) -> Case:
        """One batch after the other's answer, to a run of its own."""

        async def case(clock: Clock) -> float:
            lease = await self._held()
            head, size = lease.head_seq, len(batch)
            with clock.running():
                for _ in range(times):
                    types, datas, private = zip(*batch, strict=True)
                    await self._bare.execute(
                        _APPEND, lease.run_id, lease.generation, head, size, types, datas, private
                    )
                    head += size
            return times * size

        return case

    def ours(self, batch: list[NewEvent], times: int, runs: int = 1) -> Case:
        """One holder after the other's answer, for each of so many runs at once."""

        async def write(lease: Lease) -> None:
            for _ in range(times // runs):
                lease = (await self._buffer.append(lease, batch)).lease

        async def case(clock: Clock) -> float:
            leases = [await self._held() for _ in range(runs)]
            with clock.running():
                async with asyncio.TaskGroup() as group:
                    for lease in leases:
                        group.create_task(write(lease))
            return times // runs * runs * len(batch)

        return case

    async def _held(self) -> Lease:
        self._made += 1
        name = f"run-{self._made}"
        started = NewEvent.of(RunStarted(run_id=name))
        await self._buffer.create(NewRun(name, conversation_id=name, message_id=f"m-{name}", started=started))
        claim = await self._buffer.claim("benchmark", 600.0, name)
        assert claim is not None
        return claim.lease


@asynccontextmanager
async def postgres_buffer() -> AsyncIterator[tuple[SQLEventBuffer, str]]:
    """An open buffer on a server of its own, and the server's URL."""
    with start_postgres() as server:
        buffer = await SQLEventBuffer(server.url, create_tables=True).open()
        try:
            yield buffer, server.url
        finally:
            await buffer.close()


async def appending_postgres(scale: Scale) -> list[Row]:
    """Deltas appended by one holder, one batch after the other; then by many holders at once."""
    event = NewEvent.of(TextDelta(step=1, part=1, text=" word"))
    rows: list[Row] = []
    async with postgres_buffer() as (buffer, url):
        bare = await asyncpg.connect(url)
        bench = _Bench(bare, buffer)
        for size in BATCHES:
            times = max(RUNS, min(scale.events // 10, scale.events // size))
            cases = {
                "ours": bench.ours([event] * size, times),
                "many": bench.ours([event] * size, times, RUNS),
                "bare": bench.bare([event] * size, times),
            }
            samples = await in_turns(cases, scale.rounds)
            rows.append(samples.row(f"append to PostgreSQL, batches of {size}", "ours", "bare", 1.3))
            rows.append(samples.row(f"the same, {RUNS} runs at once", "many", "bare", 1.3))
        await bare.close()
    return rows
