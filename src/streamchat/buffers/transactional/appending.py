"""Appending: many plain batches at once, or one with all that may come with it (messages, answers, an
ending)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamchat.buffers import refusals
from streamchat.buffers.base import Appended, Lease, MessageRecord, NewEvent, Then
from streamchat.buffers.shared import check_messages, event_bytes
from streamchat.buffers.transactional.hot import Batch, EventRow, Head, Move, Transaction
from streamchat.buffers.transactional.jobs import Job
from streamchat.buffers.transactional.records import stored_events
from streamchat.core.append_rule import (
    Decision,
    batch_must_last,
    blocked_by_inputs,
    final_status,
    judge_append,
    status_after_append,
)
from streamchat.events import StoredEvent

__all__ = ["AppendJob", "accepted", "append_many", "append_one", "event_rows", "judge"]


class AppendJob(Job[Any, Appended]):
    """An append; ``plain`` (see `Job`) where it is nothing but events by a holder who stays."""

    __slots__ = ("batch", "coded")

    def __init__(
        self,
        lease: Lease,
        events: Sequence[NewEvent],
        coded: Sequence[tuple[str, bytes, bytes | None]],
        *,
        messages: Sequence[MessageRecord],
        consumed: Sequence[str],
        then: Then,
        wake_at: int | None,
        keep_slot: bool,
    ) -> None:
        """``coded`` are the same events as ``events``, in the form in which they are stored."""
        types = [event_type for event_type, _, _ in events]
        status = status_after_append(then, types) or final_status(events[-1].data)
        self.batch = Batch(lease, events, messages, consumed, then, wake_at, keep_slot, status)
        self.coded = coded
        size = event_bytes(events)
        if messages:
            size += sum(len(message.content) for message in messages)
        keeps = then == "hold"
        super().__init__(
            lease.run_id,
            lambda tx: append_one(tx, self),
            size,
            batch_must_last(types, consumed=len(consumed), keeps=keeps),
            keeps and not messages and not consumed,
            True,
        )


def append_many(tx: Transaction, jobs: Sequence[AppendJob]) -> None:
    """Append plain batches, at most one for each run; refusals are set as ``error``."""
    heads = tx.hot.heads([job.run_id for job in jobs])
    rows: list[EventRow] = []
    moves: list[Move] = []
    for job in jobs:
        head = heads.get(job.run_id)
        decision = judge(tx, head, job.batch.lease, job.batch.events, keeps=True)
        if head is None or decision == "lost":
            job.error = _lost(job.batch.lease, head)
        else:
            job.result = _appended(tx, head, job, recovered=decision == "recovered")
            if decision == "write" and job.coded:
                rows += event_rows(tx, job.run_id, head.head_seq, job.coded)
                first = head.head_seq + 1
                moves.append(Move(job.run_id, head.head_seq + len(job.coded), first, job.size, tx.now))
    tx.hot.insert(rows)
    tx.hot.advance(moves)


def append_one(tx: Transaction, job: AppendJob) -> Appended:
    """Append one batch with all that comes with it."""
    batch, run_id = job.batch, job.run_id
    head = tx.hot.heads([run_id]).get(run_id)
    decision = judge(tx, head, batch.lease, batch.events, keeps=batch.then == "hold")
    if head is None or decision == "lost":
        raise _lost(batch.lease, head)
    if decision == "recovered":
        return _appended(tx, head, job, recovered=True)
    unread = head.unread - tx.consume(run_id, batch.consumed)
    if blocked_by_inputs(batch.then, unread):
        raise refusals.inputs_pending(run_id, unread)
    check_messages(head.conversation_id, batch.messages)
    # This locks the conversation, so that its messages are numbered in the order in which they are seen.
    if batch.then != "hold":
        tx.give_up(head, batch)
    elif batch.messages:
        tx.touch_conversation(head.conversation_id)
    tx.put_messages(batch.messages)
    if job.coded:
        tx.hot.insert(event_rows(tx, run_id, head.head_seq, job.coded))
        reached, size = head.head_seq + len(job.coded), event_bytes(batch.events)
        tx.hot.advance([Move(run_id, reached, head.head_seq + 1, size, tx.now)])
    return _appended(tx, head._replace(unread=unread), job, recovered=False)


def judge(
    tx: Transaction, head: Head | None, lease: Lease, events: Sequence[NewEvent], *, keeps: bool
) -> Decision:
    """Decide about an append (or, without events, a renewal) by what is stored."""
    if head is None:
        return "lost"
    return judge_append(
        stored_generation=head.generation,
        stored_head=head.head_seq,
        stored_held=head.owner is not None,
        lease_generation=lease.generation,
        lease_head=lease.head_seq,
        events=events,
        keeps=keeps,
        written=lambda: _written(tx, lease, len(events)),
    )


def event_rows(
    tx: Transaction, run_id: str, head_seq: int, coded: Sequence[tuple[str, bytes, bytes | None]]
) -> list[EventRow]:
    """Return events as rows behind ``head_seq``."""
    now = tx.now
    return [
        (run_id, seq, event_type, data, private, now)
        for seq, (event_type, data, private) in enumerate(coded, head_seq + 1)
    ]


def accepted(job: AppendJob, now: int, unread: int) -> Appended:
    """Return what a batch that was just written came to; ``unread`` inputs are left."""
    lease = job.batch.lease
    seq, generation = lease.head_seq, lease.generation
    written: list[StoredEvent] = []
    for kind, data, private in job.batch.events:
        seq += 1
        written.append(StoredEvent(seq, now, None, generation, type=kind, data=data, private=private))
    return Appended(lease.advanced(seq, inputs=unread > 0), written)


def _appended(tx: Transaction, head: Head, job: AppendJob, *, recovered: bool) -> Appended:
    if not recovered:
        return accepted(job, tx.now, head.unread)
    batch = job.batch
    lease = batch.lease.advanced(batch.lease.head_seq + len(batch.events), inputs=head.unread > 0)
    return Appended(lease, _written(tx, batch.lease, len(batch.events)), recovered=True)


def _written(tx: Transaction, lease: Lease, count: int) -> list[StoredEvent]:
    if count == 0:
        return []
    page = tx.hot.page(lease.run_id, lease.head_seq, count)
    return [] if page is None else stored_events(tx.payloads, page)


def _lost(lease: Lease, head: Head | None) -> Exception:
    return refusals.lease_lost(lease, *((None, 0) if head is None else (head.generation, head.head_seq)))
