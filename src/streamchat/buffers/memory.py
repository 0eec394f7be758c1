"""`MemoryEventBuffer`: everything in this process, gone with it.

Every operation does its work between two awaits, so none needs a lock and each is a transaction by itself.
Runs on asyncio and on trio; used from one thread.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Self, cast

import anyio

from streamchat.buffers import refusals
from streamchat.buffers.base import (
    LOG_VERSION,
    Appended,
    Claim,
    ConversationRecord,
    Created,
    Follower,
    Input,
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
from streamchat.buffers.following import Followers
from streamchat.buffers.memory_state import Conversation, MemoryState, Run, behind
from streamchat.buffers.notes import LocalNotes
from streamchat.buffers.shared import (
    Clock,
    Token,
    check_create,
    check_messages,
    check_page,
    encode_body,
    event_bytes,
    input_id,
    now_ms,
    random_token,
    status_after,
)
from streamchat.core.append_rule import (
    Decision,
    blocked_by_inputs,
    decide_post,
    ready_at,
    slot_after,
    status_after_post,
    wakes,
)
from streamchat.core.cursor import next_generation
from streamchat.core.given import check_number
from streamchat.errors import BufferUnavailable, LeaseLost
from streamchat.events import TERMINAL
from streamchat.principal import Principal

__all__ = ["MemoryEventBuffer"]

_TURN = 32
"""After so many appends others get their turn."""


class MemoryEventBuffer(LocalNotes):
    """An `EventBuffer` in memory.

    What is over may be dropped, the oldest first: ``retention`` seconds after its end (None: never by time),
    and as soon as there are more than ``max_runs`` runs or ``max_bytes`` bytes of payload. A dropped run is
    unknown (`RunNotFound`); a conversation goes with the last of its runs. What is not over is never dropped:
    when that alone exceeds a bound, `create` raises `BufferUnavailable`. ``clock`` and ``token`` are for
    tests.
    """

    def __init__(
        self,
        *,
        retention: float | None = 3600.0,
        max_runs: int = 10_000,
        max_bytes: int = 256 * 1024 * 1024,
        clock: Clock = now_ms,
        token: Token = random_token,
    ) -> None:
        check_number("retention", retention, least=0, none=True, finite=True)
        check_number("max_runs", max_runs, least=1, whole=True)
        check_number("max_bytes", max_bytes, least=1, whole=True)
        super().__init__(clock)
        self._retention = None if retention is None else int(retention * 1000)
        self._max_runs = max_runs
        self._max_bytes = max_bytes
        self._token = token
        self._followers = Followers()
        self._state = MemoryState()
        self._appends = 0

    async def open(self) -> Self:
        """Return the buffer; there is nothing to connect to."""
        return self

    async def close(self) -> None:
        """End all followers. What is stored stays as long as the object does."""
        self._followers.close()

    # ------------------------------------------------------------------------------------------ writing

    async def create(
        self, run: NewRun, messages: Sequence[MessageRecord] = (), kept: Sequence[NewEvent] = ()
    ) -> Created:
        """Write a run; see `EventBuffer.create`. A run id that was used for another run is `InvalidInput`."""
        check_create(run, messages, kept)
        state, now = self._state, self._now()
        known = state.known(run)
        if known is not None:
            return Created(known.record(), new=False)
        state.check_conversation(run)
        state.check_homes(run.conversation_id, messages)
        messages = state.placed(run, messages)
        self._make_room(len(run.request) + event_bytes((run.started, *kept)))
        made = state.add(run, next_generation(self._token(), self._token()), now)
        made.write((run.started, *kept), now)
        state.grow(made, (run.started, *kept), len(run.request))
        state.put_messages(messages, now)
        self._followers.notify((run.run_id,))
        return Created(made.record(), new=True)

    async def created(
        self, principal: Principal | None, idempotency_key: str, digest: str
    ) -> RunRecord | None:
        """Return the run that was made under this key; see `EventBuffer.created`."""
        run = self._state.known_by_key(principal, idempotency_key, digest)
        return None if run is None else run.record()

    async def claim(
        self,
        worker: str,
        ttl: float,
        run_id: str | None = None,
        *,
        log_versions: Collection[int] = (LOG_VERSION,),
    ) -> Claim | None:
        """Take a run that nobody holds; see `EventBuffer.claim`."""
        now = self._now()
        run = self._state.claimable(now, run_id, log_versions)
        if run is None:
            return None
        was = run.status
        run.fence += 1
        run.generation = next_generation(run.segments[0].generation, self._token())
        run.segments.append(Segment(run.generation, run.head_seq + 1))
        run.status, run.owner = "running", worker
        run.lease_until = now + int(ttl * 1000)
        run.queued_at = run.wake_at = None
        run.updated_at = now
        return Claim(run.lease(), run.record(), was)

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
        """Write a batch; see `EventBuffer.append`."""
        status = cast(RunStatus, status_after(then, events))
        self._appends += 1
        if self._appends % _TURN == 0:
            # A holder who never waits for anything must not keep the others from their turn. Each time would
            # be one more turn of the loop for each chunk. Cancelled here, nothing has happened.
            await anyio.lowlevel.checkpoint()
        now = self._now()
        run = self._state.runs.get(lease.run_id)
        decision = "lost" if run is None else self._judge(run, lease, events, keeps=then == "hold")
        if run is None or decision == "lost":
            raise _lost(lease, run)
        if decision == "recovered":
            written = run.slice(lease.head_seq, run.head_seq)
            return Appended(lease.advanced(run.head_seq, inputs=bool(run.unread)), written, recovered=True)
        left = sorted(run.unread.keys() - set(consumed))
        if blocked_by_inputs(then, len(left)):
            raise refusals.inputs_pending(lease.run_id, left)
        check_messages(run.new.conversation_id, messages)
        self._state.check_homes(run.new.conversation_id, messages)

        for name in consumed:
            run.unread.pop(name, None)
        written = run.write(events, now)
        self._state.grow(run, events)
        self._state.put_messages(messages, now)
        if then != "hold":
            self._give_up(run, status, then, now, wake_at=wake_at, keep_slot=keep_slot)
        elif messages:
            self._state.conversations[run.new.conversation_id].touch(now)
        self._followers.notify((lease.run_id,))
        self._sweep()
        return Appended(lease.advanced(run.head_seq, inputs=bool(run.unread)), written)

    def append_now(self, lease: Lease, events: Sequence[NewEvent]) -> Appended | None:
        """Write a part of an answer; see `AppendsNow.append_now`."""
        run = self._state.runs.get(lease.run_id)
        self._appends += 1
        if run is None or self._appends % _TURN == 0:
            return None
        for event in events:
            if event.type == TERMINAL:
                return None
        if run.decide(lease, len(events)) != "write":
            return None
        written = run.write(events, self._now())
        self._state.grow(run, events)
        self._followers.notify((lease.run_id,))
        if self._state.ended:
            self._sweep()
        return Appended(lease.advanced(run.head_seq, inputs=bool(run.unread)), written)

    def __init_subclass__(cls) -> None:
        # Who writes in another way is asked in that way alone.
        if "append" in cls.__dict__ and "append_now" not in cls.__dict__:
            cls.append_now = None  # type: ignore[assignment, method-assign]

    async def renew(self, lease: Lease, ttl: float) -> Lease:
        """Hold on for ``ttl`` seconds from now; see `EventBuffer.renew`."""
        run = self._state.runs.get(lease.run_id)
        if run is None or self._judge(run, lease, (), keeps=True) != "write":
            raise _lost(lease, run)
        run.lease_until = self._now() + int(ttl * 1000)
        return run.lease()

    async def post(self, run_id: str, posted: Input) -> Posted:
        """Leave an input for the run's holder; see `EventBuffer.post`."""
        body = encode_body(posted)
        run = self._run(run_id)
        key = (posted.kind, posted.key)
        first = run.posted.get(key)
        before = None if first is None else first[1]
        reception = decide_post(posted.kind, body, before=before, over=run.ended_at is not None)
        if reception == "conflict":
            raise refusals.answered_otherwise(run_id, posted)
        if reception == "over":
            raise refusals.run_over(run_id, run.status, posted)
        if reception == "known":
            return Posted(run.record(), new=False)
        now = self._now()
        made = replace(posted, input_id=input_id(posted.kind, posted.key), at=now)
        run.posted[key] = (made, body)
        run.unread[made.input_id] = made
        if wakes(posted.kind, status=run.status, enqueued=run.enqueued):
            run.status = cast(RunStatus, status_after_post(run.status))
            run.queued_at, run.wake_at = now, None
        run.updated_at = now
        self._followers.notify((run_id,))
        return Posted(run.record(), new=True)

    async def trim(self, older_than: int, limit: int = 1000) -> int:
        """Drop old events of finished runs; see `EventBuffer.trim`."""
        check_page(0, limit)
        trimmed = 0
        for run in self._state.ended.values():
            if trimmed == limit or run.ended_at is None or run.ended_at >= older_than:
                break
            if run.first_seq < run.batch_seq:
                self._state.size -= run.trim()
                trimmed += 1
        return trimmed

    async def delete(
        self,
        *,
        run_id: str | None = None,
        conversation_id: str | None = None,
        owner: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Delete a run, a conversation, or all that belongs to a principal; see `EventBuffer.delete`."""
        if sum(x is not None for x in (run_id, conversation_id, owner)) != 1:
            raise refusals.one_selector()
        state = self._state
        if run_id is not None:
            run = state.runs.get(run_id)
            return self._delete_runs([] if run is None else [run])
        doomed = [
            conversation
            for conversation in state.conversations.values()
            if (
                conversation.record.conversation_id == conversation_id
                if conversation_id is not None
                else (conversation.record.owner, conversation.record.tenant) == (owner, tenant)
            )
        ]
        gone = 0
        for conversation in doomed:
            gone += self._delete_runs(list(conversation.runs.values()), with_conversation=True)
            state.tombstones.add(("conversation", conversation.record.conversation_id))
            if conversation.record.conversation_id in state.conversations:
                state.drop_conversation(conversation)
        return gone

    # ------------------------------------------------------------------------------------------ reading

    async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        """Return a page of the log; see `EventBuffer.read`."""
        check_page(after, limit)
        run = self._run(run_id)
        start = max(after, run.first_seq - 1)
        return Page(run.slice(start, start + limit), tuple(run.segments), run.first_seq, run.head_seq)

    async def follow(self, run_id: str) -> Follower:
        """Watch a run for appends and posts."""
        return self._followers.follow(run_id)

    async def inputs(self, run_id: str) -> list[Input]:
        """Return the inputs that were not consumed yet, oldest first."""
        return list(self._run(run_id).unread.values())

    async def get(self, run_id: str) -> RunRecord:
        """Return the run's record."""
        return self._run(run_id).record()

    async def find(self, conversation_id: str) -> RunRecord | None:
        """Return the conversation's newest run that is neither over nor enqueued, or None."""
        run = self._state.newest(conversation_id)
        return None if run is None else run.record()

    async def enqueued(self, conversation_id: str) -> list[RunRecord]:
        """Return the conversation's enqueued runs, the next one first."""
        return [run.record() for run in self._state.enqueued(conversation_id)]

    async def conversation(self, conversation_id: str) -> ConversationRecord:
        """Return a conversation."""
        return self._conversation(conversation_id).record

    async def set_title(self, conversation_id: str, title: str | None) -> bool:
        """Give a conversation another title, or none; see `TitleStore.set_title`."""
        return self._state.set_title(conversation_id, title)

    async def conversations(
        self, owner: str | None, tenant: str | None = None, *, after: str | None = None, limit: int = 50
    ) -> list[ConversationRecord]:
        """Return a principal's conversations, most recently changed first."""
        check_page(0, limit)
        records = sorted(
            (
                c.record
                for c in self._state.conversations.values()
                if (c.record.owner, c.record.tenant) == (owner, tenant)
            ),
            key=lambda record: (record.updated_at, record.conversation_id),
            reverse=True,
        )
        start = behind(after, [record.conversation_id for record in records])
        return records[start : start + limit]

    async def messages(
        self, conversation_id: str, *, after: str | None = None, limit: int = 1000
    ) -> list[MessageRecord]:
        """Return a conversation's messages in the order they were written."""
        check_page(0, limit)
        messages = self._conversation(conversation_id).messages
        start = behind(after, list(messages))
        return list(messages.values())[start : start + limit]

    # ------------------------------------------------------------------------------------------ the parts

    def _run(self, run_id: str) -> Run:
        self._sweep()
        run = self._state.runs.get(run_id)
        if run is None:
            raise refusals.run_unknown(run_id)
        return run

    def _conversation(self, conversation_id: str) -> Conversation:
        self._sweep()
        conversation = self._state.conversations.get(conversation_id)
        if conversation is None:
            raise refusals.conversation_unknown(conversation_id)
        return conversation

    def _judge(self, run: Run, lease: Lease, events: Sequence[NewEvent], *, keeps: bool) -> Decision:
        return run.judge(lease, events, keeps=keeps)

    def _give_up(
        self, run: Run, status: RunStatus, then: Then, now: int, *, wake_at: int | None, keep_slot: bool
    ) -> None:
        run.status, run.owner, run.lease_until, run.updated_at = status, None, None, now
        ready = ready_at(then, now=now, wake_at=wake_at)
        run.queued_at = ready if then == "queue" else None
        run.wake_at = ready if then == "suspend" else None
        if then == "over":
            self._state.end(run, now)
        moved = slot_after(then, keep_slot=keep_slot)
        slot = {} if moved is None else {moved: run.new.run_id}
        self._state.conversations[run.new.conversation_id].touch(now, **slot)

    def _delete_runs(self, runs: Sequence[Run], *, with_conversation: bool = False) -> int:
        state = self._state
        for run in runs:
            run_id = run.new.run_id
            conversation = state.conversations[run.new.conversation_id]
            if not with_conversation:
                state.drop_messages(
                    conversation, [m for m in conversation.messages.values() if m.run_id == run_id]
                )
                conversation.touch(self._now(), free=run_id)
                leaf = next(reversed(conversation.messages), None)
                conversation.record = replace(conversation.record, leaf_id=leaf)
            state.drop(run, with_conversation=with_conversation)
            state.tombstones.add(("run", run_id))
            self.forget_notes(run_id)
            self._followers.notify((run_id,))
        return len(runs)

    # ------------------------------------------------------------------------------------------ room

    def _make_room(self, size: int) -> None:
        self._sweep(runs=1, size=size)
        state = self._state
        if len(state.active) >= self._max_runs or (state.active and state.size + size > self._max_bytes):
            raise BufferUnavailable(
                f"the memory buffer is full: {len(state.active)} runs that are not over "
                f"(max_runs={self._max_runs}), {state.size} bytes (max_bytes={self._max_bytes})"
            )

    def _sweep(self, runs: int = 0, size: int = 0) -> None:
        """Drop the oldest of what is over while there is too much, or it is too old."""
        state, oldest = self._state, None
        limit = None if self._retention is None else self._now() - self._retention
        while state.ended:
            oldest = next(iter(state.ended.values()))
            stale = limit is not None and oldest.ended_at is not None and oldest.ended_at <= limit
            crowded = len(state.runs) + runs > self._max_runs or state.size + size > self._max_bytes
            if not stale and not crowded:
                return
            state.drop(oldest)
            self._followers.notify((oldest.new.run_id,))


def _lost(lease: Lease, run: Run | None) -> LeaseLost:
    return refusals.lease_lost(lease, *((None, 0) if run is None else (run.generation, run.head_seq)))
