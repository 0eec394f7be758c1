"""What is read, each in one transaction that sees one moment."""

from __future__ import annotations

from typing import Any

from django.db.models import Q

from streamchat.adapters.django.buffer.running import get_run, whole_runs
from streamchat.adapters.django.buffer.tx import Tx, enqueued_in
from streamchat.adapters.django.models import Conversation, Message, PostedInput, Run
from streamchat.buffers import refusals
from streamchat.buffers.base import ConversationRecord, Input, MessageRecord, Page, RunRecord, Segment
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
    "read_conversation",
    "read_page",
    "read_run",
]


def read_page(tx: Tx, run_id: str, after: int, limit: int) -> Page:
    """See `EventBuffer.read`."""
    rows = tx.hot.page(run_id, after, limit)
    if rows is None:
        raise refusals.run_unknown(run_id)
    segments = tuple(Segment(generation, first_seq) for generation, first_seq in rows.segments)
    return Page(stored_events(tx.payloads, rows), segments, rows.first_seq, rows.head_seq)


def read_run(tx: Tx, run_id: str) -> RunRecord:
    """See `EventBuffer.get`."""
    record = get_run(tx, run_id)
    if record is None:
        raise refusals.run_unknown(run_id)
    return record


def list_inputs(tx: Tx, run_id: str) -> list[Input]:
    """See `EventBuffer.inputs`."""
    found = list(tx.rows(PostedInput).filter(run_id=run_id, consumed_at=None).order_by("number"))
    if not found and not tx.rows(Run).filter(run_id=run_id).exists():
        raise refusals.run_unknown(run_id)
    return [posted_input(tx.payloads, row) for row in found]


def find_active(tx: Tx, conversation_id: str) -> RunRecord | None:
    """See `EventBuffer.find`."""
    open_runs = whole_runs(tx).filter(conversation_id=conversation_id, ended_at=None)
    row = open_runs.exclude(**enqueued_in(conversation_id)).order_by("-number").first()
    return None if row is None else run_record(tx.payloads, row)


def list_enqueued(tx: Tx, conversation_id: str) -> list[RunRecord]:
    """See `EventBuffer.enqueued`."""
    waiting = whole_runs(tx).filter(**enqueued_in(conversation_id)).order_by("number")
    return [run_record(tx.payloads, row) for row in waiting]


def read_conversation(tx: Tx, conversation_id: str) -> ConversationRecord:
    """See `EventBuffer.conversation`."""
    row = tx.rows(Conversation).filter(conversation_id=conversation_id).first()
    if row is None:
        raise refusals.conversation_unknown(conversation_id)
    return conversation_record(tx.payloads, row)


def list_conversations(
    tx: Tx, owner: str | None, tenant: str | None, after: str | None, limit: int
) -> list[ConversationRecord]:
    """See `EventBuffer.conversations`."""
    mine = tx.rows(Conversation).filter(owner=owner, tenant=tenant)
    query: Any = mine.order_by("-updated_at", "-conversation_id")
    if after is not None:
        last = mine.filter(conversation_id=after).values_list("updated_at", flat=True).first()
        if last is None:
            raise refusals.name_unknown(after)
        query = query.filter(Q(updated_at__lt=last) | Q(updated_at=last, conversation_id__lt=after))
    return [conversation_record(tx.payloads, row) for row in query[:limit]]


def list_messages(tx: Tx, conversation_id: str, after: str | None, limit: int) -> list[MessageRecord]:
    """See `EventBuffer.messages`."""
    mine = tx.rows(Message).filter(conversation_id=conversation_id)
    query: Any = mine.order_by("number")
    if after is not None:
        last = mine.filter(message_id=after).values_list("number", flat=True).first()
        if last is None:
            read_conversation(tx, conversation_id)
            raise refusals.name_unknown(after)
        query = query.filter(number__gt=last)
    found = list(query[:limit])
    if not found:
        read_conversation(tx, conversation_id)
    return [message_record(tx.payloads, row) for row in found]
