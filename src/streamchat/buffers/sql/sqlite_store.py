"""The SQLite side of the seams: `SQLiteStore` for the writer, `SQLiteHotPath` for batches and pages.

The standard library's driver gives up the interpreter's lock at each row that it steps over, and on a busy
process takes up to 5 ms to get it back: a thousand rows fetched one by one took 0.6 s there. So the hot path
is written in single steps: many rows in one INSERT, a whole page as one row of aggregates (13 ms in the same
trial).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from sqlalchemy import Engine

from streamchat.buffers.codec import Payloads
from streamchat.buffers.shared import Clock, Token
from streamchat.buffers.sql.migrations import prepare
from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.sql.sqlite import begin_immediate, connect, translate
from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.transactional.appending import AppendJob, accepted, append_many
from streamchat.buffers.transactional.hot import EventRow, Head, Move, PageRows
from streamchat.buffers.transactional.jobs import Job
from streamchat.errors import BufferUnavailable, StreamChatError

__all__ = ["SQLiteHotPath", "SQLiteSession", "SQLiteStore"]

R = TypeVar("R")

# At most so many rows in one INSERT: each number is a statement for the driver's cache, which holds 128.
_ROWS = 64
_LARGE_LOG = 32 * 1024 * 1024
_LARGE_PAGE = 16 * 1024 * 1024


class SQLiteHotPath:
    """`HotPath` over one connection of the standard library's driver."""

    def __init__(self, raw: sqlite3.Connection, prefix: str) -> None:
        self._raw = raw
        columns = "run_id, generation, head_seq, owner, posted - consumed, conversation_id, status"
        self._head = f"SELECT {columns} FROM {prefix}runs WHERE run_id = ?"
        self._heads = (
            f"SELECT json_group_array(json_array({columns})) FROM {prefix}runs "
            f"WHERE run_id IN (SELECT value FROM json_each(?))"
        )
        self._insert = [
            f"INSERT INTO {prefix}events (run_id, seq, type, data, private, at) "
            f"VALUES {', '.join(['(?, ?, ?, ?, ?, ?)'] * rows)}"
            for rows in range(_ROWS + 1)
        ]
        self._advance = (
            f"UPDATE {prefix}runs SET head_seq = ?, batch_seq = ?, log_bytes = log_bytes + ?, updated_at = ? "
            f"WHERE run_id = ?"
        )
        going_on = "generation = ? AND head_seq = ? AND owner IS NOT NULL AND posted = consumed"
        self._go_on = f"{self._advance} AND {going_on}"
        self._advance_many = (
            f"UPDATE {prefix}runs SET head_seq = json_extract(m.value, '$[1]'), "
            f"batch_seq = json_extract(m.value, '$[2]'), "
            f"log_bytes = log_bytes + json_extract(m.value, '$[3]'), "
            f"updated_at = json_extract(m.value, '$[4]') "
            f"FROM json_each(?) AS m WHERE {prefix}runs.run_id = json_extract(m.value, '$[0]')"
        )
        stretch = (
            f"FROM {prefix}events WHERE run_id = :run AND seq > :after ORDER BY seq LIMIT "
            f"(SELECT CASE WHEN log_bytes > :large THEN 0 ELSE :limit END "
            f"FROM {prefix}runs WHERE run_id = :run)"
        )
        self._page = f"""
            SELECT r.first_seq, r.head_seq, r.log_bytes,
                (SELECT json_group_array(json_array(generation, first_seq)) FROM
                    (SELECT generation, first_seq FROM {prefix}segments WHERE run_id = :run ORDER BY fence)),
                e.*
            FROM {prefix}runs AS r LEFT JOIN
                (SELECT min(seq), json_group_array(type), json_group_array(at),
                    json_group_array(length(data)), CAST(group_concat(data, '') AS BLOB),
                    json_group_array(length(private)), CAST(group_concat(private, '') AS BLOB)
                FROM (SELECT seq, type, data, private, at {stretch})) AS e
            WHERE r.run_id = :run"""
        self._sizes = (
            f"SELECT json_group_array(size) FROM (SELECT length(data) + ifnull(length(private), 0) AS size "
            f"FROM {prefix}events WHERE run_id = ? AND seq > ? ORDER BY seq LIMIT ?)"
        )

    def go_on(self, job: AppendJob, now: int) -> bool:
        """Write a plain batch if its run stands where the holder says and has no unread inputs; else
        nothing."""
        run_id, coded, lease = job.run_id, job.coded, job.batch.lease
        seq = lease.head_seq
        reached = seq + len(coded)
        values = (reached, seq + 1, job.size, now, run_id, lease.generation, seq)
        if self._raw.execute(self._go_on, values).rowcount != 1:
            return False
        for start in range(0, len(coded), _ROWS):
            some = coded[start : start + _ROWS]
            fields: list[Any] = []
            for event_type, data, private in some:
                seq += 1
                fields += (run_id, seq, event_type, data, private, now)
            self._raw.execute(self._insert[len(some)], fields)
        return True

    def heads(self, run_ids: Collection[str]) -> dict[str, Head]:
        """Read the heads of some runs."""
        if len(run_ids) == 1:
            row = self._raw.execute(self._head, tuple(run_ids)).fetchone()
            return {} if row is None else {row[0]: Head._make(row)}
        (rows,) = self._raw.execute(self._heads, (json.dumps(list(run_ids)),)).fetchone()
        return {row[0]: Head._make(row) for row in json.loads(rows)}

    def insert(self, rows: Sequence[EventRow]) -> None:
        """Write events."""
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            self._raw.execute(self._insert[len(some)], [field for row in some for field in row])

    def advance(self, moves: Sequence[Move]) -> None:
        """Move heads."""
        if len(moves) == 1:
            run_id, *values = moves[0]
            self._raw.execute(self._advance, (*values, run_id))
        elif moves:
            self._raw.execute(self._advance_many, (json.dumps(moves),))

    def page(self, run_id: str, after: int, limit: int) -> PageRows | None:
        """Read a page."""
        found = self._fetch(run_id, after, limit, _LARGE_LOG)
        if found is None or found[2] <= _LARGE_LOG:
            return found and _page_rows(found)
        (sizes,) = self._raw.execute(self._sizes, (run_id, after, limit)).fetchone()
        fitting, total = 0, 0
        for size in json.loads(sizes):
            total += size
            if fitting and total > _LARGE_PAGE:
                break
            fitting += 1
        found = self._fetch(run_id, after, max(fitting, 1), 2**62)
        return found and _page_rows(found)

    def _fetch(self, run_id: str, after: int, limit: int, large: int) -> Any:
        values = {"run": run_id, "after": after, "limit": limit, "large": large}
        return self._raw.execute(self._page, values).fetchone()


