"""What is read, each in one statement or one transaction, so that it is true of one moment."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, and_, not_, or_, select

from streamchat.buffers import refusals
from streamchat.buffers.base import ConversationRecord, Input, MessageRecord, Page, RunRecord, Segment
from streamchat.buffers.codec import Payloads
from streamchat.buffers.sql.running import get_run, select_run
from streamchat.buffers.sql.schema import enqueued_in
from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.transactional.hot import PageRows
from streamchat.buffers.transactional.records import (
    conversation_record,
    message_record,
    posted_input,
    run_record,
    stored_events,
)

__all__ = [
    "find_active",
    "list_conversations",
    "list_enqueued",
    "list_inputs",
    "list_messages",
    "page_of",
    "read_conversation",
    "read_page",
    "read_run",
]


def read_page(tx: Tx, run_id: str, after: int, limit: int) -> Page:
    """See `EventBuffer.read`."""
    return page_of(tx.payloads, run_id, tx.hot.page(run_id, after, limit))


def page_of(payloads: Payloads, run_id: str, rows: PageRows | None) -> Page:
    """Return a page from its rows; raises `RunNotFound` where there are none."""
    if rows is None:
        raise refusals.run_unknown(run_id)
    segments = tuple(Segment(generation, first_seq) for generation, first_seq in rows.segments)
    return Page(stored_events(payloads, rows), segments, rows.first_seq, rows.head_seq)


def read_run(tx: Tx, run_id: str) -> RunRecord:
    """See `EventBuffer.get`."""
    record = get_run(tx, run_id)
    if record is None:
        raise refusals.run_unknown(run_id)
    return record


def list_inputs(tx: Tx, run_id: str) -> list[Input]:
    """See `EventBuffer.inputs`."""
    inputs, runs = tx.schema.inputs, tx.schema.runs
    found = tx.connection.execute(
        select(inputs)
        .where(inputs.c.run_id == run_id, inputs.c.consumed_at.is_(None))
        .order_by(inputs.c.number)
    ).all()
    if (
        not found
        and tx.connection.execute(select(runs.c.run_id).where(runs.c.run_id == run_id)).first() is None
    ):
        raise refusals.run_unknown(run_id)
    return [posted_input(tx.payloads, row) for row in found]


def find_active(tx: Tx, conversation_id: str) -> RunRecord | None:
    """See `EventBuffer.find`."""
    runs = tx.schema.runs
    row = tx.connection.execute(
        select_run(tx.schema)
        .where(runs.c.conversation_id == conversation_id, runs.c.ended_at.is_(None))
        .where(not_(enqueued_in(tx.schema, conversation_id)))
        .order_by(runs.c.number.desc())
        .limit(1)
    ).first()
    return None if row is None else run_record(tx.payloads, row)


def list_enqueued(tx: Tx, conversation_id: str) -> list[RunRecord]:
    """See `EventBuffer.enqueued`."""
    found = select_run(tx.schema).where(enqueued_in(tx.schema, conversation_id))
    rows = tx.connection.execute(found.order_by(tx.schema.runs.c.number))
    return [run_record(tx.payloads, row) for row in rows]


def read_conversation(tx: Tx, conversation_id: str) -> ConversationRecord:
    """See `EventBuffer.conversation`."""
    conversations = tx.schema.conversations
    row = tx.connection.execute(
        select(conversations).where(conversations.c.conversation_id == conversation_id)
    ).first()
    if row is None:
        raise refusals.conversation_unknown(conversation_id)
    return conversation_record(tx.payloads, row)


def list_conversations(
    tx: Tx, owner: str | None, tenant: str | None, after: str | None, limit: int
) -> list[ConversationRecord]:
    """See `EventBuffer.conversations`."""
    table = tx.schema.conversations
    mine = and_(table.c.owner.is_not_distinct_from(owner), table.c.tenant.is_not_distinct_from(tenant))
    query: Select[Any] = (
        select(table)
        .where(mine)
        .order_by(table.c.updated_at.desc(), table.c.conversation_id.desc())
        .limit(limit)
    )
    if after is not None:
        last = tx.connection.execute(
            select(table.c.updated_at).where(mine, table.c.conversation_id == after)
        ).scalar()
        if last is None:
            raise refusals.name_unknown(after)
        earlier = and_(table.c.updated_at == last, table.c.conversation_id < after)
        query = query.where(or_(table.c.updated_at < last, earlier))
    return [conversation_record(tx.payloads, row) for row in tx.connection.execute(query)]


def list_messages(tx: Tx, conversation_id: str, after: str | None, limit: int) -> list[MessageRecord]:
    """See `EventBuffer.messages`."""
    table = tx.schema.messages
    query: Select[Any] = (
        select(table).where(table.c.conversation_id == conversation_id).order_by(table.c.number).limit(limit)
    )
    if after is not None:
        last = tx.connection.execute(
            select(table.c.number).where(
                table.c.conversation_id == conversation_id, table.c.message_id == after
            )
        ).scalar()
        if last is None:
            read_conversation(tx, conversation_id)
            raise refusals.name_unknown(after)
        query = query.where(table.c.number > last)
    found = tx.connection.execute(query).all()
    if not found:
        read_conversation(tx, conversation_id)
    return [message_record(tx.payloads, row) for row in found]
