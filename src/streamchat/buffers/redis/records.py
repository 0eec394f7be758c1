"""Hashes and arguments of the scripts, to records and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal, cast

from streamchat.buffers.base import (
    ConversationRecord,
    Input,
    InputKind,
    MessageRecord,
    NewEvent,
    NewRun,
    RunRecord,
    RunStatus,
    Segment,
)
from streamchat.buffers.codec import Payloads
from streamchat.buffers.redis.packing import pack, unpack
from streamchat.buffers.shared import owner_and_tenant
from streamchat.core.append_rule import canonical_body
from streamchat.core.cursor import owner_of
from streamchat.events import StoredEvent
from streamchat.principal import Principal

__all__ = [
    "Fields",
    "conversation_fields",
    "conversation_record",
    "fields",
    "message_arguments",
    "message_record",
    "optional",
    "pack_batch",
    "posted_input",
    "raw",
    "run_fields",
    "run_record",
    "segment",
    "stored_batch",
    "text",
    "whose",
]

Fields = dict[bytes, bytes]


def raw(value: str) -> bytes:
    """Return text as bytes; a lone surrogate survives."""
    return value.encode("utf-8", "surrogatepass")


def text(value: bytes) -> str:
    """Return what was given to `raw`."""
    return value.decode("utf-8", "surrogatepass")


def optional(value: str | None) -> bytes:
    """Return an argument that may be missing, for scripts that take it as ``"=value"`` or ``""``."""
    return b"" if value is None else b"=" + raw(value)


def fields(flat: Sequence[bytes]) -> Fields:
    """Return a hash from the list in which a script gives it."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def whose(owner: str | None, tenant: str | None) -> str:
    """Return a fixed-length name for a principal's list of conversations, which no other principal shares."""
    return hashlib.sha256(canonical_body([tenant, owner])).hexdigest()


# ------------------------------------------------------------------------------------------------------- runs


def run_fields(payloads: Payloads, run: NewRun) -> list[bytes]:
    """Return what is stored of a new run as it was given."""
    owner, tenant = owner_and_tenant(run.principal)
    given: list[tuple[bytes, bytes | None]] = [
        (b"message", raw(run.message_id)),
        (b"request", payloads.put(run.request)),
        (b"parent", _raw(run.parent_run_id)),
        (b"principal", _raw(owner)),
        (b"tenant", _raw(tenant)),
    ]
    if run.principal is not None and run.principal.claims:
        given.append((b"claims", payloads.put(canonical_body(dict(run.principal.claims)))))
    return _flat(given)


def run_record(payloads: Payloads, run_id: str, flat: Sequence[bytes]) -> RunRecord | None:
    """Return a run, or None where there is none, or only its tombstone."""
    found = fields(flat)
    if b"generation" not in found:
        return None
    principal = None
    if b"principal" in found:
        claims = json.loads(payloads.get(found[b"claims"])) if b"claims" in found else {}
        principal = Principal(text(found[b"principal"]), _text(found, b"tenant"), claims)
    return RunRecord(
        run_id=run_id,
        conversation_id=text(found[b"conversation"]),
        message_id=text(found[b"message"]),
        status=cast(RunStatus, text(found[b"status"])),
        head_seq=int(found[b"head"]),
        generation=text(found[b"generation"]),
        fence=int(found[b"fence"]),
        request=payloads.get(found[b"request"]),
        principal=principal,
        parent_run_id=_text(found, b"parent"),
        owner=_text(found, b"owner"),
        lease_until=_int(found, b"lease_until"),
        wake_at=_int(found, b"wake_at"),
        log_version=int(found[b"version"]),
        created_at=int(found[b"created_at"]),
        updated_at=int(found[b"updated_at"]),
        enqueued=b"enqueued" in found,
    )


def segment(stored: bytes) -> Segment:
    """Return a segment from its place in the list."""
    generation, _, first_seq = stored.partition(b" ")
    return Segment(text(generation), int(first_seq))


def posted_input(payloads: Payloads, row: Sequence[Any]) -> Input:
    """Return an input from what the script gives of it."""
    name, body, at, by = row
    kind, _, key = text(name).partition(":")
    return Input(
        kind=cast(InputKind, kind),
        key=key,
        body=json.loads(payloads.get(body)),
        by=None if by is None else text(by),
        input_id=text(name),
        at=int(at),
    )


