"""What an `EventBuffer` is given and gives: runs, leases, events, inputs, messages, conversations.

Times are integer milliseconds since the epoch by the store's own clock; durations are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from streamchat.events import TERMINAL, StoredEvent, StreamEvent, encode_event
from streamchat.principal import Principal

__all__ = [
    "LOG_VERSION",
    "Appended",
    "Claim",
    "ConversationRecord",
    "Created",
    "Input",
    "InputKind",
    "Lease",
    "MessageRecord",
    "NewEvent",
    "NewRun",
    "Page",
    "Posted",
    "RunRecord",
    "RunStatus",
    "Segment",
    "Then",
]

LOG_VERSION = 1
"""The version of the log's rules that this package writes; a worker takes only logs of versions that it
knows."""

RunStatus: TypeAlias = Literal["queued", "running", "suspended", "success", "error", "cancelled"]
Then: TypeAlias = Literal["hold", "queue", "suspend", "over"]
InputKind: TypeAlias = Literal["cancel", "approval", "tool_result", "job_result"]


class NewEvent(NamedTuple):
    """An event on its way into the log: its type, its public JSON and its private JSON."""

    type: str
    data: bytes
    private: bytes | None = None

    @classmethod
    def of(cls, event: StreamEvent) -> NewEvent:
        """Encode ``event``."""
        # Once for each event: the constructor of a NamedTuple is a Python function, and this one is not.
        return tuple.__new__(cls, (event.type, *encode_event(event)))


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message of a conversation. ``content`` is JSON: a list of content parts; ``private`` is for the model
    only.

    ``parent_id`` is the message that this one follows (None for the first): an edit makes a branch. ``kind``
    tells what sort of message it is to the page (``message`` unless the application says otherwise).
    """

    message_id: str
    conversation_id: str
    role: Literal["user", "assistant", "system"]
    status: Literal["pending", "complete", "error", "cancelled"]
    content: bytes
    run_id: str | None = None
    parent_id: str | None = None
    kind: str = "message"
    private: bytes | None = None
    created_at: int = 0
    """Set by the store when the row is first written."""


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """A conversation: whose it is, and which run holds its slot (None when it is free)."""

    conversation_id: str
    owner: str | None
    tenant: str | None
    title: str | None
    active_run_id: str | None
    leaf_id: str | None
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class NewRun:
    """What `EventBuffer.create` is given. ``started`` is the ``run_started`` event, which becomes seq 1.

    ``request`` (opaque bytes) is what a fresh process needs to go on. ``digest`` identifies the body that
    came with ``idempotency_key``. ``title`` is used when the conversation is new. With ``enqueue`` a run to
    whose conversation another is active is made all the same, and waits until it is over. ``follows`` is the
    leaf that its messages were made for (``""``: none yet; None: any will do).
    """

    run_id: str
    conversation_id: str
    message_id: str
    started: NewEvent
    request: bytes = b"{}"
    principal: Principal | None = None
    parent_run_id: str | None = None
    idempotency_key: str | None = None
    digest: str | None = None
    title: str | None = None
    log_version: int = LOG_VERSION
    enqueue: bool = False
    follows: str | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as stored. ``lease_until`` and ``wake_at`` are None where there is no lease, or nothing to wake
    for. ``enqueued``: it is queued behind others of its conversation, and nobody can claim it."""

    run_id: str
    conversation_id: str
    message_id: str
    status: RunStatus
    head_seq: int
    generation: str
    fence: int
    request: bytes
    principal: Principal | None
    parent_run_id: str | None
    owner: str | None
    lease_until: int | None
    wake_at: int | None
    log_version: int
    created_at: int
    updated_at: int
    enqueued: bool = False

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.status in ("success", "error", "cancelled")


@dataclass(frozen=True, slots=True)
class Created:
    """``new`` is False when the idempotency key was known, and ``run`` then is the run of the first time."""

    run: RunRecord
    new: bool


class Lease(NamedTuple):
    """The right to append to one run, as far as its holder knows.

    ``generation`` and ``head_seq`` are what the next append requires the store to hold; ``fence`` counts
    claims and only orders them; ``expires_at`` is the store's time. ``inputs`` says that unread inputs were
    seen.
    """

    run_id: str
    worker: str
    generation: str
    fence: int
    head_seq: int
    expires_at: int
    inputs: bool = False

    def advanced(self, head_seq: int, *, inputs: bool = False) -> Lease:
        """Return the lease after an append that ended at ``head_seq``."""
        # Once for each append.
        fields = (self.run_id, self.worker, self.generation, self.fence, head_seq, self.expires_at, inputs)
        return tuple.__new__(Lease, fields)


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease that was just given, and the run under it.

    ``was`` is the status before: ``running`` means that an earlier holder's lease had expired.
    """

    lease: Lease
    run: RunRecord
    was: RunStatus = "queued"


class Appended(NamedTuple):
    """``events`` as they are stored. ``recovered`` means that an earlier try of the same batch had been
    written."""

    lease: Lease
    events: Sequence[StoredEvent]
    recovered: bool = False


class Segment(NamedTuple):
    """What one holder appended in a row, from ``first_seq`` to the next segment's (exclusive); never
    trimmed."""

    generation: str
    first_seq: int


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a log, without gaps inside.

    ``first_seq`` is the oldest seq that is still stored, ``last_seq`` the head. ``events`` begins at ``after
    + 1``, or, if that was trimmed, at ``first_seq``: a reader compares. ``segments`` covers the whole log, so
    that a cursor can be judged (`streamchat.core.cursor`).
    """

    events: Sequence[StoredEvent]
    segments: Sequence[Segment]
    first_seq: int
    last_seq: int

    @property
    def closed(self) -> bool:
        """Whether nothing will follow: told by the last event itself, never by a separate look at a
        status."""
        return bool(self.events) and self.events[-1].type == TERMINAL


@dataclass(frozen=True, slots=True)
class Input:
    """Something posted to a run from outside: a cancel, or the answer to a wait.

    ``key`` is the call's id (``""`` for a cancel). ``body`` holds JSON values. ``input_id`` and ``at`` are
    the store's.
    """

    kind: InputKind
    key: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    by: str | None = None
    input_id: str = ""
    at: int = 0


@dataclass(frozen=True, slots=True)
class Posted:
    """``new`` is False when the same was posted before; ``run`` is the run after the post."""

    run: RunRecord
    new: bool
