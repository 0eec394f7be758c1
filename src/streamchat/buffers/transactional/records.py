"""Rows to records: any row will do that has the columns as attributes, whatever fetched it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from streamchat.buffers.base import (
    Claim,
    ConversationRecord,
    Input,
    InputKind,
    Lease,
    MessageRecord,
    RunRecord,
)
from streamchat.buffers.codec import Payloads
from streamchat.buffers.shared import input_id
from streamchat.buffers.transactional.hot import PageRows
from streamchat.core.append_rule import canonical_body, claimable_since, is_enqueued
from streamchat.core.cursor import owner_of
from streamchat.events import StoredEvent
from streamchat.principal import Principal

__all__ = [
    "claim_of",
    "conversation_record",
    "encode_claims",
    "encode_text",
    "longest_waiting",
    "message_record",
    "posted_input",
    "run_record",
    "stored_events",
]


def encode_text(text: str) -> bytes:
    """Return text as bytes; a lone surrogate, which a client's title may hold, survives."""
    return text.encode("utf-8", "surrogatepass")


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
        enqueued=is_enqueued(row.status, queued_at=row.ready_at),
    )


def claim_of(record: RunRecord, row: Any) -> Claim:
    """Return the claim of a run that is ``record`` now; ``row`` is what it was before."""
    lease = Lease(
        run_id=record.run_id,
        worker=record.owner or "",
        generation=record.generation,
        fence=record.fence,
        head_seq=record.head_seq,
        expires_at=record.lease_until or 0,
        inputs=row.posted > row.consumed,
    )
    return Claim(lease, record, row.status)


def longest_waiting(rows: Iterable[Any], now: int) -> Any:
    """Return the row of the run to take next, None if none can be taken; ``rows`` may hold None."""
    best: tuple[int, int] | None = None
    found: Any = None
    for row in rows:
        if row is None:
            continue
        ready, lease_until = row.ready_at, row.lease_until
        since = claimable_since(row.status, queued_at=ready, lease_until=lease_until, wake_at=ready, now=now)
        if since is not None and (best is None or (since, row.number) < best):
            best, found = (since, row.number), row
    return found


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
