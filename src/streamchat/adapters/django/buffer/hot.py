"""`HotPath` over Django's cursor: what is done once per batch or page, without the ORM's work per row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

from streamchat.adapters.django.models import Event, Run, Segment
from streamchat.buffers.transactional.hot import EventRow, Head, Move, PageRows

__all__ = ["DjangoHotPath"]

_LARGE_LOG = 32 * 1024 * 1024
_LARGE_PAGE = 16 * 1024 * 1024


class DjangoHotPath:
    """Statements in the SQL that all databases share, over one connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        quote = connection.ops.quote_name
        self._runs, self._events, self._segments = (
            quote(model._meta.db_table) for model in cast("tuple[Any, ...]", (Run, Event, Segment))
        )
        self._columns = ", ".join(map(quote, ("run_id", "seq", "type", "data", "private", "at")))
        self._payload = f"LENGTH({quote('data')}) + COALESCE(LENGTH({quote('private')}), 0)"
        self._lock = " FOR UPDATE" if connection.features.has_select_for_update else ""

    def heads(self, run_ids: Collection[str]) -> dict[str, Head]:
        """Read and lock the heads of some runs, in the order of their ids."""
        names = sorted(run_ids)
        rows = self._fetch(
            f"SELECT run_id, generation, head_seq, owner, posted - consumed, conversation_id, status "
            f"FROM {self._runs} WHERE run_id IN ({', '.join(['%s'] * len(names))}) "
            f"ORDER BY run_id{self._lock}",
            names,
        )
        return {row[0]: Head._make(row) for row in rows}

    def insert(self, rows: Sequence[EventRow]) -> None:
        """Write events."""
        if rows:
            with self._connection.cursor() as cursor:
                cursor.executemany(
                    f"INSERT INTO {self._events} ({self._columns}) VALUES (%s, %s, %s, %s, %s, %s)", rows
                )

    def advance(self, moves: Sequence[Move]) -> None:
        """Move heads."""
        if moves:
            with self._connection.cursor() as cursor:
                cursor.executemany(
                    f"UPDATE {self._runs} SET head_seq = %s, batch_seq = %s, log_bytes = log_bytes + %s, "
                    f"updated_at = %s WHERE run_id = %s",
                    [(m.head_seq, m.batch_seq, m.size, m.at, m.run_id) for m in moves],
                )

    def page(self, run_id: str, after: int, limit: int) -> PageRows | None:
        """Read a page; one of large events is shorter than ``limit``."""
        run = self._fetch(
            f"SELECT first_seq, head_seq, log_bytes FROM {self._runs} WHERE run_id = %s", [run_id]
        )
        if not run:
            return None
        ((first_seq, head_seq, log_bytes),) = run
        segments = self._fetch(
            f"SELECT generation, first_seq FROM {self._segments} WHERE run_id = %s ORDER BY fence", [run_id]
        )
        if log_bytes > _LARGE_LOG:
            limit = self._fitting(run_id, after, limit)
        columns = self._columns.partition(", ")[2]
        rows = self._fetch(f"SELECT {columns} {self._stretch}", [run_id, after, limit])
        events = [(seq, kind, _bytes(data), _bytes(private), at) for seq, kind, data, private, at in rows]
        return PageRows(first_seq, head_seq, segments, events)

    def positions(self, run_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return (head_seq, posted) of those runs that are stored."""
        if not run_ids:
            return {}
        rows = self._fetch(
            f"SELECT run_id, head_seq, posted FROM {self._runs} "
            f"WHERE run_id IN ({', '.join(['%s'] * len(run_ids))})",
            run_ids,
        )
        return {run_id: (head_seq, posted) for run_id, head_seq, posted in rows}

    @property
    def _stretch(self) -> str:
        return f"FROM {self._events} WHERE run_id = %s AND seq > %s ORDER BY seq LIMIT %s"

    def _fitting(self, run_id: str, after: int, limit: int) -> int:
        """Return how many of the next events make a page of bounded size; at least one."""
        total = 0
        sizes = self._fetch(f"SELECT {self._payload} {self._stretch}", [run_id, after, limit])
        for number, (size,) in enumerate(sizes):
            total += size
            if number and total > _LARGE_PAGE:
                return number
        return limit

    def _fetch(self, statement: str, values: Sequence[Any]) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            found: list[Any] = cursor.fetchall()
            return found


def _bytes(stored: Any) -> Any:
    # Some drivers give a view on theirs.
    return stored if stored is None or type(stored) is bytes else bytes(stored)