def _page_rows(row: Sequence[Any]) -> PageRows:
    first_seq, head_seq, _, segments, seq, types, ats, sizes, data, private_sizes, private = row
    events: list[tuple[int, str, bytes, bytes | None, int]] = []
    if seq is not None:
        start = private_start = 0
        for event_type, at, size, private_size in zip(
            json.loads(types), json.loads(ats), json.loads(sizes), json.loads(private_sizes), strict=True
        ):
            hidden = None
            if private_size is not None:
                hidden = private[private_start : private_start + private_size]
                private_start += private_size
            events.append((seq, event_type, data[start : start + size], hidden, at))
            start += size
            seq += 1
    return PageRows(first_seq, head_seq, [(g, s) for g, s in json.loads(segments)], events)


class SQLiteSession:
    """A connection to read by: see `readers.Session`."""

    def __init__(self, tx: Tx, raw: sqlite3.Connection) -> None:
        self._tx = tx
        self.raw = raw

    def look(self, body: Callable[[Tx], R]) -> R:
        """Run ``body`` in a transaction that sees one moment."""
        tx, raw = self._tx, self.raw
        raw.execute("BEGIN")
        tx.now = tx.clock()
        try:
            return body(tx)
        finally:
            if raw.in_transaction:
                raw.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection."""
        self._tx.connection.close()


class SQLiteStore:
    """What the writer needs of SQLite; the readers' connections are made here too."""

    def __init__(
        self,
        engine: Engine,
        schema: Schema,
        payloads: Payloads,
        *,
        clock: Clock,
        token: Token,
        busy_seconds: float,
        create_tables: bool,
    ) -> None:
        self._engine = engine
        self._schema = schema
        self._payloads = payloads
        self._clock = clock
        self._token = token
        self._busy_seconds = busy_seconds
        self._create_tables = create_tables
        self._where = f"SQLite database {engine.url.database or ':memory:'!r}"
        self._tx: Tx | None = None
        self._raw: sqlite3.Connection | None = None
        self._full = False

    def session(self) -> SQLiteSession:
        """Open a connection to read by, for the calling thread."""
        return SQLiteSession(*self._opened(writes=False))

    def _opened(self, *, writes: bool) -> tuple[Tx, sqlite3.Connection]:
        connection, raw = connect(self._engine, writes=writes)
        hot = SQLiteHotPath(raw, self._schema.prefix)
        return Tx(connection, hot, self._schema, self._payloads, self._clock, self._token), raw

    def connect(self) -> None:
        """Open the writing connection, and make or check the tables."""
        self._tx, self._raw = self._opened(writes=True)
        self._raw.execute("PRAGMA synchronous = FULL")
        self._full = True
        begin_immediate(self._raw, self._busy_seconds)
        try:
            prepare(self._tx.connection, self._schema, create=self._create_tables, where=self._where)
            self._raw.execute("COMMIT")
        except BaseException:
            self._roll_back(self._raw)
            raise

    def disconnect(self) -> None:
        """Close the writing connection."""
        tx, self._tx, self._raw = self._tx, None, None
        if tx is not None:
            tx.connection.close()

    def transact(self, jobs: Sequence[Job[Tx, Any]], *, durable: bool) -> None:
        """Do all jobs in one transaction; see `Store.transact`."""
        tx, raw = self._tx, self._raw
        if tx is None or raw is None:
            raise BufferUnavailable(f"{self._where} is not open")
        if raw.in_transaction:  # one that could not be rolled back when it failed
            self._roll_back(raw)
        if durable != self._full:
            # Not possible inside a transaction. FULL makes what went before it durable as well.
            raw.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._full = durable
        try:
            begin_immediate(raw, self._busy_seconds)
        except sqlite3.Error as error:
            raise self.translate(error, change=True) from error
        try:
            tx.now = self._clock()
            self._perform(tx, raw, jobs)
            raw.execute("COMMIT")
        except BaseException:
            self._roll_back(raw)
            raise

    def translate(self, error: Exception, *, change: bool = False) -> Exception:
        """Return the error that callers are to see; ``change`` says that something was to be written."""
        return translate(error, self._where, change=change)

    def _perform(self, tx: Tx, raw: sqlite3.Connection, jobs: Sequence[Job[Tx, Any]]) -> None:
        # Who waits in one transaction waits at the same time, so any order among them is a true one.
        plain = [job for job in jobs if isinstance(job, AppendJob) and job.plain]
        if len(plain) == 1 and plain[0].coded and isinstance(tx.hot, SQLiteHotPath):
            (one,) = plain
            if tx.hot.go_on(one, tx.now):  # as nearly always
                one.result = accepted(one, tx.now, 0)
                plain = []
        while plain:
            first = {job.run_id: job for job in reversed(plain)}
            append_many(tx, list(first.values()))
            plain = [job for job in plain if first[job.run_id] is not job]
        for job in jobs:
            if not job.plain:
                raw.execute("SAVEPOINT job")
                try:
                    job.result = job.body(tx)
                except StreamChatError as error:
                    job.error = error
                    raw.execute("ROLLBACK TO job")
                raw.execute("RELEASE job")

    @staticmethod
    def _roll_back(raw: sqlite3.Connection) -> None:
        # Some errors, a full disk among them, have rolled back already.
        with contextlib.suppress(sqlite3.Error):
            if raw.in_transaction:
                raw.execute("ROLLBACK")
