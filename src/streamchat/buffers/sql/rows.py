"""Rows to records and back: what several transaction bodies need of each table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from sqlalchemy import Select, func, insert, select, update

from streamchat.buffers import refusals
from streamchat.buffers.base import ConversationRecord, Input, InputKind, MessageRecord, RunRecord
from streamchat.buffers.codec import Payloads
from streamchat.buffers.shared import input_id
from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.sql.transaction import PageRows, Tx
from streamchat.core.append_rule import canonical_body
from streamchat.core.cursor import owner_of
from streamchat.events import StoredEvent
from streamchat.principal import Principal

__all__ = [
    "conversation_record",
    "encode_text",
    "message_record",
    "posted_input",
    "put_messages",
    "run_record",
    "select_run",
    "stored_events",
    "touch_conversation",
]


def encode_text(text: str) -> bytes:
    """Return text as bytes; a lone surrogate, which a client's title may hold, survives."""
    return text.encode("utf-8", "surrogatepass")


def select_run(schema: Schema) -> Select[Any]:
    """Return the query for runs as `run_record` takes them."""
    runs, requests = schema.runs, schema.requests
    return select(runs, requests.c.request, requests.c.claims).join(
        requests, requests.c.run_id == runs.c.run_id
    )


def run_record(payloads: Payloads, row: Any) -> RunRecord:
    """Return a run from a row of `select_run`."""
    claims = payloads.get_optional(row.claims)
    principal = None
    if row.principal is not None:
        principal = Principal(row.principal, row.tenant, json.loads(claims or b"{}"))
    return RunRecord(
        run_id=row.run_id,
        conversation_id=row.conversation_id,
        message_id=row.message_id,
        status=row.status,
        head_seq=row.head_seq,
        generation=row.generation,
        fence=row.fence,
        request=payloads.get(row.request),
        principal=principal,
        parent_run_id=row.parent_run_id,
        owner=row.owner,
        lease_until=row.lease_until,
        wake_at=row.ready_at if row.status == "suspended" else None,
        log_version=row.log_version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def encode_claims(payloads: Payloads, principal: Principal | None) -> bytes | None:
    """Return a principal's claims as they are stored."""
    if principal is None or not principal.claims:
        return None
    return payloads.put(canonical_body(dict(principal.claims)))


def conversation_record(payloads: Payloads, row: Any) -> ConversationRecord:
    """Return a conversation from its row."""
    title = payloads.get_optional(row.title)
    return ConversationRecord(
        conversation_id=row.conversation_id,
        owner=row.owner,
        tenant=row.tenant,
        title=None if title is None else title.decode("utf-8", "surrogatepass"),
        active_run_id=row.active_run_id,
        leaf_id=row.leaf_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def message_record(payloads: Payloads, row: Any) -> MessageRecord:
    """Return a message from its row."""
    return MessageRecord(
        message_id=row.message_id,
        conversation_id=row.conversation_id,
        role=row.role,
        status=row.status,
        content=payloads.get(row.content),
        run_id=row.run_id,
        parent_id=row.parent_id,
        kind=row.kind,
        private=payloads.get_optional(row.private),
        created_at=row.created_at,
    )


def posted_input(payloads: Payloads, row: Any) -> Input:
    """Return an input from its row."""
    return Input(
        kind=cast(InputKind, row.kind),
        key=row.key,
        body=json.loads(payloads.get(row.body)),
        by=row.posted_by,
        input_id=input_id(row.kind, row.key),
        at=row.at,
    )


def stored_events(payloads: Payloads, page: PageRows) -> list[StoredEvent]:
    """Return a page's events, each with the generation that wrote it."""
    events: list[StoredEvent] = []
    segments = page.segments
    # The generation changes seldom, so it is looked up only where the next segment begins.
    generation, ends = "", 0
    get, get_optional = payloads.get, payloads.get_optional
    for seq, event_type, data, private, at in page.events:
        if seq >= ends:
            generation = owner_of(seq, segments) or ""
            ends = min((first for _, first in segments if first > seq), default=2**62)
        events.append(
            StoredEvent(
                seq, at, None, generation, type=event_type, data=get(data), private=get_optional(private)
            )
        )
    return events


def put_messages(tx: Tx, records: Iterable[MessageRecord]) -> None:
    """Insert messages, or replace them where they stand; raises for an id of another conversation."""
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
            "parent_id": record.parent_id,
        }
        home = tx.connection.execute(
            select(messages.c.conversation_id).where(messages.c.message_id == record.message_id)
        ).scalar()
        if home is None:
            row = {**values, "message_id": record.message_id, "created_at": tx.now}
            tx.connection.execute(insert(messages).values(row))
        elif home == record.conversation_id:
            tx.connection.execute(
                update(messages).where(messages.c.message_id == record.message_id).values(values)
            )
        else:
            raise refusals.message_id_taken(record.message_id)


def touch_conversation(tx: Tx, conversation_id: str, *, free: str | None = None) -> None:
    """Note a change of a conversation, and take the slot from the run ``free`` if that one has it."""
    conversations = tx.schema.conversations
    active = conversations.c.active_run_id
    values: dict[str, Any] = {"updated_at": tx.now}
    if free is not None:
        values["active_run_id"] = func.nullif(active, free)
    tx.connection.execute(
        update(conversations).where(conversations.c.conversation_id == conversation_id).values(values)
    )
