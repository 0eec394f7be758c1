"""What a transaction does besides its log: messages, inputs that were read, a lease given up (see
`Transaction`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, func, insert, select, update

from streamchat.buffers import refusals
from streamchat.buffers.base import MessageRecord
from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.transactional.hot import Batch, Head
from streamchat.core.append_rule import ready_at, slot_after

if TYPE_CHECKING:
    from streamchat.buffers.sql.transaction import Tx

__all__ = ["consume", "enqueued_in", "give_up", "put_messages", "touch_conversation"]


def consume(tx: Tx, run_id: str, names: Sequence[str]) -> int:
    """Mark inputs as read; return how many of them were not."""
    inputs, runs = tx.schema.inputs, tx.schema.runs
    done = 0
    for name in dict.fromkeys(names):
        kind, _, key = name.partition(":")
        done += tx.connection.execute(
            update(inputs)
            .where(inputs.c.run_id == run_id, inputs.c.kind == kind, inputs.c.key == key)
            .where(inputs.c.consumed_at.is_(None))
            .values(consumed_at=tx.now)
        ).rowcount
    if done:
        tx.connection.execute(
            update(runs).where(runs.c.run_id == run_id).values(consumed=runs.c.consumed + done)
        )
    return done


def give_up(tx: Tx, head: Head, batch: Batch) -> None:
    """Write what becomes of a run whose holder lets go with this batch, and of its conversation."""
    runs = tx.schema.runs
    tx.connection.execute(
        update(runs)
        .where(runs.c.run_id == head.run_id)
        .values(
            status=batch.status,
            owner=None,
            lease_until=None,
            ready_at=ready_at(batch.then, now=tx.now, wake_at=batch.wake_at),
            ended_at=tx.now if batch.then == "over" else None,
            updated_at=tx.now,
        )
    )
    moved = slot_after(batch.then, keep_slot=batch.keep_slot)
    slot = {} if moved is None else {moved: head.run_id}
    touch_conversation(tx, head.conversation_id, **slot)


def put_messages(tx: Tx, records: Iterable[MessageRecord]) -> None:
    """Insert messages, or replace them where they stand (there, in the tree, they stay); raises for an id of
    another conversation."""
    messages = tx.schema.messages
    for record in records:
        values = {
            "conversation_id": record.conversation_id,
            "role": record.role,
            "status": record.status,
            "kind": record.kind,
            "content": tx.payloads.put(record.content),
            "private": tx.payloads.put_optional(record.private),
            "run_id": record.run_id,
        }
        home = tx.connection.execute(
            select(messages.c.conversation_id).where(messages.c.message_id == record.message_id)
        ).scalar()
        if home is None:
            row = {**values, "message_id": record.message_id, "created_at": tx.now}
            row["parent_id"] = record.parent_id
            tx.connection.execute(insert(messages).values(row))
        elif home == record.conversation_id:
            tx.connection.execute(
                update(messages).where(messages.c.message_id == record.message_id).values(values)
            )
        else:
            raise refusals.message_id_taken(record.message_id)


def touch_conversation(
    tx: Tx, conversation_id: str, free: str | None = None, take: str | None = None
) -> None:
    """Note a change of a conversation, and take the slot from the run ``free`` if that one has it: the
    oldest run that is enqueued gets it. The run ``take`` gets it if nobody has it."""
    conversations = tx.schema.conversations
    active = conversations.c.active_run_id
    values: dict[str, Any] = {"updated_at": tx.now}
    if free is not None:
        values["active_run_id"] = func.nullif(active, free)
    elif take is not None:
        values["active_run_id"] = func.coalesce(active, take)
    tx.connection.execute(
        update(conversations).where(conversations.c.conversation_id == conversation_id).values(values)
    )
    if free is not None:
        _give_on(tx, conversation_id)


def enqueued_in(schema: Schema, conversation_id: str) -> ColumnElement[bool]:
    """Return what is true of the runs that wait for a conversation's slot (`append_rule.is_enqueued`)."""
    runs = schema.runs
    return and_(
        runs.c.conversation_id == conversation_id, runs.c.status == "queued", runs.c.ready_at.is_(None)
    )


def _give_on(tx: Tx, conversation_id: str) -> None:
    """Give the slot, if it is free, to the oldest run that waits for it.

    The conversation is locked by now, so nobody joins the line meanwhile. Who leaves it (cancelled, deleted)
    is seen by the second look, which is the write.
    """
    runs, conversations = tx.schema.runs, tx.schema.conversations
    waiting = enqueued_in(tx.schema, conversation_id)
    home = conversations.c.conversation_id == conversation_id
    # The look locks nothing: it could wait for a run whose holder waits for the conversation.
    first = select(runs.c.run_id).where(waiting).order_by(runs.c.number).limit(1)
    active = select(conversations.c.active_run_id).where(home)
    while (run_id := tx.connection.execute(first).scalar()) is not None:
        if tx.connection.execute(active).scalar() is not None:
            return
        begins = update(runs).where(waiting, runs.c.run_id == run_id).values(ready_at=tx.now)
        if tx.connection.execute(begins).rowcount:
            tx.connection.execute(update(conversations).where(home).values(active_run_id=run_id))
            return
