"""What the inside of a transaction is given: a connection, the store's time, the tables, and the dialect's
hot path.

Bodies are plain functions ``body(tx, …)`` over SQLAlchemy's synchronous `Connection`, so that the same ones
run on a thread (SQLite) and under an asynchronous driver. What runs once per batch or page, `HotPath`, each
dialect brings itself, over its driver's own connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from streamchat.buffers.base import MessageRecord
from streamchat.buffers.codec import Payloads
from streamchat.buffers.shared import Clock, Token
from streamchat.buffers.sql import changing
from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.transactional.hot import Batch, Head, HotPath

__all__ = ["Tx"]


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

    def consume(self, run_id: str, names: Sequence[str]) -> int:
        """See `Transaction.consume`."""
        return changing.consume(self, run_id, names)

    def give_up(self, head: Head, batch: Batch) -> None:
        """See `Transaction.give_up`."""
        changing.give_up(self, head, batch)

    def touch_conversation(
        self, conversation_id: str, free: str | None = None, take: str | None = None
    ) -> None:
        """See `Transaction.touch_conversation`."""
        changing.touch_conversation(self, conversation_id, free, take)

    def put_messages(self, records: Iterable[MessageRecord]) -> None:
        """See `Transaction.put_messages`."""
        changing.put_messages(self, records)
