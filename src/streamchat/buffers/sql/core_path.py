"""`HotPath` for servers: inside of transaction bodies, which are rare there, by SQLAlchemy; pages by the
driver."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, bindparam, insert, select, update

from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.transactional.hot import EventRow, Head, Move, PageRows

__all__ = ["CoreHotPath"]

ReadPage: TypeAlias = Callable[[Any, str, int, int], Awaitable[PageRows | None]]


class CoreHotPath:
    """Over one connection under ``run_sync``; ``read_page`` is the dialect's, over the driver's
    connection."""

    def __init__(self, connection: Connection, schema: Schema, read_page: ReadPage) -> None:
        self._connection = connection
        self._schema = schema
        self._read_page = read_page

    def heads(self, run_ids: Collection[str]) -> dict[str, Head]:
        """Read and lock the heads of some runs, in the order of their ids."""
        runs = self._schema.runs
        found = self._connection.execute(
            select(
                runs.c.run_id,
                runs.c.generation,
                runs.c.head_seq,
                runs.c.owner,
                runs.c.posted - runs.c.consumed,
                runs.c.conversation_id,
                runs.c.status,
            )
            .where(runs.c.run_id.in_(sorted(run_ids)))
            .order_by(runs.c.run_id)
            .with_for_update()
        )
        return {row[0]: Head._make(row) for row in found}

    def insert(self, rows: Sequence[EventRow]) -> None:
        """Write events."""
        names = ("run_id", "seq", "type", "data", "private", "at")
        if rows:
            self._connection.execute(
                insert(self._schema.events), [dict(zip(names, row, strict=True)) for row in rows]
            )

    def advance(self, moves: Sequence[Move]) -> None:
        """Move heads."""
        runs = self._schema.runs
        if moves:
            self._connection.execute(
                update(runs)
                .where(runs.c.run_id == bindparam("moved"))
                .values(
                    head_seq=bindparam("head"),
                    batch_seq=bindparam("batch"),
                    log_bytes=runs.c.log_bytes + bindparam("size"),
                    updated_at=bindparam("time"),
                ),
                [
                    {
                        "moved": m.run_id,
                        "head": m.head_seq,
                        "batch": m.batch_seq,
                        "size": m.size,
                        "time": m.at,
                    }
                    for m in moves
                ],
            )

    def page(self, run_id: str, after: int, limit: int) -> PageRows | None:
        """Read a page."""
        adapted: Any = self._connection.connection.dbapi_connection
        found: PageRows | None = adapted.run_async(lambda raw: self._read_page(raw, run_id, after, limit))
        return found
