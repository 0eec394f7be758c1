"""The rules that every buffer follows: who may append, who may claim, and what becomes of a run's status.

They are functions over what is stored, so that memory, SQL and any other store decide alike; a store's own
part is to read, decide and write in one transaction.

Why an append names generation *and* head, and not a fence number alone: after a failover that lost
transactions, a holder with a valid fence would write on behind events that are no longer there. Comparing the
head makes it notice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, get_args

from streamchat.core.lifecycle import BARRIERS
from streamchat.errors import InvalidInput
from streamchat.events import TERMINAL

__all__ = [
    "Decision",
    "Entrance",
    "Payload",
    "Reception",
    "SlotMove",
    "batch_must_last",
    "blocked_by_inputs",
    "canonical_body",
    "claimable_since",
    "decide_append",
    "decide_entrance",
    "decide_post",
    "final_status",
    "idempotency_slot",
    "is_enqueued",
    "judge_append",
    "ready_at",
    "same_events",
    "slot_after",
    "status_after_append",
    "status_after_post",
    "wakes",
]

Decision: TypeAlias = Literal["write", "recovered", "lost"]
Entrance: TypeAlias = Literal["active", "enqueued", "moved", "busy"]
SlotMove: TypeAlias = Literal["free", "take"]
Reception: TypeAlias = Literal["new", "known", "conflict", "over"]
Then: TypeAlias = Literal["hold", "queue", "suspend", "over"]
_THENS: tuple[Then, ...] = get_args(Then)
Status: TypeAlias = Literal["queued", "running", "suspended", "success", "error", "cancelled"]
Ending: TypeAlias = Literal["success", "error", "cancelled"]
_ENDINGS: tuple[Ending, ...] = ("success", "error", "cancelled")


class Payload(Protocol):
    """What an event says, wherever it stands."""

    @property
    def type(self) -> str:
        """The event's type."""
        ...

    @property
    def data(self) -> bytes:
        """Its public JSON."""
        ...

    @property
    def private(self) -> bytes | None:
        """Its private JSON."""
        ...


def decide_append(
    *,
    stored_generation: str,
    stored_head: int,
    stored_held: bool,
    lease_generation: str,
    lease_head: int,
    batch: int,
    keeps: bool,
) -> Decision:
    """Decide about a batch of ``batch`` events (0 and more) by the holder of (``lease_generation``,
    ``lease_head``).

    ``stored_held`` says whether the run has a holder, expired or not; ``keeps`` whether the holder wants to
    remain one (``then="hold"``). ``write``: go ahead. ``recovered``: an earlier try of just this batch was
    written and its acknowledgement lost; the caller still compares the events. ``lost``: somebody else holds
    the log, or it is not where the holder left it.

    A generation has one holder in its life and a holder sends one batch at a time, so a head that moved on by
    the batch's length under the same generation can only be that batch. An empty batch moves no head: there,
    it is the lease that was given up already which tells that the first try was written.
    """
    if stored_generation != lease_generation:
        return "lost"
    if stored_head == lease_head and stored_held:
        return "write"
    if stored_head == lease_head + batch and stored_held == keeps and (batch or not keeps):
        return "recovered"
    return "lost"


def same_events(written: Sequence[Payload], batch: Sequence[Payload]) -> bool:
    """Say whether what stands in the log is just this batch."""
    return len(written) == len(batch) and all(
        (w.type, w.data, w.private) == (b.type, b.data, b.private)
        for w, b in zip(written, batch, strict=True)
    )


def judge_append(
    *,
    stored_generation: str,
    stored_head: int,
    stored_held: bool,
    lease_generation: str,
    lease_head: int,
    events: Sequence[Payload],
    keeps: bool,
    written: Callable[[], Sequence[Payload]],
) -> Decision:
    """Decide as `decide_append`, and take nothing for an earlier try but the same events.

    ``written`` gives what stands behind ``lease_head``, as many events as the batch has; it is called only
    where that must be known. The comparison is a second line: it catches a holder who sends another batch in
    the place of one whose fate it does not know.
    """
    decision = decide_append(
        stored_generation=stored_generation,
        stored_head=stored_head,
        stored_held=stored_held,
        lease_generation=lease_generation,
        lease_head=lease_head,
        batch=len(events),
        keeps=keeps,
    )
    if decision == "recovered" and events and not same_events(written(), events):
        return "lost"
    return decision


def blocked_by_inputs(then: Then, unread: int) -> bool:
    """Say whether a batch is refused because ``unread`` inputs would be left that it does not consume.

    A run that were suspended over an answer that is there would wait for it for ever.
    """
    return then == "suspend" and unread > 0


def ready_at(then: Then, *, now: int, wake_at: int | None) -> int | None:
    """Return from when (ms) a run may be taken after an append: at once, at ``wake_at``, or None: not by
    time."""
    return {"queue": now, "suspend": wake_at}.get(then)


