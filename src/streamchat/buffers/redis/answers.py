"""What the scripts that write runs are given, and what their answers mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamchat.buffers import refusals
from streamchat.buffers.base import (
    Appended,
    Lease,
    MessageRecord,
    NewEvent,
    NewRun,
    Page,
    RunRecord,
    Segment,
    Then,
)
from streamchat.buffers.codec import Payloads
from streamchat.buffers.redis import records
from streamchat.buffers.redis.lanes import Argument
from streamchat.buffers.redis.records import optional, raw, text
from streamchat.buffers.shared import check_message_ids, check_messages, same_run, status_after, stored
from streamchat.core.append_rule import same_events, slot_after
from streamchat.errors import LeaseLost, StreamChatError
from streamchat.events import StoredEvent

__all__ = [
    "append_arguments",
    "appended",
    "create_arguments",
    "create_refused",
    "lease_lost",
    "made_before",
    "page",
    "settles_only_the_first",
]


# ----------------------------------------------------------------------------------------------------- create


def create_arguments(
    payloads: Payloads,
    run: NewRun,
    messages: Sequence[MessageRecord],
    kept: Sequence[NewEvent],
    *,
    slot: str,
    whose: str,
    generation: str,
) -> list[Argument]:
    """Return the arguments of ``create.lua`` behind the time."""
    events = [run.started, *kept]
    mine = records.run_fields(payloads, run)
    home = records.conversation_fields(payloads, run)
    arguments: list[Argument] = [
        raw(run.run_id),
        raw(run.conversation_id),
        slot,
        raw(run.digest or ""),
        whose,
    ]
    arguments += [generation, run.log_version, len(events), records.pack_batch(payloads, events)]
    arguments += [raw(run.message_id), int(run.enqueue), optional(run.follows)]
    arguments += [optional(run.parent_run_id)]
    arguments += [len(mine), *mine, len(home), *home]
    return arguments + records.message_arguments(payloads, messages)


def made_before(
    payloads: Payloads, run: NewRun, slot: str, word: str, run_id: str, flat: Sequence[bytes]
) -> RunRecord:
    """Return the run that stands there under the key or the id; raises where the id is another run's."""
    record = records.run_record(payloads, run_id, flat)
    assert record is not None
    other_key = records.fields(flat).get(b"slot", b"") != slot.encode()
    if word == "same_id" and (other_key or not same_run(record, run)):
        raise refusals.run_id_taken(run.run_id)
    return record


def create_refused(word: str, run: NewRun, name: str) -> StreamChatError:
    """Return the error for what the script says; ``name`` is what stands in the way."""
    if word == "key_used":
        return refusals.key_used(run.idempotency_key, name)
    if word == "run_taken":
        return refusals.run_id_taken(run.run_id)
    if word == "foreign":
        return refusals.conversation_foreign(run.conversation_id)
    if word == "busy":
        return refusals.conversation_busy(run.conversation_id, name)
    if word == "moved":
        return refusals.conversation_moved(run.conversation_id, run.follows)
    if word == "deleted":
        return refusals.conversation_deleted(run.conversation_id)
    if word == "parent_deleted":
        return refusals.run_unknown(name)
    return refusals.message_id_taken(name)


# ----------------------------------------------------------------------------------------------------- append


def append_arguments(
    payloads: Payloads,
    lease: Lease,
    events: Sequence[NewEvent],
    packed: bytes,
    *,
    messages: Sequence[MessageRecord],
    consumed: Sequence[str],
    then: Then,
    wake_at: int | None,
    keep_slot: bool,
) -> list[Argument]:
    """Return the arguments of ``append.lua`` behind the time; raises `InvalidInput` where ending and events
    do not go together, or an id cannot be stored."""
    for message in messages:
        check_message_ids(message)
    names = [raw(name) for name in dict.fromkeys(consumed)]
    arguments: list[Argument] = [
        raw(lease.run_id),
        raw(lease.generation),
        lease.head_seq,
        len(events),
        packed,
    ]
    arguments += [then, status_after(then, events), "" if wake_at is None else wake_at]
    arguments += [slot_after(then, keep_slot=keep_slot) or "", len(names), *names]
    return arguments + (records.message_arguments(payloads, messages) if messages else [0])


def appended(
    payloads: Payloads,
    lease: Lease,
    events: Sequence[NewEvent],
    messages: Sequence[MessageRecord],
    answer: Sequence[Any],
) -> Appended:
    """Return the outcome of an append; raises what the script refuses."""
    word = answer[0]
    if word == b"written":
        at = int(answer[2])
        written = [
            stored(event, seq, at, lease.generation) for seq, event in enumerate(events, lease.head_seq + 1)
        ]
        return Appended(lease.advanced(lease.head_seq + len(events), inputs=answer[1] > 0), written)
    if word == b"recovered":
        return _recovered(payloads, lease, events, answer[1], answer[2])
    if word == b"pending":
        raise refusals.inputs_pending(lease.run_id, int(answer[1]))
    if word == b"elsewhere":
        check_messages(text(answer[1]), messages)
    if word == b"message_taken":
        raise refusals.message_id_taken(text(answer[1]))
    raise lease_lost(lease, answer)


def settles_only_the_first(answer: Sequence[Any]) -> bool:
    """Say whether an append was refused for a reason that lies in the batch: its holder may then send another
    one, but not if an earlier try of this one may have been written."""
    return answer[0] in (b"pending", b"elsewhere", b"message_taken")


def _recovered(
    payloads: Payloads, lease: Lease, events: Sequence[NewEvent], unread: int, entries: Sequence[Any]
) -> Appended:
    """Return what an earlier try of this batch wrote, if it was this batch."""
    written: list[StoredEvent] = []
    for entry in entries:
        written += records.stored_batch(payloads, entry, (Segment(lease.generation, 1),))[1]
    head = lease.head_seq + len(events)
    if not same_events(written, events):
        raise refusals.lease_lost(lease, lease.generation, head)
    return Appended(lease.advanced(head, inputs=unread > 0), written, recovered=True)


def lease_lost(lease: Lease, answer: Sequence[Any]) -> LeaseLost:
    """Return the error for a lease that the script does not find as its holder names it."""
    if answer[0] != b"lost":
        return refusals.lease_lost(lease, None, 0)
    return refusals.lease_lost(lease, text(answer[1]), int(answer[2]))


# ------------------------------------------------------------------------------------------------------- read


def page(payloads: Payloads, after: int, limit: int, answer: Sequence[Any]) -> Page:
    """Return a page from the answer of ``read.lua``: contiguous, or with a gap that its ``first_seq``
    shows."""
    head, first_seq = int(answer[0]), int(answer[1])
    segments = tuple(records.segment(one) for one in answer[2])
    events: list[StoredEvent] = []
    reached = max(after, first_seq - 1)
    for entry in answer[3]:
        first, batch = records.stored_batch(payloads, entry, segments)
        if first > reached + 1:
            # Entries are missing that nobody trimmed. Behind events, the next page says so.
            if events:
                break
            first_seq = first
        events += batch[max(reached + 1 - first, 0) :]
        reached = events[-1].seq
    if not events and reached < head:
        first_seq = head + 1
    return Page(events[:limit], segments, first_seq, head)
