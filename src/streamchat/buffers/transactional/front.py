"""`JobBuffer`: the methods of `EventBuffer` as jobs over the bodies of transactions that a store brings."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Generic, Protocol, TypeVar

from streamchat.buffers import refusals
from streamchat.buffers.base import (
    LOG_VERSION,
    Appended,
    Claim,
    ConversationRecord,
    Created,
    Input,
    Lease,
    MessageRecord,
    NewEvent,
    NewRun,
    Posted,
    RunRecord,
    Then,
)
from streamchat.buffers.codec import Payloads
from streamchat.buffers.notes import NewNote, Note
from streamchat.buffers.shared import check_conversation_id, check_create, check_page, check_run_id
from streamchat.buffers.transactional.appending import AppendJob
from streamchat.buffers.transactional.jobs import Job
from streamchat.core.ids import is_storable
from streamchat.principal import Principal

__all__ = ["Bodies", "JobBuffer"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")


class Bodies(Protocol[T_contra]):
    """What each method of a buffer does inside of a transaction; a module of functions will do."""

    def create(
        self, tx: T_contra, run: NewRun, messages: Sequence[MessageRecord], kept: Sequence[NewEvent], /
    ) -> Created:
        """See `EventBuffer.create`."""
        ...

    def created(
        self, tx: T_contra, principal: Principal | None, key: str, digest: str, /
    ) -> RunRecord | None:
        """See `EventBuffer.created`."""
        ...

    def claim(
        self, tx: T_contra, worker: str, ttl: float, run_id: str | None, log_versions: Collection[int], /
    ) -> Claim | None:
        """See `EventBuffer.claim`."""
        ...

    def renew(self, tx: T_contra, lease: Lease, ttl: float, /) -> Lease:
        """See `EventBuffer.renew`."""
        ...

    def post(self, tx: T_contra, run_id: str, posted: Input, /) -> Posted:
        """See `EventBuffer.post`."""
        ...

    def trim(self, tx: T_contra, older_than: int, limit: int, /) -> int:
        """See `EventBuffer.trim`."""
        ...

    def delete_run(self, tx: T_contra, run_id: str, /) -> list[str]:
        """Delete a run and its messages; return its id, or nothing where it is unknown."""
        ...

    def delete_conversation(self, tx: T_contra, conversation_id: str, /) -> list[str]:
        """Delete a conversation with all that is in it; return its runs' ids."""
        ...

    def delete_owner(self, tx: T_contra, owner: str, tenant: str | None, /) -> list[str]:
        """Delete all that belongs to a principal; return its runs' ids."""
        ...

    def read_run(self, tx: T_contra, run_id: str, /) -> RunRecord:
        """See `EventBuffer.get`."""
        ...

    def list_inputs(self, tx: T_contra, run_id: str, /) -> list[Input]:
        """See `EventBuffer.inputs`."""
        ...

    def find_active(self, tx: T_contra, conversation_id: str, /) -> RunRecord | None:
        """See `EventBuffer.find`."""
        ...

    def list_enqueued(self, tx: T_contra, conversation_id: str, /) -> list[RunRecord]:
        """See `EventBuffer.enqueued`."""
        ...

    def read_conversation(self, tx: T_contra, conversation_id: str, /) -> ConversationRecord:
        """See `EventBuffer.conversation`."""
        ...

    def list_conversations(
        self, tx: T_contra, owner: str | None, tenant: str | None, after: str | None, limit: int, /
    ) -> list[ConversationRecord]:
        """See `EventBuffer.conversations`."""
        ...

    def list_messages(
        self, tx: T_contra, conversation_id: str, after: str | None, limit: int, /
    ) -> list[MessageRecord]:
        """See `EventBuffer.messages`."""
        ...

    def set_title(self, tx: T_contra, conversation_id: str, title: str | None, /) -> bool:
        """See `TitleStore.set_title`."""
        ...

    def write_notes(self, tx: T_contra, notes: Sequence[NewNote], /) -> None:
        """See `NoteStore.write_notes`."""
        ...

    def list_notes(self, tx: T_contra, run_id: str, /) -> list[Note]:
        """See `NoteStore.notes`."""
        ...

    def due_notes(self, tx: T_contra, limit: int, /) -> list[Note]:
        """See `NoteStore.due_notes`."""
        ...

    def drop_notes(self, tx: T_contra, notes: Sequence[Note], /) -> int:
        """See `NoteStore.drop_notes`."""
        ...


