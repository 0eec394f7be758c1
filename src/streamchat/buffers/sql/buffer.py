"""`SQLEventBuffer`: runs in an SQL database, written through one group-commit writer per process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import Engine

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
    Then,
)
from streamchat.buffers.codec import Codec, Payloads
from streamchat.buffers.following import Followers
from streamchat.buffers.notes import NewNote, Note
from streamchat.buffers.shared import Clock, Token, check_create, check_page, random_token
from streamchat.buffers.sql import noting, queries, removing, running
from streamchat.buffers.sql.backend import Backend, Settings, backend_for
from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.sql.titling import set_title
from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.transactional.appending import AppendJob
from streamchat.buffers.transactional.jobs import Job
from streamchat.concurrency import on_asyncio
from streamchat.errors import BufferUnavailable, StreamChatError
from streamchat.principal import Principal

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SQLEventBuffer"]

R = TypeVar("R")


class SQLEventBuffer:
    """An `EventBuffer` in a database: SQLite, which several processes of one host may share, PostgreSQL,
    MariaDB or MySQL.

    ``url_or_engine`` is a database URL (``sqlite:///chat.db``, ``sqlite://`` for memory,
    ``postgresql://user:password@host/database``, ``mysql://…``) or a SQLAlchemy engine, which stays the
    caller's: a plain one for SQLite, an `AsyncEngine` with asyncpg or asyncmy for a server. ``prefix`` begins
    the tables' names.
    ``create_tables`` says whether `open` makes them where they are missing: by default it does on SQLite, and
    on a server asks for ``streamchat migrate``. ``codec`` compresses or encrypts payload; ``older_codecs``
    read what was written with former keys. ``readers`` is the number of reading threads (SQLite) or
    connections; ``busy_seconds`` for how long to try while others hold what is needed, and to wait for a
    server that is silent. ``clock`` and ``token`` are for tests: a server's own clock counts, never the
    worker's.

    What was acknowledged survives the process being killed. Over a power loss, SQLite may lose batches of
    deltas since the last barrier (readers then get a reset); all else stays. Needs asyncio. `open` warns
    (`SQLiteVersionWarning`) of SQLite versions with the WAL-reset bug.
    """

    def __init__(
        self,
        url_or_engine: str | Engine | AsyncEngine,
        *,
        prefix: str = "streamchat_",
        create_tables: bool | None = None,
        codec: Codec | None = None,
        older_codecs: Iterable[Codec] = (),
        readers: int = 2,
        busy_seconds: float = 10.0,
        clock: Clock | None = None,
        token: Token = random_token,
    ) -> None:
        self._given = url_or_engine
        self._payloads = Payloads(codec, older_codecs)
        self._followers = Followers()
        self._settings = Settings(
            schema=Schema(prefix),
            payloads=self._payloads,
            followers=self._followers,
            clock=clock,
            token=token,
            readers=readers,
            busy_seconds=busy_seconds,
            create_tables=create_tables,
        )
        self._opening = asyncio.Lock()
        self._backend: Backend | None = None

    # ----------------------------------------------------------------------------------- opening and closing

    async def open(self) -> Self:
        """Connect, and make or check the tables; idempotent.

        Raises `InvalidInput` for a URL that is none, `MissingDependency` without the driver,
        `BufferUnavailable` where the database cannot be worked with, with what to do.
        """
        if not on_asyncio():
            raise StreamChatError("SQLEventBuffer needs asyncio; on trio, MemoryEventBuffer works")
        async with self._opening:
            if self._backend is None:
                backend = backend_for(self._given, self._settings)
                await backend.open()
                self._backend = backend
        return self

    async def close(self) -> None:
        """Finish what is waiting, end all threads, tasks and connections; idempotent. A cancellation waits
        for that."""
        self._followers.close()
        backend, self._backend = self._backend, None
        if backend is not None:
            await backend.close()

    # ----------------------------------------------------------------------------------------------- writing

    async def create(
        self, run: NewRun, messages: Sequence[MessageRecord] = (), kept: Sequence[NewEvent] = ()
    ) -> Created:
        """Write a run; see `EventBuffer.create`. A run id that was used for another run is `InvalidInput`."""
        check_create(run, messages, kept)
        size = len(run.request) + sum(len(message.content) for message in messages)
        job = Job[Tx, Created](
            run.run_id, lambda tx: running.create(tx, run, messages, kept), size=size, durable=True, news=True
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
        job = Job[Tx, Claim | None](
            run_id or "",
            lambda tx: running.claim(tx, worker, ttl, run_id, log_versions),
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
        return await self._write(Job[Tx, Lease](lease.run_id, lambda tx: running.renew(tx, lease, ttl)))

    async def post(self, run_id: str, posted: Input) -> Posted:
        """Leave an input for the run's holder; see `EventBuffer.post`."""
        return await self._write(
            Job[Tx, Posted](run_id, lambda tx: running.post(tx, run_id, posted), durable=True, news=True)
        )

    async def trim(self, older_than: int, limit: int = 1000) -> int:
        """Drop old events of finished runs; see `EventBuffer.trim`."""
        check_page(0, limit)
        return await self._write(Job[Tx, int]("", lambda tx: removing.trim(tx, older_than, limit)))

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

        def body(tx: Tx) -> list[str]:
            if run_id is not None:
                return removing.delete_run(tx, run_id)
            if conversation_id is not None:
                return removing.delete_conversation(tx, conversation_id)
            assert owner is not None
            return removing.delete_owner(tx, owner, tenant)

        job = Job[Tx, list[str]]("", body, durable=True, news=lambda gone: gone)
        gone = await self._write(job)
        return len(gone)

    # ----------------------------------------------------------------------------------------------- reading

    async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        """Return a page of the log; see `EventBuffer.read`. One of large events may be shorter than
        ``limit``."""
        check_page(after, limit)
        return await self._open().read_page(run_id, after, limit)

    async def follow(self, run_id: str) -> Follower:
        """Watch a run for appends and posts, by this process (at once) and by others (SQLite: within 0.2 s; a
        server tells at once where it can)."""
        follower = self._followers.follow(run_id)
        if self._backend is not None:
            self._backend.watch()
        return follower

    async def created(
        self, principal: Principal | None, idempotency_key: str, digest: str
    ) -> RunRecord | None:
        """Return the run that was made under this key; see `EventBuffer.created`."""
        return await self._read(lambda tx: running.created(tx, principal, idempotency_key, digest))

    async def inputs(self, run_id: str) -> list[Input]:
        """Return the inputs that were not consumed yet, oldest first."""
        return await self._read(lambda tx: queries.list_inputs(tx, run_id))

    async def get(self, run_id: str) -> RunRecord:
        """Return the run's record."""
        return await self._read(lambda tx: queries.read_run(tx, run_id))

    async def find(self, conversation_id: str) -> RunRecord | None:
        """Return the conversation's newest run that is not over, or None."""
        return await self._read(lambda tx: queries.find_active(tx, conversation_id))

    async def conversation(self, conversation_id: str) -> ConversationRecord:
        """Return a conversation."""
        return await self._read(lambda tx: queries.read_conversation(tx, conversation_id))

    async def conversations(
        self, owner: str | None, tenant: str | None = None, *, after: str | None = None, limit: int = 50
    ) -> list[ConversationRecord]:
        """Return a principal's conversations, most recently changed first."""
        check_page(0, limit)
        return await self._read(lambda tx: queries.list_conversations(tx, owner, tenant, after, limit))

    async def messages(
        self, conversation_id: str, *, after: str | None = None, limit: int = 1000
    ) -> list[MessageRecord]:
        """Return a conversation's messages in the order they were written."""
        check_page(0, limit)
        return await self._read(lambda tx: queries.list_messages(tx, conversation_id, after, limit))

    async def set_title(self, conversation_id: str, title: str | None) -> bool:
        """Give a conversation another title, or none; see `TitleStore.set_title`."""
        return await self._write(Job[Tx, bool]("", lambda tx: set_title(tx, conversation_id, title)))

    # ------------------------------------------------------------------------------------------------- notes

    async def write_notes(self, notes: Sequence[NewNote]) -> None:
        """Write, replace or remove notes; see `NoteStore.write_notes`."""
        if notes:
            await self._write(Job[Tx, None]("", lambda tx: noting.write_notes(tx, notes)))

    async def notes(self, run_id: str) -> list[Note]:
        """Return all notes of a run, by name."""
        return await self._read(lambda tx: noting.list_notes(tx, run_id))

    async def due_notes(self, limit: int = 100) -> list[Note]:
        """Return notes whose time is over; see `NoteStore.due_notes`."""
        check_page(0, limit)
        return await self._read(lambda tx: noting.due_notes(tx, limit))

    async def drop_notes(self, notes: Sequence[Note]) -> int:
        """Remove notes that were not written anew; see `NoteStore.drop_notes`."""
        return await self._write(Job[Tx, int]("", lambda tx: noting.drop_notes(tx, notes)))

    # --------------------------------------------------------------------------------------------- the parts

    def _open(self) -> Backend:
        if self._backend is None:
            raise BufferUnavailable("the buffer is not open: await its open() first")
        return self._backend

    def _write(self, job: Job[Tx, R]) -> Coroutine[Any, Any, R]:
        return self._open().write(job)

    async def _read(self, body: Callable[[Tx], R]) -> R:
        return await self._open().read(body)

    def _append_job(self, lease: Lease, events: Sequence[NewEvent], **rest: Any) -> AppendJob:
        return AppendJob(lease, events, self._payloads.put_events(events), **rest)

    def _give_back(self, claim: Claim | None) -> Job[Tx, Any]:
        if claim is None:
            return Job[Tx, None]("", lambda tx: None)
        return self._append_job(
            claim.lease, (), messages=(), consumed=(), then="queue", wake_at=None, keep_slot=True
        )