def slot_after(then: Then, *, keep_slot: bool) -> SlotMove | None:
    """Say what becomes of the conversation's slot with an append; None: nothing.

    ``free``: the run gives it free, if it holds it. ``take``: it holds it from now on, if nobody does; a run
    that went on without it, and now waits for somebody, is again what its conversation is busy with.
    """
    if then == "suspend":
        return "take" if keep_slot else "free"
    return "free" if then == "over" else None


def decide_entrance(
    *, active_run_id: str | None, enqueue: bool, leaf_id: str | None, follows: str | None
) -> Entrance:
    """Say how a new run enters a conversation; all of this and the new run are one transaction.

    ``active``: it takes the slot. ``enqueued``: it stands behind the run that has the slot, and all that
    stand there already; whoever frees the slot gives it, in the same transaction, to the oldest of those.
    ``busy``: it may not wait (``enqueue``). ``moved``: its messages follow ``follows`` (``""``: none; None:
    nobody looks), and the conversation's leaf is another by now.
    """
    if active_run_id is not None and not enqueue:
        return "busy"
    if follows is not None and follows != (leaf_id or ""):
        return "moved"
    return "active" if active_run_id is None else "enqueued"


def is_enqueued(status: str, *, queued_at: int | None) -> bool:
    """Say whether a run stands behind others of its conversation: queued, but not to be had by time."""
    return status == "queued" and queued_at is None


def wakes(kind: str, *, status: str, enqueued: bool) -> bool:
    """Say whether an input makes a run one that may be taken, from now on.

    What was suspended goes on. An enqueued run waits on, but for a cancel: to end it needs no slot, so
    whoever claims it ends it, and it is passed over when the slot is given on.
    """
    return status == "suspended" or (enqueued and kind == "cancel")


def status_after_append(then: Then, types: Sequence[str]) -> Status | None:
    """Return the run's status after an append of events with these ``types``; None means: that of
    `final_status`.

    Raises `InvalidInput` where the ending and its event do not go together.
    """
    if then not in _THENS:
        raise InvalidInput(f"then={then!r:.100}: it must be one of {', '.join(_THENS)}", field="then")
    if TERMINAL in types[:-1]:
        raise InvalidInput(
            f"{TERMINAL!r} stands at {types.index(TERMINAL)} of {len(types)} events: it must be last"
        )
    if (then == "over") != (bool(types) and types[-1] == TERMINAL):
        raise InvalidInput(
            f"then={then!r} with {types[-1] if types else 'no event'!r} as the last event: "
            f"a batch that ends with {TERMINAL!r} goes with then='over', and no other does"
        )
    if then == "hold":
        return "running"
    if then == "queue":
        return "queued"
    return "suspended" if then == "suspend" else None


def final_status(finalized: bytes) -> Ending:
    """Return the status that a ``finalized`` event's JSON names; raises `InvalidInput` where it names
    none."""
    try:
        status = json.loads(finalized)["status"]
    except (ValueError, TypeError, LookupError):
        status = None
    for ending in _ENDINGS:
        if status == ending:
            return ending
    raise InvalidInput(
        f"the {TERMINAL!r} event has the status {status!r}: it must be one of {', '.join(_ENDINGS)}",
        field="status",
    )


def status_after_post(status: str) -> str:
    """Return a run's status after an input came in: what was suspended is queued, so that somebody reads
    it."""
    return "queued" if status == "suspended" else status


def decide_post(kind: str, body: bytes, *, before: bytes | None, over: bool) -> Reception:
    """Say how an input is received; ``before`` is the body that came under its kind and key first, None if
    none did.

    ``new``: it is kept, and the run's status is that of `status_after_post`. ``known``: the same came before,
    consumed or not, and nothing changes, also after the end; of cancels the first stands. ``conflict``: the
    first answer was another. ``over``: the run has ended, and nobody reads it.
    """
    if before is not None:
        return "known" if kind == "cancel" or before == body else "conflict"
    return "over" if over else "new"


def claimable_since(
    status: str, *, queued_at: int | None, lease_until: int | None, wake_at: int | None, now: int
) -> int | None:
    """Return since when (ms) a run has been there to be taken, or None if it is not; ``now`` is the store's
    time.

    A queued run without ``queued_at`` is enqueued: others of its conversation come first. A lease and a wait
    are over in the millisecond that they name.
    """
    since = {"queued": queued_at, "running": lease_until, "suspended": wake_at}.get(status)
    return since if since is not None and since <= now else None


def batch_must_last(types: Sequence[str], *, consumed: int, keeps: bool) -> bool:
    """Say whether a batch must survive a power loss once it is acknowledged; other batches may be lost with
    it.

    That is so for barriers, for answers that are consumed, and where the lease is given up.
    """
    return not keeps or consumed > 0 or not BARRIERS.isdisjoint(types)


def idempotency_slot(owner: str | None, tenant: str | None, key: str) -> str:
    """Return a fixed-length name for a principal's idempotency key, which no other principal's key shares."""
    return hashlib.sha256(canonical_body([tenant, owner, key])).hexdigest()


def canonical_body(body: Any) -> bytes:
    """Return the one JSON form of an input's body, by which the same answer is recognized."""
    # Escaped to ASCII, so that NUL and lone surrogates survive any store.
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")
