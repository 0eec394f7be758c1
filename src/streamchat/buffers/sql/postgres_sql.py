"""PostgreSQL's hot path: a group of batches is one statement, a page is one row, over asyncpg's own
connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamchat.buffers.sql.dialect import Accepted
from streamchat.buffers.transactional.appending import AppendJob
from streamchat.buffers.transactional.hot import PageRows

__all__ = ["CLOCK", "Statements"]

CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
"""The database's time in milliseconds, at the moment of asking."""

_LARGE_LOG = 32 * 1024 * 1024
_LARGE_PAGE = 16 * 1024 * 1024


class Statements:
    """The statements for tables of one prefix; ``sender`` begins what is announced on ``channel``."""

    def __init__(self, prefix: str, channel: str, sender: str) -> None:
        self._channel = channel
        self._sender = sender
        # Rows are locked in the order of their ids, by every process, and what somebody holds is left out.
        # FOR UPDATE judges a row by its newest version, so `held` is what the update will find.
        self._append = f"""
            WITH clock AS MATERIALIZED (SELECT coalesce($12::bigint, {CLOCK}) AS now),
            held AS MATERIALIZED (
                SELECT r.run_id, r.posted - r.consumed AS unread, b.number, b.head_seq, b.events, b.bytes
                FROM unnest($1::text[], $2::text[], $3::bigint[], $4::int[], $5::bigint[])
                    WITH ORDINALITY AS b(run_id, generation, head_seq, events, bytes, number)
                JOIN {prefix}runs AS r ON r.run_id = b.run_id AND r.generation = b.generation
                    AND r.head_seq = b.head_seq AND r.owner IS NOT NULL
                ORDER BY r.run_id FOR UPDATE OF r SKIP LOCKED
            ), written AS (
                INSERT INTO {prefix}events (run_id, seq, type, data, private, at)
                SELECT held.run_id, held.head_seq + e.place, e.type, e.data, e.private, clock.now
                FROM unnest($6::bigint[], $7::bigint[], $8::text[], $9::bytea[], $10::bytea[])
                    AS e(number, place, type, data, private)
                JOIN held ON held.number = e.number CROSS JOIN clock
            ), moved AS (
                UPDATE {prefix}runs AS r SET head_seq = held.head_seq + held.events,
                    batch_seq = held.head_seq + 1, log_bytes = r.log_bytes + held.bytes,
                    updated_at = clock.now
                FROM held CROSS JOIN clock WHERE r.run_id = held.run_id AND held.events > 0
            )
            SELECT held.run_id, clock.now, held.unread,
                CASE WHEN held.events > 0 THEN pg_notify('{channel}', $11::text || held.run_id) END
            FROM held CROSS JOIN clock"""
        self._append_one = _append_one(
            prefix,
            channel,
            "unnest($8::text[], $9::bytea[], $10::bytea[]) WITH ORDINALITY AS e(type, data, private, place)",
        )
        self._append_event = _append_one(
            prefix, channel, "(VALUES ($8::text, $9::bytea, $10::bytea, 1)) AS e(type, data, private, place)"
        )
        self._page = f"""
            SELECT r.first_seq, r.head_seq, r.log_bytes,
                ARRAY(SELECT generation FROM {prefix}segments WHERE run_id = $1 ORDER BY fence),
                ARRAY(SELECT first_seq FROM {prefix}segments WHERE run_id = $1 ORDER BY fence),
                e.*
            FROM {prefix}runs AS r CROSS JOIN LATERAL (
                SELECT array_agg(seq), array_agg(type), array_agg(data), array_agg(private), array_agg(at)
                FROM (
                    SELECT seq, type, data, private, at FROM {prefix}events
                    WHERE run_id = $1 AND seq > $2 ORDER BY seq
                    LIMIT CASE WHEN r.log_bytes > $4 THEN 0 ELSE $3 END
                ) AS stretch
            ) AS e
            WHERE r.run_id = $1"""
        self._sizes = (
            f"SELECT array_agg(size) FROM (SELECT length(data) + coalesce(length(private), 0) AS size "
            f"FROM {prefix}events WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3) AS sizes"
        )
        self._heads = f"SELECT run_id, head_seq, posted FROM {prefix}runs WHERE run_id = ANY($1::text[])"

    async def append(self, raw: Any, jobs: Sequence[AppendJob], now: int | None) -> dict[str, Accepted]:
        """See `ServerDialect.append`."""
        if len(jobs) == 1:
            written = await self._write_one(raw, jobs[0], now)
        else:
            written = await self._write(raw, jobs, now)
        return {run_id: Accepted(at, unread) for run_id, at, unread, _ in written}

    async def _write_one(self, raw: Any, job: AppendJob, now: int | None) -> Any:
        lease, coded = job.batch.lease, job.coded
        run = (lease.run_id, lease.generation, lease.head_seq, len(coded), job.size, self._sender, now)
        if len(coded) == 1:
            return await raw.fetch(self._append_event, *run, *coded[0])
        columns = ([event[column] for event in coded] for column in range(3))
        return await raw.fetch(self._append_one, *run, *columns)

    async def _write(self, raw: Any, jobs: Sequence[AppendJob], now: int | None) -> Any:
        leases = [job.batch.lease for job in jobs]
        rows = [
            (number, place, *event)
            for number, job in enumerate(jobs, 1)
            for place, event in enumerate(job.coded, 1)
        ]
        return await raw.fetch(
            self._append,
            [lease.run_id for lease in leases],
            [lease.generation for lease in leases],
            [lease.head_seq for lease in leases],
            [len(job.coded) for job in jobs],
            [job.size for job in jobs],
            *(zip(*rows, strict=True) if rows else [()] * 5),
            self._sender,
            now,
        )

    async def page(self, raw: Any, run_id: str, after: int, limit: int) -> PageRows | None:
        """See `ServerDialect.page`."""
        found = await raw.fetchrow(self._page, run_id, after, limit, _LARGE_LOG)
        if found is None or found[2] <= _LARGE_LOG:
            return _page_rows(found)
        # A large log is looked at before it is fetched. Both looks see the same events, which never change;
        # a trim between them makes the page begin later, which its first_seq says.
        fitting, total = 0, 0
        for size in await raw.fetchval(self._sizes, run_id, after, limit) or ():
            total += size
            if fitting and total > _LARGE_PAGE:
                break
            fitting += 1
        return _page_rows(await raw.fetchrow(self._page, run_id, after, max(fitting, 1), 2**62))

    async def heads(self, raw: Any, run_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """See `ServerDialect.heads`."""
        return {row[0]: (row[1], row[2]) for row in await raw.fetch(self._heads, run_ids)}


def _append_one(prefix: str, channel: str, events: str) -> str:
    """Return the statement for one run, without arrays of one: they are what costs the driver most."""
    return f"""
        WITH clock AS MATERIALIZED (SELECT coalesce($7::bigint, {CLOCK}) AS now),
        held AS MATERIALIZED (
            SELECT run_id, posted - consumed AS unread FROM {prefix}runs
            WHERE run_id = $1 AND generation = $2 AND head_seq = $3 AND owner IS NOT NULL
            FOR UPDATE SKIP LOCKED
        ), written AS (
            INSERT INTO {prefix}events (run_id, seq, type, data, private, at)
            SELECT held.run_id, $3 + e.place, e.type, e.data, e.private, clock.now
            FROM held CROSS JOIN clock CROSS JOIN {events}
        ), moved AS (
            UPDATE {prefix}runs AS r SET head_seq = $3 + $4::int, batch_seq = $3 + 1,
                log_bytes = r.log_bytes + $5::bigint, updated_at = clock.now
            FROM held CROSS JOIN clock WHERE r.run_id = held.run_id AND $4 > 0
        )
        SELECT held.run_id, clock.now, held.unread,
            CASE WHEN $4 > 0 THEN pg_notify('{channel}', $6::text || held.run_id) END
        FROM held CROSS JOIN clock"""


def _page_rows(row: Any) -> PageRows | None:
    if row is None:
        return None
    first_seq, head_seq, _, generations, starts, seqs, types, datas, privates, ats = row
    segments = list(zip(generations, starts, strict=True))
    events = [] if seqs is None else list(zip(seqs, types, datas, privates, ats, strict=True))
    return PageRows(first_seq, head_seq, segments, events)