class JobBuffer(abc.ABC, Generic[T]):
    """All of `EventBuffer` but opening, closing, following and `read`, over transactions ``T``."""

    def __init__(self, bodies: Bodies[T], payloads: Payloads) -> None:
        self._bodies = bodies
        self._payloads = payloads

    @abc.abstractmethod
    def _write(self, job: Job[T, R]) -> Coroutine[Any, Any, R]:
        """Have a job done; tell followers of its news. Raises `BufferUnavailable` where nothing is open."""

    @abc.abstractmethod
    def _read(self, body: Callable[[T], R]) -> Coroutine[Any, Any, R]:
        """Run ``body`` in a transaction that sees one moment."""

    # ----------------------------------------------------------------------------------------------- writing

    async def create(
        self, run: NewRun, messages: Sequence[MessageRecord] = (), kept: Sequence[NewEvent] = ()
    ) -> Created:
        """Write a run; see `EventBuffer.create`. A run id that was used for another run is `InvalidInput`."""
        check_create(run, messages, kept)
        size = len(run.request) + sum(len(message.content) for message in messages)
        job = Job[T, Created](
            run.run_id,
            lambda tx: self._bodies.create(tx, run, messages, kept),
            size=size,
            durable=True,
            news=True,
        )
        return await self._write(job)

    async def claim(
        self,
        worker: str,
        ttl: float,
        run_id: str | None = None,
        *,
        log_versions: Collection[int] = (LOG_VERSION,),
    ) -> Claim | None:
        """Take a run that nobody holds; see `EventBuffer.claim`. Cancelled, a run that was taken is given
        back."""
        if not _storable(run_id):
            return None
        job = Job[T, Claim | None](
            run_id or "",
            lambda tx: self._bodies.claim(tx, worker, ttl, run_id, log_versions),
            durable=True,
            undo=self._give_back,
        )
        return await self._write(job)

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
        job = self._append_job(
            lease,
            events,
            messages=messages,
            consumed=consumed,
            then=then,
            wake_at=wake_at,
            keep_slot=keep_slot,
        )
        return await self._write(job)

    async def renew(self, lease: Lease, ttl: float) -> Lease:
        """Hold on for ``ttl`` seconds from now; see `EventBuffer.renew`."""
        return await self._write(Job[T, Lease](lease.run_id, lambda tx: self._bodies.renew(tx, lease, ttl)))

    async def post(self, run_id: str, posted: Input) -> Posted:
        """Leave an input for the run's holder; see `EventBuffer.post`."""
        check_run_id(run_id)
        return await self._write(
            Job[T, Posted](run_id, lambda tx: self._bodies.post(tx, run_id, posted), durable=True, news=True)
        )

    async def trim(self, older_than: int, limit: int = 1000) -> int:
        """Drop old events of finished runs; see `EventBuffer.trim`."""
        check_page(0, limit)
        return await self._write(Job[T, int]("", lambda tx: self._bodies.trim(tx, older_than, limit)))

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
        if not _storable(run_id, conversation_id, owner, tenant):
            return 0

        def body(tx: T) -> list[str]:
            if run_id is not None:
                return self._bodies.delete_run(tx, run_id)
            if conversation_id is not None:
                return self._bodies.delete_conversation(tx, conversation_id)
            assert owner is not None
            return self._bodies.delete_owner(tx, owner, tenant)

        job = Job[T, list[str]]("", body, durable=True, news=lambda gone: gone)
        gone = await self._write(job)
        return len(gone)

    # ----------------------------------------------------------------------------------------------- reading

    async def created(
        self, principal: Principal | None, idempotency_key: str, digest: str
    ) -> RunRecord | None:
        """Return the run that was made under this key; see `EventBuffer.created`."""
        return await self._read(lambda tx: self._bodies.created(tx, principal, idempotency_key, digest))

    async def inputs(self, run_id: str) -> list[Input]:
        """Return the inputs that were not consumed yet, oldest first."""
        check_run_id(run_id)
        return await self._read(lambda tx: self._bodies.list_inputs(tx, run_id))

    async def get(self, run_id: str) -> RunRecord:
        """Return the run's record."""
        check_run_id(run_id)
        return await self._read(lambda tx: self._bodies.read_run(tx, run_id))

    async def find(self, conversation_id: str) -> RunRecord | None:
        """Return the conversation's newest run that is neither over nor enqueued, or None."""
        if not is_storable(conversation_id):
            return None
        return await self._read(lambda tx: self._bodies.find_active(tx, conversation_id))

    async def enqueued(self, conversation_id: str) -> list[RunRecord]:
        """Return the conversation's enqueued runs, the next one first."""
        if not is_storable(conversation_id):
            return []
        return await self._read(lambda tx: self._bodies.list_enqueued(tx, conversation_id))

    async def conversation(self, conversation_id: str) -> ConversationRecord:
        """Return a conversation."""
        check_conversation_id(conversation_id)
        return await self._read(lambda tx: self._bodies.read_conversation(tx, conversation_id))

    async def conversations(
        self, owner: str | None, tenant: str | None = None, *, after: str | None = None, limit: int = 50
    ) -> list[ConversationRecord]:
        """Return a principal's conversations, most recently changed first."""
        check_page(0, limit)
        if not _storable(owner, tenant, after):
            if after is not None:
                raise refusals.name_unknown(after)
            return []
        return await self._read(lambda tx: self._bodies.list_conversations(tx, owner, tenant, after, limit))

    async def messages(
        self, conversation_id: str, *, after: str | None = None, limit: int = 1000
    ) -> list[MessageRecord]:
        """Return a conversation's messages in the order they were written."""
        check_page(0, limit)
        check_conversation_id(conversation_id)
        if after is not None and not is_storable(after):
            await self.conversation(conversation_id)  # one that is unknown is told first
            raise refusals.name_unknown(after)
        return await self._read(lambda tx: self._bodies.list_messages(tx, conversation_id, after, limit))

    async def set_title(self, conversation_id: str, title: str | None) -> bool:
        """Give a conversation another title, or none; see `TitleStore.set_title`."""
        if not is_storable(conversation_id):
            return False
        return await self._write(
            Job[T, bool]("", lambda tx: self._bodies.set_title(tx, conversation_id, title))
        )

    # ------------------------------------------------------------------------------------------------- notes

    async def write_notes(self, notes: Sequence[NewNote]) -> None:
        """Write, replace or remove notes; see `NoteStore.write_notes`."""
        if notes:
            await self._write(Job[T, None]("", lambda tx: self._bodies.write_notes(tx, notes)))

    async def notes(self, run_id: str) -> list[Note]:
        """Return all notes of a run, by name."""
        if not is_storable(run_id):
            return []
        return await self._read(lambda tx: self._bodies.list_notes(tx, run_id))

    async def due_notes(self, limit: int = 100) -> list[Note]:
        """Return notes whose time is over; see `NoteStore.due_notes`."""
        check_page(0, limit)
        return await self._read(lambda tx: self._bodies.due_notes(tx, limit))

    async def drop_notes(self, notes: Sequence[Note]) -> int:
        """Remove notes that were not written anew; see `NoteStore.drop_notes`."""
        return await self._write(Job[T, int]("", lambda tx: self._bodies.drop_notes(tx, notes)))

    # --------------------------------------------------------------------------------------------- the parts

    def _append_job(self, lease: Lease, events: Sequence[NewEvent], **rest: Any) -> AppendJob:
        return AppendJob(lease, events, self._payloads.put_events(events), **rest)

    def _give_back(self, claim: Claim | None) -> Job[T, Any]:
        if claim is None:
            return Job[T, None]("", lambda tx: None)
        return self._append_job(
            claim.lease, (), messages=(), consumed=(), then="queue", wake_at=None, keep_slot=True
        )


def _storable(*names: str | None) -> bool:
    """Whether rows of these names could be there: a database is not asked for others."""
    return all(name is None or is_storable(name) for name in names)
