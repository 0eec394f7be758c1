"""`SQLEventBuffer`: runs in an SQL database, written through one group-commit writer per process."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Self, TypeVar

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
from streamchat.buffers.shared import Clock, Token, check_create, check_page, now_ms, random_token
from streamchat.buffers.sql import noting, queries, removing, running
from streamchat.buffers.sql.appending import AppendJob
from streamchat.buffers.sql.polling import Poller
from streamchat.buffers.sql.readers import Readers
from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.sql.sqlite import engine_for, in_memory, warn_of_version
from streamchat.buffers.sql.sqlite_store import SQLiteStore
from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.sql.writer import Job, Writer
from streamchat.concurrency import on_asyncio
from streamchat.errors import BufferUnavailable, StreamChatError

__all__ = ["SQLEventBuffer"]

R = TypeVar("R")


class SQLEventBuffer:
    """An `EventBuffer` in a database: a file that several processes of one host may share, or ``sqlite://``
    (memory).

    ``url_or_engine`` is a database URL (``sqlite:///chat.db``) or a SQLAlchemy `Engine`, which stays the
    caller's. ``prefix`` begins the tables' names. ``codec`` compresses or encrypts payload; ``older_codecs``
    read what was written with former keys. ``readers`` is the number of reading threads, ``busy_seconds`` for
    how long to try while another process writes. ``clock`` and ``token`` are for tests. The tables are made
    when they are missing.

    What was acknowledged survives the process being killed. Over a power loss, batches of deltas since the
    last barrier may go (readers then get a reset); all else stays. Needs asyncio. `open` warns
    (`SQLiteVersionWarning`) of SQLite versions with the WAL-reset bug.
    """

    def __init__(
        self,
        url_or_engine: str | Engine,
        *,
        prefix: str = "streamchat_",
        codec: Codec | None = None,
        older_codecs: Iterable[Codec] = (),
        readers: int = 2,
        busy_seconds: float = 10.0,
        clock: Clock = now_ms,
        token: Token = random_token,
    ) -> None:
        self._given = url_or_engine
        self._schema = Schema(prefix)
        self._payloads = Payloads(codec, older_codecs)
        self._reader_count = readers
        self._make_store = functools.partial(
            SQLiteStore,
            schema=self._schema,
            payloads=self._payloads,
            clock=clock,
            token=token,
            busy_seconds=busy_seconds,
        )
        self._followers = Followers()
        self._opening = asyncio.Lock()
        self._engine: Engine | None = None
        self._writer: Writer[Tx] | None = None
        self._readers: Readers | None = None
        self._poller: Poller | None = None

    # ----------------------------------------------------------------------------------- opening and closing

    async def open(self) -> Self:
        """Connect, and make the tables where they are missing; idempotent.

        Raises `InvalidInput` for a URL that is none, `BufferUnavailable` where the database cannot be worked
        with.
        """
        if not on_asyncio():
            raise StreamChatError("SQLEventBuffer needs asyncio; on trio, MemoryEventBuffer works")
        async with self._opening:
            if self._writer is not None:
                return self
            warn_of_version(sqlite3.sqlite_version_info[:3])
            given = self._given
            engine = engine_for(given) if isinstance(given, str) else given
            private = in_memory(engine)
            store = self._make_store(engine)
            writer = Writer(store, "streamchat-sql-writer", self._followers.notify)
            try:
                await writer.start()
            except BaseException:
                if engine is not given:
                    engine.dispose()
                raise
            self._engine, self._writer = engine, writer
            if not private:
                self._readers = Readers(store, self._reader_count, "streamchat-sql-reader")
                self._readers.start()
                self._poller = Poller(store, self._followers, self._schema.prefix, "streamchat-sql-poller")
        return self

    async def close(self) -> None:
        """Finish what is waiting, end all threads and connections; idempotent. A cancellation waits for
        that."""
        self._followers.close()
        writer, self._writer = self._writer, None
        readers, self._readers = self._readers, None
        poller, self._poller = self._poller, None
        engine, self._engine = self._engine, None
        try:
            if writer is not None:
                await writer.stop()
        finally:
            try:
                if readers is not None:
                    await readers.stop()
            finally:
                if poller is not None:
                    poller.stop()
                if engine is not None and engine is not self._given:
                    engine.dispose()

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

        gone = await self._write(Job[Tx, list[str]]("", body, durable=True))
        self._followers.notify(gone)
        return len(gone)

    # ----------------------------------------------------------------------------------------------- reading

    async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        """Return a page of the log; see `EventBuffer.read`. One of large events may be shorter than
        ``limit``."""
        check_page(after, limit)
        return await self._read(lambda tx: queries.read_page(tx, run_id, after, limit))

    async def follow(self, run_id: str) -> Follower:
        """Watch a run for appends and posts, by this process (at once) and by others (within 0.2 s)."""
        follower = self._followers.follow(run_id)
        if self._poller is not None:
            self._poller.ensure()
        return follower

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

    async def _write(self, job: Job[Tx, R]) -> R:
        if self._writer is None:
            raise BufferUnavailable("the buffer is not open: await its open() first")
        return await self._writer.do(job)

    async def _read(self, body: Callable[[Tx], R]) -> R:
        if self._readers is not None:
            return await self._readers.read(body)
        # In memory there is one connection, and it is the writer's.
        return await self._write(Job[Tx, R]("", body))

    def _append_job(self, lease: Lease, events: Sequence[NewEvent], **rest: Any) -> AppendJob:
        put, put_optional = self._payloads.put, self._payloads.put_optional
        coded = [(event.type, put(event.data), put_optional(event.private)) for event in events]
        return AppendJob(lease, events, coded, **rest)

    def _give_back(self, claim: Claim | None) -> Job[Tx, Any]:
        if claim is None:
            return Job[Tx, None]("", lambda tx: None)
        return self._append_job(
            claim.lease, (), messages=(), consumed=(), then="queue", wake_at=None, keep_slot=True
        )
