"""The transactions of a store in the model: create, claim, append, post, read; each whole or not at all.

They are put together as the buffers put them together, and decide nothing themselves: what is decided, the
library's functions decide (`tests.protocol.rules`).
"""

from __future__ import annotations

from streamchat.core.cursor import RUN_PART, Cursor, Reset, parse_cursor
from tests.protocol.rules import Rules, enqueued
from tests.protocol.state import LATER, NOW, Entry, Given, Held, Lost, Reader, Row, Sent, Store, Violation

__all__ = ["Transactions", "consumed", "put"]


class Transactions:
    """What a store does under one set of rules; each returns what is stored after it."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def create(self, store: Store, key: int, token: str, *, enqueue: bool = False) -> Store | None:
        """Make a run, with the conversation's slot or (``enqueue``) behind who has it; None where it may do
        neither, or is there."""
        active = None if store.slot is None else str(store.slot)
        entrance = self.rules.enter(active_run_id=active, enqueue=enqueue, leaf_id=None, follows=None)
        if entrance == "busy" or any(row.key == key for row in store.rows):
            return None
        generation = self.rules.next_generation(str(len(store.rows)) * RUN_PART, "", token)
        row = Row(
            key=key,
            status="queued",
            generation=generation,
            fence=0,
            held=False,
            lease=None,
            ready=NOW if entrance == "active" else None,
            log=(Entry(generation, "run_started", ""),),
            first_seq=1,
            batch_seq=1,
            segments=((generation, 1),),
        )
        return Store((*store.rows, row), len(store.rows) if entrance == "active" else store.slot)

    def claimable(self, row: Row) -> bool:
        """Whether a run is there to be taken."""
        since = self.rules.claimable(
            row.status, queued_at=row.ready, lease_until=row.lease, wake_at=row.ready, now=NOW
        )
        return since is not None

    def claim(self, row: Row, run: int, number: int) -> tuple[Row, Held]:
        """Take a run that is claimable."""
        generation = self.rules.next_generation(row.segments[0][0], row.generation, str(number))
        segments = row.segments
        if self.rules.claims_begin_a_segment:
            segments = (*segments, (generation, len(row.log) + 1))
        after = row._replace(
            status="running",
            generation=generation,
            fence=row.fence + 1,
            held=True,
            lease=LATER,
            ready=None,
            segments=segments,
            by=number,
        )
        _stays_over(row, after)
        head = len(row.log)
        return after, Held(number, run, generation, after.fence, head, row.log, claimed_at=head)

    def append(self, store: Store, sent: Sent, lost: frozenset[Lost] = frozenset()) -> tuple[Store, str]:
        """One batch, with all that goes with it; returns the answer too. ``lost`` serves the invariants."""
        batch, rules = sent.batch, self.rules
        if sent.run >= len(store.rows):
            return store, "lease lost"
        row = store.rows[sent.run]
        decision = rules.judge(row, sent)
        if decision != "write":
            return store, "lease lost" if decision == "lost" else "recovered"
        after = consumed(row, batch.consumed)
        unread = sum(not given.consumed for given in after.inputs)
        if rules.blocked(batch.then, unread):
            return store, "inputs pending"
        if sent.number != row.by:
            raise Violation("a holder wrote after another had claimed")
        seq = len(row.log) + 1
        entries = tuple(Entry(row.generation, *event) for event in batch.events)
        _one_content(lost, seq, entries)
        after = after._replace(
            status=rules.status_after(batch),
            log=row.log + entries,
            batch_seq=seq if entries else row.batch_seq,
        )
        slot = store.slot
        if batch.then != "hold":
            ready = rules.ready_at(batch.then, now=NOW, wake_at=LATER if batch.wakes else None)
            after = after._replace(held=False, lease=None, ready=ready)
            after = after._replace(gave_slot=row.gave_slot or not batch.keep_slot)
            moved = rules.slot_after(batch.then, keep_slot=batch.keep_slot)
            if moved == "free":
                slot = rules.free(slot, sent.run)
            elif moved == "take" and slot is None:
                slot, after = sent.run, after._replace(gave_slot=False)
        _stays_over(row, after)
        rows = put(store, sent.run, after).rows
        following = rules.following(rows) if slot is None and store.slot is not None else None
        if following is not None:
            slot, begins = following, rows[following]._replace(ready=NOW)
            rows = put(Store(rows), following, begins).rows
        return Store(rows, slot), "written"

    def post(self, row: Row, kind: str, body: str) -> tuple[Row, str]:
        """Leave an input, and wake the run in the same transaction."""
        before = next((given.body.encode() for given in row.inputs if given.kind == kind), None)
        heard = self.rules.receive(kind, body.encode(), before=before, over=row.over)
        if heard != "new":
            return row, heard
        after = self.woken(row, kind)
        after = after._replace(inputs=(*after.inputs, Given(kind, body)))
        _stays_over(row, after)
        return after, heard

    def woken(self, row: Row, kind: str) -> Row:
        """The run after something came in for it."""
        waits = enqueued(row)
        if not self.rules.wakes(kind, status=row.status, enqueued=waits):
            return row
        status = self.rules.status_after_post(row.status)
        return row._replace(status=status, ready=NOW, gave_slot=row.gave_slot or waits)

    def read(self, row: Row, reader: Reader, limit: int) -> tuple[str, Reader]:
        """What a client does: it asks with its cursor, which may come to any process."""
        log, kept = row.log, reader.kept
        cursor = parse_cursor(str(Cursor(kept[-1].generation, len(kept)))) if kept else None
        first_seq = row.first_seq if self.rules.trims_are_recorded else 1
        verdict = self.rules.resolve(cursor, row.segments, first_seq, len(log))
        stands = kept == log[: len(kept)]
        if isinstance(verdict, Reset):
            _may_reset(row, reader, stands)
            return f"is told to reset ({verdict.reason})", Reader(reader.run, log)
        kept += log[max(verdict.after, row.first_seq - 1) :][:limit]
        if not stands or kept != log[: len(kept)]:
            raise Violation("a reader holds wrong data")
        return f"reads up to seq {len(kept)}", Reader(reader.run, kept)


def put(store: Store, run: int, row: Row) -> Store:
    """The store with another row for ``run``."""
    return Store((*store.rows[:run], row, *store.rows[run + 1 :]), store.slot)


def consumed(row: Row, kinds: tuple[str, ...]) -> Row:
    """The run with some of its inputs marked as read."""
    if not kinds:
        return row
    inputs = tuple(given._replace(consumed=given.consumed or given.kind in kinds) for given in row.inputs)
    return row._replace(inputs=inputs)


def _one_content(lost: frozenset[Lost], seq: int, entries: tuple[Entry, ...]) -> None:
    for gone in lost:
        at = gone.seq - seq
        if 0 <= at < len(entries):
            entry = entries[at]
            if entry.generation == gone.entry.generation and entry != gone.entry:
                raise Violation("one id stands for two events")


def _may_reset(row: Row, reader: Reader, stands: bool) -> None:
    if stands and len(reader.kept) + 1 >= row.first_seq:
        raise Violation("a reader is reset though nothing that it has or needs is gone")
    stored = {entry.type for entry in row.log[row.first_seq - 1 :]}
    if row.first_seq > 1 and "message_completed" not in stored:
        raise Violation("the message of a run that is over cannot be shown any more")


def _stays_over(before: Row, after: Row) -> None:
    if before.over and (before.log, before.status) != (after.log, after.status):
        raise Violation("a run that had ended went on")
