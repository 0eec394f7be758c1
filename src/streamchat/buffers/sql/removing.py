"""What leaves the store: old events of finished runs, and all that somebody wants deleted."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, insert, select, update

from streamchat.buffers.shared import kept_ancestors
from streamchat.buffers.sql.transaction import Tx

__all__ = ["delete_conversation", "delete_owner", "delete_run", "trim"]


def trim(tx: Tx, older_than: int, limit: int) -> int:
    """See `EventBuffer.trim`."""
    runs, events = tx.schema.runs, tx.schema.events
    found = tx.connection.execute(
        select(runs.c.run_id, runs.c.batch_seq)
        .where(runs.c.ended_at < older_than, runs.c.first_seq < runs.c.batch_seq)
        .order_by(runs.c.ended_at, runs.c.run_id)
        .limit(limit)
    ).all()
    for run_id, batch_seq in found:
        left = (
            select(func.sum(func.length(events.c.data) + func.coalesce(func.length(events.c.private), 0)))
            .where(events.c.run_id == run_id, events.c.seq >= batch_seq)
            .scalar_subquery()
        )
        tx.connection.execute(
            update(runs).where(runs.c.run_id == run_id).values(first_seq=batch_seq, log_bytes=left)
        )
        tx.connection.execute(delete(events).where(events.c.run_id == run_id, events.c.seq < batch_seq))
    return len(found)


def delete_run(tx: Tx, run_id: str) -> list[str]:
    """Delete a run and its messages; return its id, or nothing where it is unknown."""
    runs, messages, conversations = tx.schema.runs, tx.schema.messages, tx.schema.conversations
    found = select(runs.c.conversation_id).where(runs.c.run_id == run_id)
    # Locked first: what its holder is writing at this moment, messages too, is there before it goes.
    conversation_id = tx.connection.execute(found.with_for_update()).scalar()
    if conversation_id is None:
        return []
    _remove_runs(tx, [run_id])
    # This locks the conversation: from here on nobody writes a message that follows one of these.
    tx.touch_conversation(conversation_id, free=run_id)
    _remove_messages(tx, conversation_id, run_id)
    leaf = (
        select(messages.c.message_id)
        .where(messages.c.conversation_id == conversation_id)
        .order_by(messages.c.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    tx.connection.execute(
        update(conversations).where(conversations.c.conversation_id == conversation_id).values(leaf_id=leaf)
    )
    return [run_id]


def _remove_messages(tx: Tx, conversation_id: str, run_id: str) -> None:
    """Delete a run's messages; what followed them follows what they followed."""
    messages = tx.schema.messages
    found = tx.connection.execute(
        select(messages.c.message_id, messages.c.parent_id).where(messages.c.run_id == run_id)
    )
    ancestors = kept_ancestors({row.message_id: row.parent_id for row in found})
    tx.connection.execute(delete(messages).where(messages.c.run_id == run_id))
    home = messages.c.conversation_id == conversation_id
    for message_id, ancestor in ancestors.items():
        follows = update(messages).where(home, messages.c.parent_id == message_id)
        tx.connection.execute(follows.values(parent_id=ancestor))


def delete_conversation(tx: Tx, conversation_id: str) -> list[str]:
    """Delete a conversation with all that is in it; return its runs' ids."""
    runs, conversations = tx.schema.runs, tx.schema.conversations
    gone = tx.connection.execute(
        delete(conversations).where(conversations.c.conversation_id == conversation_id)
    )
    if not gone.rowcount:
        return []
    tx.connection.execute(
        delete(tx.schema.messages).where(tx.schema.messages.c.conversation_id == conversation_id)
    )
    found = select(runs.c.run_id).where(runs.c.conversation_id == conversation_id).order_by(runs.c.run_id)
    run_ids = list(tx.connection.execute(found).scalars())
    _remove_runs(tx, run_ids)
    _bury(tx, "conversation", [conversation_id])
    return run_ids


def delete_owner(tx: Tx, owner: str, tenant: str | None) -> list[str]:
    """Delete all that belongs to a principal; return its runs' ids."""
    conversations = tx.schema.conversations
    found = select(conversations.c.conversation_id).where(
        conversations.c.owner == owner, conversations.c.tenant.is_not_distinct_from(tenant)
    )
    run_ids: list[str] = []
    for conversation_id in sorted(tx.connection.execute(found).scalars()):
        run_ids += delete_conversation(tx, conversation_id)
    return run_ids


def _remove_runs(tx: Tx, run_ids: Sequence[str]) -> None:
    schema = tx.schema
    for run_id in run_ids:
        for table in (
            schema.runs,
            schema.requests,
            schema.events,
            schema.segments,
            schema.inputs,
            schema.notes,
        ):
            tx.connection.execute(delete(table).where(table.c.run_id == run_id))
    _bury(tx, "run", run_ids)


def _bury(tx: Tx, kind: str, ids: Sequence[str]) -> None:
    if ids:
        rows = [{"kind": kind, "id": name, "deleted_at": tx.now} for name in ids]
        tx.connection.execute(insert(tx.schema.tombstones), rows)
