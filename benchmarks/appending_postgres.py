"""Appending to PostgreSQL beside the bare driver with one statement a batch, by the size of the batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from benchmarks.holders import Bare, Holders, beside_bare_server
from benchmarks.measure import Case, Clock, Row, Scale
from streamchat.buffers.base import NewEvent
from streamchat.buffers.sql import SQLEventBuffer
from tests.services.postgres import start_postgres

__all__ = ["appending_postgres", "postgres_buffer"]

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


def _through_bare(connection: Any, holders: Holders) -> Bare:
    def through_bare(batch: list[NewEvent], times: int) -> Case:
        async def case(clock: Clock) -> float:
            lease = await holders.held()
            head, size = lease.head_seq, len(batch)
            with clock.running():
                for _ in range(times):
                    types, datas, private = zip(*batch, strict=True)
                    await connection.execute(
                        _APPEND, lease.run_id, lease.generation, head, size, types, datas, private
                    )
                    head += size
            return times * size

        return case

    return through_bare


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
    async with postgres_buffer() as (buffer, url):
        connection = await asyncpg.connect(url)
        # The bare driver appends to runs of the same tables.
        rows = await beside_bare_server(
            "PostgreSQL", buffer, _through_bare(connection, Holders(buffer, "bare")), scale
        )
        await connection.close()
    return rows
