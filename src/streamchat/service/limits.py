"""What a process takes on, what a client may send, and how long things are kept: `ServiceLimits`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from streamchat.core.given import check_number

__all__ = ["ServiceLimits"]

_COUNTS = (
    "max_runs",
    "max_queue",
    "max_enqueued",
    "max_body_bytes",
    "max_message_chars",
    "max_attachments",
    "max_attachment_bytes",
    "max_history_messages",
)


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What a process takes on, and what a client may send; times are seconds.

    ``max_runs`` are at work at once, ``max_queue`` wait in this process. ``max_runs_per_principal`` bounds
    what one principal has queued or at work in all processes, ``max_starts_per_minute`` how many one may
    begin within 60 seconds in each process (None: no bound; who has no principal has none).
    ``max_enqueued`` messages may wait in one conversation (``on_busy="enqueue"``). ``drain_seconds`` is how
    long
    `close` lets runs finish, ``delete_seconds`` how long a deletion waits for an active run to stop, and
    ``interrupt_seconds`` a message that interrupts one.
    ``max_body_bytes`` and ``max_message_chars`` bound a request, ``max_attachments`` how many of a message's
    parts are images, sound or files, and ``max_attachment_bytes`` each of them that comes whole (as a
    ``data:`` URL or base64), decoded. Of a long conversation the model is given
    the newest ``max_history_messages``.

    ``look_every`` is how often a process looks for runs that nobody holds (None: 5 s, or half a lease if that
    is less). ``retention`` (or a `timedelta`) after their end, runs keep only their last batch; None keeps
    all. ``presence_ttl`` after a process was last heard of, its connections no longer count.
    """

    max_runs: int = 100
    max_queue: int = 1000
    max_runs_per_principal: int | None = None
    max_starts_per_minute: int | None = None
    max_enqueued: int = 20
    drain_seconds: float = 5.0
    delete_seconds: float = 5.0
    interrupt_seconds: float = 10.0
    max_body_bytes: int = 1_000_000
    max_message_chars: int = 200_000
    max_attachments: int = 20
    max_attachment_bytes: int = 5_000_000
    max_history_messages: int = 1000
    look_every: float | None = None
    retention: float | timedelta | None = None
    presence_ttl: float = 30.0

    def __post_init__(self) -> None:
        check_number("retention", self.retention_seconds, least=0, none=True)
        check_number("presence_ttl", self.presence_ttl, above=0, finite=True)
        check_number("look_every", self.look_every, above=0, none=True)
        for name in ("drain_seconds", "delete_seconds", "interrupt_seconds"):
            check_number(name, getattr(self, name), least=0)
        for name in ("max_runs_per_principal", "max_starts_per_minute"):
            check_number(name, getattr(self, name), least=0, whole=True, none=True)
        for name in _COUNTS:
            check_number(name, getattr(self, name), least=0, whole=True)

    @property
    def retention_seconds(self) -> float | None:
        """The retention in seconds."""
        kept = self.retention
        return kept.total_seconds() if isinstance(kept, timedelta) else kept
