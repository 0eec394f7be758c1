"""The inside of a transaction: a connection, the store's time, the tables, the dialect's hot path, and what
it does besides the log (messages, inputs that were read, a lease given up; see `Transaction`).

Bodies are plain functions ``body(tx, …)`` over SQLAlchemy's synchronous `Connection`, so that the same ones
run on a thread (SQLite) and under an asynchronous driver. What runs once per batch or page, `HotPath`, each
dialect brings itself, over its driver's own connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from streamchat.buffers import refusals
from streamchat.buffers.base import MessageRecord
from streamchat.buffers.codec import Payloads
from streamchat.buffers.shared import Clock, Token
from streamchat.buffers.sql.schema import Schema, enqueued_in
from streamchat.buffers.transactional.hot import Batch, Head, HotPath
from streamchat.core.append_rule import ready_at, slot_after

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
        """Mark inputs as read; return how many of them were not."""
        inputs, runs = self.schema.inputs, self.schema.runs
        done = 0
        for name in dict.fromkeys(names):
            kind, _, key = name.partition(":")
            done += self.connection.execute(
                update(inputs)
                .where(inputs.c.run_id == run_id, inputs.c.kind == kind, inputs.c.key == key)
                .where(inputs.c.consumed_at.is_(None))
                .values(consumed_at=self.now)
            ).rowcount
        if done:
            self.connection.execute(
                update(runs).where(runs.c.run_id == run_id).values(consumed=runs.c.consumed + done)
            )
        return done

    def give_up(self, head: Head, batch: Batch) -> None:
        """Write what becomes of a run whose holder lets go with this batch, and of its conversation."""
        runs = self.schema.runs
        self.connection.execute(
            update(runs)
            .where(runs.c.run_id == head.run_id)
            .values(
                status=batch.status,
                owner=None,
                lease_until=None,
                ready_at=ready_at(batch.then, now=self.now, wake_at=batch.wake_at),
                ended_at=self.now if batch.then == "over" else None,
                updated_at=self.now,
            )
        )
        moved = slot_after(batch.then, keep_slot=batch.keep_slot)
        slot = {} if moved is None else {moved: head.run_id}
        self.touch_conversation(head.conversation_id, **slot)

    def put_messages(self, records: Iterable[MessageRecord]) -> None:
        """Insert messages, or replace them where they stand (there, in the tree, they stay); raises for an id
        of another conversation."""
        messages = self.schema.messages
        for record in records:
            values = {
                "conversation_id": record.conversation_id,
                "role": record.role,
                "status": record.status,
                "kind": record.kind,
                "content": self.payloads.put(record.content),
                "private": self.payloads.put_optional(record.private),
                "run_id": record.run_id,
            }
            home = self.connection.execute(
                select(messages.c.conversation_id).where(messages.c.message_id == record.message_id)
            ).scalar()
            if home is None:
                row = {**values, "message_id": record.message_id, "created_at": self.now}
                row["parent_id"] = record.parent_id
                self.connection.execute(insert(messages).values(row))
            elif home == record.conversation_id:
                self.connection.execute(
                    update(messages).where(messages.c.message_id == record.message_id).values(values)
                )
            else:
                raise refusals.message_id_taken(record.message_id)

    def touch_conversation(
        self, conversation_id: str, free: str | None = None, take: str | None = None
    ) -> None:
        """Note a change of a conversation, and take the slot from the run ``free`` if that one has it: the
        oldest run that is enqueued gets it. The run ``take`` gets it if nobody has it."""
        conversations = self.schema.conversations
        active = conversations.c.active_run_id
        values: dict[str, Any] = {"updated_at": self.now}
        if free is not None:
            values["active_run_id"] = func.nullif(active, free)
        elif take is not None:
            values["active_run_id"] = func.coalesce(active, take)
        self.connection.execute(
            update(conversations).where(conversations.c.conversation_id == conversation_id).values(values)
        )
        if free is not None:
            self._give_on(conversation_id)

    def _give_on(self, conversation_id: str) -> None:
        """Give the slot, if it is free, to the oldest run that waits for it.

        The conversation is locked by now, so nobody joins the line meanwhile. Who leaves it (cancelled,
        deleted) is seen by the second look, which is the write.
        """
        runs, conversations = self.schema.runs, self.schema.conversations
        waiting = enqueued_in(self.schema, conversation_id)
        home = conversations.c.conversation_id == conversation_id
        # The look locks nothing: it could wait for a run whose holder waits for the conversation.
        first = select(runs.c.run_id).where(waiting).order_by(runs.c.number).limit(1)
        active = select(conversations.c.active_run_id).where(home)
        while (run_id := self.connection.execute(first).scalar()) is not None:
            if self.connection.execute(active).scalar() is not None:
                return
            begins = update(runs).where(waiting, runs.c.run_id == run_id).values(ready_at=self.now)
            if self.connection.execute(begins).rowcount:
                self.connection.execute(update(conversations).where(home).values(active_run_id=run_id))
                return
