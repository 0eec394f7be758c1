"""What the inside of a transaction is given: a connection, the store's time, the tables, and the dialect's
hot path.

Bodies are plain functions ``body(tx, …)`` over SQLAlchemy's synchronous `Connection`, so that the same ones
run on a thread (SQLite) and under an asynchronous driver. What runs once per batch or page, `HotPath`, each
dialect brings itself, over its driver's own connection.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from sqlalchemy import Connection

from streamchat.buffers.codec import Payloads
from streamchat.buffers.shared import Clock, Token
from streamchat.buffers.sql.schema import Schema

__all__ = ["EventRow", "Head", "HotPath", "Move", "PageRows", "Tx"]


EventRow: TypeAlias = tuple[str, int, str, bytes, bytes | None, int]
"""An event as it is written: run_id, seq, type, data, private (both coded), at."""


class Head(NamedTuple):
    """Where a run's log is, and who holds it; ``unread`` counts inputs."""

    run_id: str
    generation: str
    head_seq: int
    owner: str | None
    unread: int
    conversation_id: str
    status: str


class Move(NamedTuple):
    """How an append changes its run: the new head, the seq at which its batch begins, the bytes that it
    adds."""

    run_id: str
    head_seq: int
    batch_seq: int
    size: int
    at: int


class PageRows(NamedTuple):
    """A page as it is stored; ``events`` are (seq, type, data, private, at), payload still coded."""

    first_seq: int
    head_seq: int
    segments: Sequence[tuple[str, int]]
    events: Sequence[tuple[int, str, bytes, bytes | None, int]]


class HotPath(Protocol):
    """What a dialect does once per batch or page, in as few statements as it can."""

    def heads(self, run_ids: Collection[str]) -> dict[str, Head]:
        """Read (and lock, where the dialect has row locks) the heads of some runs; unknown ones are left
        out."""
        ...

    def insert(self, rows: Sequence[EventRow]) -> None:
        """Write events."""
        ...

    def advance(self, moves: Sequence[Move]) -> None:
        """Move heads."""
        ...

    def page(self, run_id: str, after: int, limit: int) -> PageRows | None:
        """Read a page; None for an unknown run. May hold fewer events than ``limit`` where they are large."""
        ...


@dataclass(slots=True, eq=False)
class Tx:
    """A connection with a transaction on it; ``now`` is set at the begin of each."""

    connection: Connection
    hot: HotPath
    schema: Schema
    payloads: Payloads
    clock: Clock
    token: Token
    now: int = 0
