"""SQLite behind `SQLEventBuffer`: a thread that writes, some that read, one that looks for others' news."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy import Engine

from streamchat.buffers.base import Page
from streamchat.buffers.shared import now_ms
from streamchat.buffers.sql import queries
from streamchat.buffers.sql.polling import Poller
from streamchat.buffers.sql.settings import Given, Settings
from streamchat.buffers.sql.sqlite import engine_for, file_of, in_memory, warn_of_version
from streamchat.buffers.sql.sqlite_store import SQLiteStore
from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.transactional.jobs import Job
from streamchat.buffers.transactional.readers import Readers
from streamchat.buffers.transactional.writer import Writer
from streamchat.errors import BufferUnavailable, InvalidInput

__all__ = ["SQLiteBackend"]

R = TypeVar("R")


class SQLiteBackend:
    """`Backend` over a file or memory."""

    def __init__(self, given: Given, settings: Settings) -> None:
        self._given = given
        self._settings = settings
        self._engine: Engine | None = None
        self._writer: Writer[Tx] | None = None
        self._readers: Readers[Tx] | None = None
        self._poller: Poller | None = None

    async def open(self) -> None:
        """Connect, and make the tables where they are missing."""
        warn_of_version(sqlite3.sqlite_version_info[:3])
        settings, given = self._settings, self._given
        engine = engine_for(given) if isinstance(given, str) else given
        if not isinstance(engine, Engine):
            raise InvalidInput(
                "an asynchronous engine for SQLite: give SQLEventBuffer the URL, or a plain create_engine(…)"
            )
        private = in_memory(engine)
        file = file_of(engine)
        if settings.create_tables is False and file is not None and not file.exists():
            # SQLite would make it, and what was meant lies elsewhere.
            raise BufferUnavailable(
                f"there is no SQLite database {str(file)!r}: check the path, or run `streamchat migrate` "
                f"first"
            )
        store = SQLiteStore(
            engine,
            settings.schema,
            settings.payloads,
            clock=settings.clock or now_ms,
            token=settings.token,
            busy_seconds=settings.busy_seconds,
            create_tables=settings.create_tables is not False,
        )
        writer = Writer(store, "streamchat-sql-writer", settings.followers.notify)
        try:
            await writer.start()
        except BaseException:
            if engine is not given:
                engine.dispose()
            raise
        self._engine, self._writer = engine, writer
        if not private:
            self._readers = Readers(store, settings.readers, "streamchat-sql-reader")
            self._readers.start()
            prefix = settings.schema.prefix
            self._poller = Poller(store, settings.followers, prefix, "streamchat-sql-poller")

    async def close(self) -> None:
        """Finish what is waiting, end all threads and connections. A cancellation waits for that."""
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

    def write(self, job: Job[Tx, R]) -> Coroutine[Any, Any, R]:
        """Have a job done by the writing thread."""
        if self._writer is None:
            raise BufferUnavailable("the buffer is closed: open() it first")
        return self._writer.do(job)

    async def read(self, body: Callable[[Tx], R]) -> R:
        """Run ``body`` on a reading thread."""
        if self._readers is not None:
            return await self._readers.read(body)
        # In memory there is one connection, and it is the writer's.
        return await self.write(Job[Tx, R]("", body))

    async def read_page(self, run_id: str, after: int, limit: int) -> Page:
        """Return a page of the log."""
        return await self.read(lambda tx: queries.read_page(tx, run_id, after, limit))

    def watch(self) -> None:
        """Start the polling thread."""
        if self._poller is not None:
            self._poller.ensure()
