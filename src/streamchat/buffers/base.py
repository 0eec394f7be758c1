"""The storage seam: an `EventBuffer` keeps runs' logs, who holds them, and what was posted to them.

A buffer stores bytes in order and never interprets them, but for the type of an event. All its promises are
checked by `streamchat.testing.buffers`, which every implementation must pass, a user's too. Times are integer
milliseconds since the epoch by the store's own clock; durations are seconds. Every operation may raise
`BufferUnavailable`; it then has either happened whole or not at all, and the same call may be made again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, Self

from streamchat.buffers.records import (
    LOG_VERSION,
    Appended,
    Claim,
    ConversationRecord,
    Created,
    Input,
    InputKind,
    Lease,
    MessageRecord,
    NewEvent,
    NewRun,
    Page,
    Posted,
    RunRecord,
    RunStatus,
    Segment,
    Then,
)
from streamchat.principal import Principal

__all__ = [
    "LOG_VERSION",
    "Appended",
    "Claim",
    "ConversationRecord",
    "Created",
    "EventBuffer",
    "Follower",
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


class Follower(Protocol):
    """Tells that a run may have more to read. A hint only: readers look into the store, and poll besides."""

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for a hint given since the last call (or since `EventBuffer.follow`), at most ``seconds``.

        Returns whether there was one. May be woken for nothing. Cancelling it loses no hint.
        """
        ...

    async def close(self) -> None:
        """Stop following; idempotent. A waiting `wait` returns False."""
        ...


