"""MySQL's hot path, over asyncmy's own connection: a group of batches is three statements and a commit, a
page is one statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from streamchat.buffers.sql.dialect import Accepted
from streamchat.buffers.sql.mysql_errors import too_large
from streamchat.buffers.transactional.appending import AppendJob
from streamchat.buffers.transactional.hot import PageRows

__all__ = ["CLOCK", "Statements", "check_size"]

CLOCK = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000"
"""The database's time in milliseconds, whatever the session's time zone."""

_LARGE_LOG = 32 * 1024 * 1024
_LARGE_PAGE = 16 * 1024 * 1024
_STATEMENT = 1024 * 1024
"""How many bytes of events go into one INSERT, but for a single larger one."""
_AROUND = 4096
"""More than what stands around one row's values in a statement."""


class Statements:
    """The statements for tables of one prefix; ``packet`` is the server's max_allowed_packet, as far as
    known."""

    def __init__(self, prefix: str) -> None:
        self.packet = 0
        # By the unique index and by the primary key, whatever the optimizer thinks of small tables: a row
        # that is only passed by would be locked for others.
        self._lock = (
            f"SELECT run_id, `number`, generation, head_seq, posted - consumed, {CLOCK} FROM {prefix}runs "
            f"FORCE INDEX (run_id) WHERE run_id IN %s AND owner IS NOT NULL ORDER BY run_id "
            f"FOR UPDATE SKIP LOCKED"
        )
        self._insert = f"INSERT INTO {prefix}events (run_id, seq, `type`, `data`, `private`, `at`) VALUES "
        # Assignments are made from left to right.
        self._advance = (
            f"UPDATE {prefix}runs FORCE INDEX (PRIMARY) SET batch_seq = head_seq + 1, "
            f"head_seq = head_seq + CASE `number` {{events}} END, "
            f"log_bytes = log_bytes + CASE `number` {{bytes}} END, updated_at = %s WHERE `number` IN %s"
        )
        # All parts of one statement see the same moment.
        self._page = (
            f"(SELECT 0, head_seq, '', NULL, NULL, first_seq, log_bytes FROM {prefix}runs WHERE run_id = %s) "
            f"UNION ALL (SELECT 1, fence, generation, NULL, NULL, first_seq, 0 FROM {prefix}segments "
            f"WHERE run_id = %s) "
            f"UNION ALL (SELECT 2, seq, `type`, `data`, `private`, `at`, 0 FROM {prefix}events "
            f"WHERE run_id = %s AND seq > %s "
            f"AND (SELECT log_bytes FROM {prefix}runs WHERE run_id = %s) <= %s ORDER BY seq LIMIT %s)"
        )
        self._sizes = (
            f"SELECT LENGTH(`data`) + COALESCE(LENGTH(`private`), 0) FROM {prefix}events "
            f"WHERE run_id = %s AND seq > %s ORDER BY seq LIMIT %s"
        )
        self._heads = f"SELECT run_id, head_seq, posted FROM {prefix}runs WHERE run_id IN %s"

    async def append(self, raw: Any, jobs: Sequence[AppendJob], now: int | None) -> dict[str, Accepted]:
        """See `ServerDialect.append`."""
        async with raw.cursor() as cursor:
            await cursor.execute(self._lock, (tuple(sorted(job.run_id for job in jobs)),))
            heads = {row[0]: row[1:] for row in await cursor.fetchall()}
            held: list[tuple[AppendJob, int, int, int, int]] = []
            for job in jobs:
                number, generation, head_seq, unread, at = heads.get(job.run_id, (0, "", 0, 0, 0))
                lease = job.batch.lease
                if number and (generation, head_seq) == (lease.generation, lease.head_seq):
                    held.append((job, number, head_seq, unread, at if now is None else now))
            for statement, values in self._writing(held):
                await cursor.execute(statement, values)
            await raw.commit()
        return {job.run_id: Accepted(at, unread) for job, _, _, unread, at in held}

    def _writing(
        self, held: Sequence[tuple[AppendJob, int, int, int, int]]
    ) -> Iterator[tuple[str, Sequence[Any]]]:
        rows = [
            (job.run_id, seq, *event, at)
            for job, _, head_seq, _, at in held
            for seq, event in enumerate(job.coded, head_seq + 1)
        ]
        for some in _by_size(rows):
            values = [value for row in some for value in row]
            check_size(values, self.packet)
            yield self._insert + ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(some)), values
        moved = [(number, len(job.coded), job.size, at) for job, number, _, _, at in held if job.coded]
        if moved:
            statement = self._advance.format(
                events=" ".join(f"WHEN {number:d} THEN {count:d}" for number, count, _, _ in moved),
                bytes=" ".join(f"WHEN {number:d} THEN {size:d}" for number, _, size, _ in moved),
            )
            yield statement, (moved[0][3], tuple(number for number, *_ in moved))

    async def page(self, raw: Any, run_id: str, after: int, limit: int) -> PageRows | None:
        """See `ServerDialect.page`."""
        async with raw.cursor() as cursor:
            found, log_bytes = await self._fetch(cursor, run_id, after, limit, _LARGE_LOG)
            if found is None or log_bytes <= _LARGE_LOG:
                return found
            # A large log is looked at before it is fetched. Both looks see the same events, which never
            # change; a trim between them makes the page begin later, which its first_seq says.
            await cursor.execute(self._sizes, (run_id, after, limit))
            fitting, total = 0, 0
            for (size,) in await cursor.fetchall():
                total += size
                if fitting and total > _LARGE_PAGE:
                    break
                fitting += 1
            found, _ = await self._fetch(cursor, run_id, after, max(fitting, 1), 2**62)
            return found

    async def _fetch(
        self, cursor: Any, run_id: str, after: int, limit: int, largest: int
    ) -> tuple[PageRows | None, int]:
        """Return a page and its log's size; without events where that is more than ``largest``."""
        await cursor.execute(self._page, (run_id, run_id, run_id, after, run_id, largest, limit))
        first_seq, head_seq, log_bytes = 0, 0, -1
        segments: list[tuple[int, str, int]] = []
        events: list[tuple[int, str, bytes, bytes | None, int]] = []
        for part, number, text, data, private, place, size in await cursor.fetchall():
            if part == 2:
                events.append((number, text, data, private, place))
            elif part == 1:
                segments.append((number, text, place))
            else:
                head_seq, first_seq, log_bytes = number, place, size
        if log_bytes < 0:
            return None, 0
        segments.sort()
        events.sort(key=lambda event: event[0])
        return PageRows(first_seq, head_seq, [segment[1:] for segment in segments], events), log_bytes

    async def heads(self, raw: Any, run_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """See `ServerDialect.heads`."""
        if not run_ids:
            return {}
        async with raw.cursor() as cursor:
            await cursor.execute(self._heads, (tuple(run_ids),))
            return {row[0]: (row[1], row[2]) for row in await cursor.fetchall()}


def check_size(values: Iterable[Any], packet: int) -> None:
    """Raise `BufferUnavailable` for values that cannot go in one statement of ``packet`` bytes (0: unknown).

    The server would answer by closing the connection, often before it has said why.
    """
    texts = [value for value in values if isinstance(value, (bytes, str))]
    size = sum(map(len, texts))
    # Nothing more than doubles bytes; text may take four bytes a character, but ids are short.
    if not packet or 2 * size + _AROUND < packet:
        return
    size = sum(map(_written_size, texts)) + _AROUND
    if size >= packet:
        raise too_large(size, packet)


def _written_size(value: bytes | str) -> int:
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return len(raw) + sum(raw.count(mark) for mark in (b"\0", b"\n", b"\r", b"\x1a", b'"', b"'", b"\\")) + 16


def _by_size(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Divide rows into statements."""
    some: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        weight = sum(len(value) for value in row if isinstance(value, (bytes, str)))
        if some and size + weight > _STATEMENT:
            yield some
            some, size = [], 0
        some.append(row)
        size += weight
    if some:
        yield some