# ----------------------------------------------------------------------------------------------------- events


def pack_batch(payloads: Payloads, events: Sequence[NewEvent]) -> bytes:
    """Return a batch as its stream entry; empty for no events."""
    if not events:
        return b""
    put = payloads.put
    return pack(
        [(kind, put(data), None if private is None else put(private)) for kind, data, private in events]
    )


def stored_batch(
    payloads: Payloads, entry: Sequence[Any], segments: Sequence[Segment]
) -> tuple[int, list[StoredEvent]]:
    """Return the seq of an entry's first event, and its events."""
    entry_id, (_, count, _, at, _, packed) = entry
    last = int(entry_id.partition(b"-")[0])
    first = last - int(count) + 1
    time = int(at)
    # A holder writes nothing across the beginning of a segment, so one generation wrote all of it.
    generation = owner_of(first, segments) or ""
    get, get_optional = payloads.get, payloads.get_optional
    events = [
        StoredEvent(seq, time, None, generation, type=kind, data=get(data), private=get_optional(private))
        for seq, (kind, data, private) in enumerate(unpack(packed), first)
    ]
    return first, events


# --------------------------------------------------------------------------------- conversations and messages


def conversation_fields(payloads: Payloads, run: NewRun) -> list[bytes]:
    """Return what is stored of a new conversation as it was given."""
    owner, tenant = owner_and_tenant(run.principal)
    title = None if run.title is None else payloads.put(raw(run.title))
    return _flat([(b"owner", _raw(owner)), (b"tenant", _raw(tenant)), (b"title", title)])


def conversation_record(
    payloads: Payloads, conversation_id: str, flat: Sequence[bytes]
) -> ConversationRecord | None:
    """Return a conversation, or None where there is none, or only its tombstone."""
    found = fields(flat)
    if b"whose" not in found:
        return None
    title = payloads.get_optional(found.get(b"title"))
    return ConversationRecord(
        conversation_id=conversation_id,
        owner=_text(found, b"owner"),
        tenant=_text(found, b"tenant"),
        title=None if title is None else text(title),
        active_run_id=_text(found, b"active"),
        leaf_id=_text(found, b"leaf"),
        created_at=int(found[b"created_at"]),
        updated_at=int(found[b"updated_at"]),
    )


def message_arguments(payloads: Payloads, records: Sequence[MessageRecord]) -> list[bytes | int]:
    """Return message rows as ``messages.lua`` reads them."""
    arguments: list[bytes | int] = [len(records)]
    for record in records:
        items = _flat(
            [
                (b"role", raw(record.role)),
                (b"status", raw(record.status)),
                (b"kind", raw(record.kind)),
                (b"content", payloads.put(record.content)),
                (b"run", _raw(record.run_id)),
                (b"parent", _raw(record.parent_id)),
                (b"private", payloads.put_optional(record.private)),
            ]
        )
        arguments += [raw(record.message_id), raw(record.conversation_id), len(items), *items]
    return arguments


def message_record(payloads: Payloads, row: Sequence[Any]) -> MessageRecord:
    """Return a message from its id and its hash."""
    name, flat = row
    found = fields(flat)
    return MessageRecord(
        message_id=text(name),
        conversation_id=text(found[b"home"]),
        role=cast(Literal["user", "assistant", "system"], text(found[b"role"])),
        status=cast(Literal["pending", "complete", "error", "cancelled"], text(found[b"status"])),
        content=payloads.get(found[b"content"]),
        run_id=_text(found, b"run"),
        parent_id=_text(found, b"parent"),
        kind=text(found[b"kind"]),
        private=payloads.get_optional(found.get(b"private")),
        created_at=int(found[b"at"]),
    )


def _raw(value: str | None) -> bytes | None:
    return None if value is None else raw(value)


def _text(found: Fields, name: bytes) -> str | None:
    value = found.get(name)
    return None if value is None else text(value)


def _int(found: Fields, name: bytes) -> int | None:
    value = found.get(name)
    return None if value is None else int(value)


def _flat(given: Sequence[tuple[bytes, bytes | None]]) -> list[bytes]:
    return [part for name, value in given if value is not None for part in (name, value)]
