"""What a `MemoryEventBuffer` holds, as plain data: runs, conversations, and what was dropped for want of
room."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from streamchat.buffers import refusals
from streamchat.buffers.base import (
    ConversationRecord,
    Input,
    Lease,
    MessageRecord,
    NewEvent,
    NewRun,
    RunRecord,
    RunStatus,
    Segment,
)
from streamchat.buffers.shared import beside, event_bytes, kept_ancestors, owner_and_tenant, same_run
from streamchat.core.append_rule import (
    Decision,
    claimable_since,
    decide_append,
    decide_entrance,
    idempotency_slot,
    is_enqueued,
    judge_append,
)
from streamchat.events import StoredEvent
from streamchat.principal import Principal

__all__ = ["Conversation", "MemoryState", "Run", "behind"]


@dataclass(slots=True, eq=False)
class Run:
    """One run and its log: ``events[i]`` has the seq ``first_seq + i``."""

    new: NewRun
    number: int
    generation: str
    created_at: int
    updated_at: int
    queued_at: int | None
    slot: str | None = None
    status: RunStatus = "queued"
    head_seq: int = 0
    first_seq: int = 1
    batch_seq: int = 1
    fence: int = 0
    owner: str | None = None
    lease_until: int | None = None
    wake_at: int | None = None
    ended_at: int | None = None
    events: list[StoredEvent] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    posted: dict[tuple[str, str], tuple[Input, bytes]] = field(default_factory=dict)
    unread: dict[str, Input] = field(default_factory=dict)
    size: int = 0

    def write(self, events: Iterable[NewEvent], now: int) -> list[StoredEvent]:
        """Put events behind the head, as one batch."""
        generation, seq = self.generation, self.head_seq
        written: list[StoredEvent] = []
        for kind, data, private in events:
            seq += 1
            written.append(StoredEvent(seq, now, None, generation, type=kind, data=data, private=private))
        if written:
            self.batch_seq = written[0].seq
            self.head_seq = written[-1].seq
            self.events += written
            self.updated_at = now
        return written

    def decide(self, lease: Lease, batch: int) -> Decision:
        """Decide about a batch of so many events whose sender wants to remain the holder."""
        return decide_append(
            stored_generation=self.generation,
            stored_head=self.head_seq,
            stored_held=self.owner is not None,
            lease_generation=lease.generation,
            lease_head=lease.head_seq,
            batch=batch,
            keeps=True,
        )

    def judge(self, lease: Lease, events: Sequence[NewEvent], *, keeps: bool) -> Decision:
        """Decide about a batch, and compare it where it may have been written before."""
        return judge_append(
            stored_generation=self.generation,
            stored_head=self.head_seq,
            stored_held=self.owner is not None,
            lease_generation=lease.generation,
            lease_head=lease.head_seq,
            events=events,
            keeps=keeps,
            written=lambda: self.slice(lease.head_seq, self.head_seq),
        )

    def slice(self, after: int, until: int) -> list[StoredEvent]:
        """Return what is stored with after < seq <= until."""
        return self.events[max(after + 1 - self.first_seq, 0) : max(until + 1 - self.first_seq, 0)]

    def trim(self) -> int:
        """Drop all but the last batch; return how many bytes went."""
        gone = self.events[: self.batch_seq - self.first_seq]
        self.first_seq = self.batch_seq
        del self.events[: len(gone)]
        size = sum(len(event.data) + len(event.private or b"") for event in gone)
        self.size -= size
        return size

    def lease(self) -> Lease:
        """Return the lease of whoever holds the run now."""
        return Lease(
            run_id=self.new.run_id,
            worker=self.owner or "",
            generation=self.generation,
            fence=self.fence,
            head_seq=self.head_seq,
            expires_at=self.lease_until or 0,
            inputs=bool(self.unread),
        )

    def record(self) -> RunRecord:
        """Return the run as it is told to others."""
        new = self.new
        return RunRecord(
            run_id=new.run_id,
            conversation_id=new.conversation_id,
            message_id=new.message_id,
            status=self.status,
            head_seq=self.head_seq,
            generation=self.generation,
            fence=self.fence,
            request=new.request,
            principal=new.principal,
            parent_run_id=new.parent_run_id,
            owner=self.owner,
            lease_until=self.lease_until,
            wake_at=self.wake_at,
            log_version=new.log_version,
            created_at=self.created_at,
            updated_at=self.updated_at,
            enqueued=self.enqueued,
        )

    @property
    def enqueued(self) -> bool:
        """Whether it stands behind others of its conversation."""
        return is_enqueued(self.status, queued_at=self.queued_at)


@dataclass(slots=True, eq=False)
class Conversation:
    """One conversation: its record, its messages in the order they were written, its runs by number."""

    record: ConversationRecord
    messages: dict[str, MessageRecord] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)
    line: list[Run] = field(default_factory=list)
    """Those that were enqueued, the oldest first, and perhaps no longer are."""

    def enter(self, run: Run, now: int) -> None:
        """Give ``run`` the slot if that is free; else it is enqueued."""
        active = self.record.active_run_id or run.new.run_id
        if active != run.new.run_id:
            run.queued_at = None
            self.line.append(run)
        leaf_id = run.new.message_id
        self.record = replace(self.record, active_run_id=active, leaf_id=leaf_id, updated_at=now)

    def touch(self, now: int, *, free: str | None = None, take: str | None = None) -> None:
        """Note a change, and take the slot from the run ``free`` if that one has it: the next run gets it.
        The run ``take`` gets it if nobody has it."""
        active = self.record.active_run_id or take
        if free is not None and active == free:
            active = None
            if following := self.enqueued():
                active, following[0].queued_at = following[0].new.run_id, now
        self.record = replace(self.record, active_run_id=active, updated_at=now)

    def enqueued(self) -> list[Run]:
        """Return the runs that wait for the slot, the next one first."""
        self.line = [run for run in self.line if run.enqueued and run.number in self.runs]
        return self.line

    def newest(self) -> Run | None:
        """Return the newest run that is neither over nor enqueued."""
        runs = reversed(self.runs.values())
        return next((run for run in runs if run.ended_at is None and not run.enqueued), None)


def behind(after: str | None, names: Sequence[str]) -> int:
    """Return where a page behind the one named ``after`` begins; raise where that is not on the list."""
    if after is None:
        return 0
    if after not in names:
        raise refusals.name_unknown(after)
    return names.index(after) + 1


def _slot(run: NewRun) -> str | None:
    if run.idempotency_key is None:
        return None
    return idempotency_slot(*owner_and_tenant(run.principal), run.idempotency_key)


def _message_size(message: MessageRecord) -> int:
    return len(message.content) + len(message.private or b"")


@dataclass(slots=True, eq=False)
class MemoryState:
    """All runs and conversations; ``size`` is the bytes of payload in them."""

    runs: dict[str, Run] = field(default_factory=dict)
    conversations: dict[str, Conversation] = field(default_factory=dict)
    message_homes: dict[str, str] = field(default_factory=dict)
    by_slot: dict[str, str] = field(default_factory=dict)
    """Run ids by `idempotency_slot`."""
    active: dict[str, Run] = field(default_factory=dict)
    """Runs that are not over."""
    ended: dict[str, Run] = field(default_factory=dict)
    """Runs that are over, those that ended first in front."""
    tombstones: set[tuple[str, str]] = field(default_factory=set)
    size: int = 0
    numbers: int = 0

    def put_messages(self, messages: Iterable[MessageRecord], now: int) -> None:
        """Insert messages, or replace them where they stand."""
        for message in messages:
            conversation = self.conversations[message.conversation_id]
            before = conversation.messages.get(message.message_id)
            if before is not None:
                self.size -= _message_size(before)
            if before is None:
                made = replace(message, created_at=now)
            else:
                made = replace(message, created_at=before.created_at, parent_id=before.parent_id)
            conversation.messages[message.message_id] = made
            self.message_homes[message.message_id] = message.conversation_id
            self.size += _message_size(message)

    def known_by_key(self, principal: Principal | None, key: str | None, digest: str | None) -> Run | None:
        """Return the run that was made under an idempotency key; raise where its body was another."""
        if key is None:
            return None
        run_id = self.by_slot.get(idempotency_slot(*owner_and_tenant(principal), key))
        if run_id is None:
            return None
        run = self.runs[run_id]
        if run.new.digest != digest:
            raise refusals.key_used(key, run_id)
        return run

    def known(self, run: NewRun) -> Run | None:
        """Return the run that this `create` made before, if it did; raise where it clashes with another."""
        slot = _slot(run)
        known = self.known_by_key(run.principal, run.idempotency_key, run.digest)
        if known is not None:
            return known
        same = self.runs.get(run.run_id)
        if same is not None and same.slot == slot and same_run(same.record(), run):
            return same
        if same is not None or ("run", run.run_id) in self.tombstones:
            raise refusals.run_id_taken(run.run_id)
        return None

    def check_conversation(self, run: NewRun) -> None:
        """Raise where ``run`` may not join its conversation."""
        conversation = self.conversations.get(run.conversation_id)
        if conversation is None:
            if ("conversation", run.conversation_id) in self.tombstones:
                raise refusals.conversation_deleted(run.conversation_id)
            if run.follows:
                raise refusals.conversation_moved(run.conversation_id, run.follows)
            return
        record = conversation.record
        if (record.owner, record.tenant) != owner_and_tenant(run.principal):
            raise refusals.conversation_foreign(run.conversation_id)
        active = record.active_run_id
        entrance = decide_entrance(
            active_run_id=active, enqueue=run.enqueue, leaf_id=record.leaf_id, follows=run.follows
        )
        if entrance == "busy":
            raise refusals.conversation_busy(run.conversation_id, active or "")
        if entrance == "moved":
            raise refusals.conversation_moved(run.conversation_id, run.follows)

    def placed(self, run: NewRun, messages: Sequence[MessageRecord]) -> Sequence[MessageRecord]:
        """Return a new run's messages as they are to be put; raise where what it retries was deleted."""
        parent = self.runs.get(run.parent_run_id or "")
        if parent is None:
            if ("run", run.parent_run_id) in self.tombstones:
                raise refusals.run_unknown(run.parent_run_id or "")
            return messages
        conversation = self.conversations.get(run.conversation_id)
        answer = conversation.messages.get(parent.new.message_id) if conversation is not None else None
        return messages if answer is None else beside(run, messages, answer.parent_id)

    def check_homes(self, conversation_id: str, messages: Iterable[MessageRecord]) -> None:
        """Raise where a message would take the place of another conversation's."""
        for message in messages:
            if self.message_homes.get(message.message_id, conversation_id) != conversation_id:
                raise refusals.message_id_taken(message.message_id)

    def add(self, new: NewRun, generation: str, now: int) -> Run:
        """Take in a new run without events, and its conversation if that is new; see `check_conversation`."""
        self.numbers += 1
        run = Run(
            new, self.numbers, generation, created_at=now, updated_at=now, queued_at=now, slot=_slot(new)
        )
        run.segments.append(Segment(generation, 1))
        self.runs[new.run_id] = self.active[new.run_id] = run
        if run.slot is not None:
            self.by_slot[run.slot] = new.run_id
        if new.conversation_id not in self.conversations:
            owner, tenant = owner_and_tenant(new.principal)
            self.conversations[new.conversation_id] = Conversation(
                ConversationRecord(new.conversation_id, owner, tenant, new.title, None, None, now, now)
            )
        conversation = self.conversations[new.conversation_id]
        conversation.runs[run.number] = run
        conversation.enter(run, now)
        return run

    def newest(self, conversation_id: str) -> Run | None:
        """Return a conversation's newest run that is neither over nor enqueued."""
        conversation = self.conversations.get(conversation_id)
        return None if conversation is None else conversation.newest()

    def enqueued(self, conversation_id: str) -> list[Run]:
        """Return a conversation's enqueued runs, the next one first."""
        conversation = self.conversations.get(conversation_id)
        return [] if conversation is None else conversation.enqueued()

    def end(self, run: Run, now: int) -> None:
        """Count a run among those that are over."""
        run.ended_at = now
        del self.active[run.new.run_id]
        self.ended[run.new.run_id] = run

    def grow(self, run: Run, events: Iterable[NewEvent], extra: int = 0) -> None:
        """Count payload that was added to a run."""
        size = event_bytes(events) + extra
        run.size += size
        self.size += size

    def claimable(self, now: int, run_id: str | None, log_versions: Iterable[int]) -> Run | None:
        """Return the named run if it is there to be taken, or the one that has waited longest."""
        best: tuple[int, int] | None = None
        found: Run | None = None
        for run in self._candidates(run_id):
            if run.new.log_version not in log_versions:
                continue
            since = claimable_since(
                run.status, queued_at=run.queued_at, lease_until=run.lease_until, wake_at=run.wake_at, now=now
            )
            if since is not None and (best is None or (since, run.number) < best):
                best, found = (since, run.number), run
        return found

    def _candidates(self, run_id: str | None) -> Iterator[Run]:
        if run_id is None:
            yield from self.active.values()
        elif run_id in self.runs:
            yield self.runs[run_id]

    def drop(self, run: Run, *, with_conversation: bool = True) -> None:
        """Forget a run, its key, and its conversation if that has no other run."""
        del self.runs[run.new.run_id]
        self.active.pop(run.new.run_id, None)
        self.ended.pop(run.new.run_id, None)
        self.size -= run.size
        if run.slot is not None:
            del self.by_slot[run.slot]
        conversation = self.conversations[run.new.conversation_id]
        del conversation.runs[run.number]
        if with_conversation and not conversation.runs:
            self.drop_conversation(conversation)

    def set_title(self, conversation_id: str, title: str | None) -> bool:
        """Give a conversation another title, if it is there."""
        conversation = self.conversations.get(conversation_id)
        if conversation is None:
            return False
        conversation.record = replace(conversation.record, title=title)
        return True

    def drop_conversation(self, conversation: Conversation) -> None:
        """Forget a conversation that has no runs, and its messages."""
        del self.conversations[conversation.record.conversation_id]
        self.drop_messages(conversation, list(conversation.messages.values()))

    def drop_messages(self, conversation: Conversation, messages: Sequence[MessageRecord]) -> None:
        """Forget some of a conversation's messages; what followed them follows what they followed."""
        ancestors = kept_ancestors({message.message_id: message.parent_id for message in messages})
        for name, message in conversation.messages.items():
            if message.parent_id in ancestors:
                moved = replace(message, parent_id=ancestors[message.parent_id])
                conversation.messages[name] = moved
        for message in messages:
            del conversation.messages[message.message_id]
            del self.message_homes[message.message_id]
            self.size -= _message_size(message)
