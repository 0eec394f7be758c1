"""What implementations of `EventBuffer` share beside the core's rules: defaults, checks of what they are
given, tokens."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from streamchat.buffers import refusals
from streamchat.buffers.base import Input, MessageRecord, NewEvent, NewRun, RunRecord, Then
from streamchat.core.append_rule import canonical_body, final_status, same_events, status_after_append
from streamchat.core.cursor import RUN_PART
from streamchat.core.given import check_json, check_number
from streamchat.core.ids import check_id, is_storable
from streamchat.errors import InvalidInput
from streamchat.events import TERMINAL, StoredEvent
from streamchat.principal import Principal

__all__ = [
    "Clock",
    "Token",
    "check_conversation_id",
    "check_create",
    "check_message_ids",
    "check_messages",
    "check_page",
    "check_run_id",
    "check_threads",
    "encode_body",
    "event_bytes",
    "input_id",
    "kept_ancestors",
    "now_ms",
    "owner_and_tenant",
    "random_token",
    "same_events",
    "same_run",
    "status_after",
    "stored",
]

Clock: TypeAlias = Callable[[], int]
"""Tells the time in milliseconds since the epoch."""

Token: TypeAlias = Callable[[], str]
"""Gives a new random token of `RUN_PART` lowercase letters and digits at each call."""


def now_ms() -> int:
    """Return this machine's time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def random_token() -> str:
    """Return 8 random characters (40 bits)."""
    return base64.b32encode(secrets.token_bytes(5)).decode("ascii").lower()[:RUN_PART]


def check_create(run: NewRun, messages: Sequence[MessageRecord], kept: Sequence[NewEvent]) -> None:
    """Raise `InvalidInput` for a run that cannot be stored."""
    if run.started.type != "run_started":
        raise InvalidInput(f"run {run.run_id!r} starts with {run.started.type!r}: it must be 'run_started'")
    if any(event.type == TERMINAL for event in kept):
        raise InvalidInput(
            f"run {run.run_id!r} would keep {TERMINAL!r}: a retried run takes only what came before"
        )
    if (run.idempotency_key is None) != (run.digest is None):
        raise InvalidInput(f"run {run.run_id!r}: an idempotency key and the body's digest go together")
    for field in ("run_id", "conversation_id", "message_id"):
        check_id(field, getattr(run, field))
    _check_ids(run, "parent_run_id", "digest")
    _check_principal(run.principal)
    check_messages(run.conversation_id, messages)


def check_message_ids(message: MessageRecord) -> None:
    """Raise `InvalidInput` for a message with an id that cannot be stored."""
    check_id("message_id", message.message_id)
    _check_ids(message, "run_id", "parent_id")


def check_messages(conversation_id: str, messages: Iterable[MessageRecord]) -> None:
    """Raise `InvalidInput` for messages of another conversation than the run's, and for ids that cannot be
    stored."""
    for message in messages:
        check_message_ids(message)
        if message.conversation_id != conversation_id:
            raise InvalidInput(
                f"message {message.message_id!r} belongs to conversation {message.conversation_id!r}, "
                f"the run to {conversation_id!r}",
                field="message_id",
            )


def _check_ids(record: object, *fields: str) -> None:
    for field in fields:
        value = getattr(record, field)
        if value is not None:
            check_id(field, value)


def _check_principal(principal: Principal | None) -> None:
    if principal is None:
        return
    check_id("principal.id", principal.id)
    if principal.tenant is not None:
        check_id("principal.tenant", principal.tenant)
    if principal.claims:
        check_json("principal.claims", principal.claims, lambda claims: canonical_body(dict(claims)))


def check_run_id(run_id: str) -> None:
    """Raise `RunNotFound` for an id that cannot be stored, before a database stumbles over it."""
    if not is_storable(run_id):
        raise refusals.run_unknown(run_id)


def check_conversation_id(conversation_id: str) -> None:
    """Raise `ConversationNotFound` for an id that cannot be stored."""
    if not is_storable(conversation_id):
        raise refusals.conversation_unknown(conversation_id)


def check_threads(readers: object, busy_seconds: object) -> None:
    """Raise `InvalidInput` for what is no number of reading threads, or no time to try for."""
    check_number("readers", readers, least=1, whole=True)
    check_number("busy_seconds", busy_seconds, least=0, finite=True)


def check_page(after: object, limit: object) -> None:
    """Raise `InvalidInput` for a page that cannot be asked for."""
    if not isinstance(after, int) or after < 0:
        raise InvalidInput(f"after={after!r:.100}: it must be 0 (the start) or a seq", field="after")
    if not isinstance(limit, int) or limit < 1:
        raise InvalidInput(f"limit={limit!r:.100}: it must be a whole number, at least 1", field="limit")


def status_after(then: Then, events: Sequence[NewEvent]) -> str:
    """Return the run's status after an append; raises `InvalidInput` where ending and events do not go
    together."""
    return status_after_append(then, [event.type for event in events]) or final_status(events[-1].data)


def stored(event: NewEvent, seq: int, at: int, generation: str) -> StoredEvent:
    """Return ``event`` as it stands in the log."""
    return StoredEvent(seq, at, None, generation, type=event.type, data=event.data, private=event.private)


def owner_and_tenant(principal: Principal | None) -> tuple[str | None, str | None]:
    """Return whose a conversation of this principal is; nobody's, (None, None), without one."""
    return (None, None) if principal is None else (principal.id, principal.tenant)


def same_run(record: RunRecord, run: NewRun) -> bool:
    """Say whether ``run`` is the one that was stored as ``record``: a `create` that was sent twice."""
    ids = (record.conversation_id, record.message_id) == (run.conversation_id, run.message_id)
    return ids and owner_and_tenant(record.principal) == owner_and_tenant(run.principal)


def event_bytes(events: Iterable[NewEvent]) -> int:
    """Return how many bytes of payload the events carry."""
    size = 0
    for _, data, private in events:
        size += len(data) if private is None else len(data) + len(private)
    return size


def input_id(kind: str, key: str) -> str:
    """Return the id of an input, unique in its run."""
    return f"{kind}:{key}"


def encode_body(posted: Input) -> bytes:
    """Return the JSON of an input's body in the one form that is compared; raises `InvalidInput` if it is not
    JSON, and for a key that cannot be stored."""
    check_id("key", posted.key)
    _check_ids(posted, "by")
    try:
        return canonical_body(posted.body)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"the body of a {posted.kind!r} for {posted.key!r} is not JSON: {error}"
        ) from error


def beside(run: NewRun, messages: Iterable[MessageRecord], parent_id: str | None) -> list[MessageRecord]:
    """Return a retry's messages, its own following what the answer beside it follows."""
    return [
        replace(message, parent_id=parent_id) if message.message_id == run.message_id else message
        for message in messages
    ]


def kept_ancestors(doomed: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return, for each message that goes (given with the one that it follows), the nearest one before it
    that stays: what followed the former follows that one from now on."""
    found: dict[str, str | None] = {}
    for message_id in doomed:
        at, seen = doomed[message_id], {message_id}
        while at is not None and at in doomed and at not in seen:
            seen.add(at)
            at = doomed[at]
        found[message_id] = None if at in seen else at
    return found