class EventBuffer(Protocol):
    """Where events are kept. Every method may be called from many tasks at once."""

    async def open(self) -> Self:
        """Connect and check that the store can be worked with; idempotent.

        Raises `BufferUnavailable` where it cannot, with what to do.
        """
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of all connections, tasks and threads; idempotent."""
        ...

    async def create(
        self,
        run: NewRun,
        messages: Sequence[MessageRecord] = (),
        kept: Sequence[NewEvent] = (),
    ) -> Created:
        """Write a run: ``started`` as seq 1 under a first generation, ``kept`` after it, and the message
        rows.

        The run is ``queued``. An unknown conversation is made, and belongs to the run's principal. In the
        same transaction the run takes the conversation's slot, by compare-and-set; where that is taken and
        ``run.enqueue`` says so, it is made ``enqueued``. It is the conversation's leaf in both cases.

        The message of a run with a ``parent_run_id`` stands beside that of its parent: it follows what that
        one follows by then, whatever its own ``parent_id`` says, which counts where the parent is not stored.

        Idempotent by (principal, ``idempotency_key``): the same key with the same digest returns the first
        run. Raises `IdempotencyConflict` (same key, other digest), `ConversationBusy` (the slot is taken),
        `ConversationMoved` (the leaf is not ``run.follows``), `ConversationNotFound` (the conversation
        belongs to another principal or tenant), `RunNotFound` (``parent_run_id`` was deleted).
        """
        ...

    async def created(
        self, principal: Principal | None, idempotency_key: str, digest: str
    ) -> RunRecord | None:
        """Return the run that `create` made under this key, or None; raises `IdempotencyConflict` as it
        does."""
        ...

    async def claim(
        self,
        worker: str,
        ttl: float,
        run_id: str | None = None,
        *,
        log_versions: Collection[int] = (LOG_VERSION,),
    ) -> Claim | None:
        """Take a run that nobody holds, for ``ttl`` seconds: the named one, or the one that has waited
        longest.

        To be had are queued runs that are not enqueued, runs whose lease has expired, and suspended runs past
        ``wake_at``. The fence grows by one, a new generation begins at the next seq. Returns None when there
        is nothing to take (also when the named run is held, over, enqueued, suspended with nothing to wake
        it, or unknown).
        """
        ...

    async def append(
        self,
        lease: Lease,
        events: Sequence[NewEvent],
        *,
        messages: Sequence[MessageRecord] = (),
        consumed: Sequence[str] = (),
        then: Then = "hold",
        wake_at: int | None = None,
        keep_slot: bool = True,
    ) -> Appended:
        """Write events, message rows, consumed input ids, the run's state, slot and lease in one transaction.

        ``then``: ``hold`` keeps the lease; ``queue`` gives it up for others to take; ``suspend`` gives it up
        until an input or ``wake_at`` (None: never by time), and takes the conversation's slot if nobody has
        it, or with ``keep_slot=False`` gives it free; ``over`` ends the run (its status is that of the
        ``finalized`` event, which must come last) and frees the slot. A slot that becomes free goes to the
        oldest enqueued run of the conversation, which can be claimed from then on. Messages are inserted, or
        replaced by ``message_id``; what they follow, ``parent_id``, stays as it was first written.

        Succeeds if and only if the stored generation and head are those of ``lease``. A head that has
        advanced by exactly this batch under this generation is an acknowledgement that was lost, hence a
        success (``recovered``): so a batch whose fate is unknown must be sent again unchanged. Anything else
        is `LeaseLost`. An expired lease that nobody claimed still appends. With ``suspend`` while inputs are
        unconsumed nothing is written and `InputsPending` is raised. That settles a batch which was sent for
        the first time. After a try whose fate is unknown it does not (readers may have what a failover then
        lost): no other batch may be sent under this lease but an empty one with ``queue``.
        """
        ...

    async def renew(self, lease: Lease, ttl: float) -> Lease:
        """Hold on for ``ttl`` seconds from now. Same rule as `append`; raises `LeaseLost`."""
        ...

    async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        """Return the events with seq > ``after``, at most ``limit``; raises `RunNotFound`.

        Where events are large the page may hold fewer, but at least one if there is one: a reader goes on
        until it has reached ``last_seq``.
        """
        ...

    async def follow(self, run_id: str) -> Follower:
        """Watch a run for appends and posts; the caller closes the follower. Unknown runs are followed in
        silence."""
        ...

    async def post(self, run_id: str, posted: Input) -> Posted:
        """Leave an input for the run's holder; a suspended run is queued in the same transaction, and an
        enqueued one that is cancelled can be claimed: it has only to be ended.

        Unique by (run, kind, key): the same again is no error and changes nothing, whether it was consumed or
        not and also after the run's end; another body raises `AnswerConflict` (a second cancel never does:
        the first stands). Raises `RunOver` for a first input to a run that has ended, `RunNotFound`.
        """
        ...

    async def inputs(self, run_id: str) -> list[Input]:
        """Return the inputs that were not consumed yet, oldest first; raises `RunNotFound`."""
        ...

    async def get(self, run_id: str) -> RunRecord:
        """Return the run's record; raises `RunNotFound`."""
        ...

    async def find(self, conversation_id: str) -> RunRecord | None:
        """Return the conversation's newest run that is neither over nor enqueued, or None."""
        ...

    async def enqueued(self, conversation_id: str) -> list[RunRecord]:
        """Return the conversation's enqueued runs, the next one first; none for an unknown conversation."""
        ...

    async def conversation(self, conversation_id: str) -> ConversationRecord:
        """Return a conversation; raises `ConversationNotFound`."""
        ...

    async def conversations(
        self, owner: str | None, tenant: str | None = None, *, after: str | None = None, limit: int = 50
    ) -> list[ConversationRecord]:
        """Return a principal's conversations, most recently changed first, behind the one named ``after``."""
        ...

    async def messages(
        self, conversation_id: str, *, after: str | None = None, limit: int = 1000
    ) -> list[MessageRecord]:
        """Return a conversation's messages in the order they were written, behind the one named ``after``.

        Raises `ConversationNotFound`.
        """
        ...

    async def trim(self, older_than: int, limit: int = 1000) -> int:
        """Drop events of runs that ended before ``older_than`` (ms), but for each run's last batch.

        At most ``limit`` runs a call; returns how many runs were trimmed. What is gone is recorded before it
        goes.
        """
        ...

    async def delete(
        self,
        *,
        run_id: str | None = None,
        conversation_id: str | None = None,
        owner: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Delete a run, a conversation, or all that belongs to a principal; returns how many runs went.

        Exactly one of ``run_id``, ``conversation_id``, ``owner`` is given. What is active loses its lease:
        its holder gets `LeaseLost` at the next append. A tombstone stays: the ids are never taken again.
        What followed a deleted message follows what that one followed.
        """
        ...
