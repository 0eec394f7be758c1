"""`SQLEventBuffer`: runs in an SQL database, written through one group-commit writer per process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import Engine

from streamchat.buffers.base import Follower, Page
from streamchat.buffers.codec import Codec, Payloads
from streamchat.buffers.following import Followers
from streamchat.buffers.shared import Clock, Token, check_page, check_run_id, random_token
from streamchat.buffers.sql import bodies
from streamchat.buffers.sql.backend import Backend, backend_for, check_given
from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.sql.settings import Settings
from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.transactional.front import JobBuffer
from streamchat.buffers.transactional.jobs import Job
from streamchat.concurrency import on_asyncio
from streamchat.core.given import check_instance, check_number
from streamchat.errors import BufferUnavailable, StreamChatError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SQLEventBuffer"]

R = TypeVar("R")


class SQLEventBuffer(JobBuffer[Tx]):
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
        """Raises `InvalidInput` for what is neither a URL nor an engine, and for options that cannot be
        meant."""
        check_given(url_or_engine)
        check_number("readers", readers, least=1, whole=True)
        check_number("busy_seconds", busy_seconds, least=0, finite=True)
        check_instance("create_tables", create_tables, bool, "True, False or None", none=True)
        super().__init__(bodies, Payloads(codec, older_codecs))
        self._given = url_or_engine
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

    # ----------------------------------------------------------------------------------------------- reading

    async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        """Return a page of the log; see `EventBuffer.read`. One of large events may be shorter than
        ``limit``."""
        check_page(after, limit)
        check_run_id(run_id)
        return await self._open().read_page(run_id, after, limit)

    async def follow(self, run_id: str) -> Follower:
        """Watch a run for appends and posts, by this process (at once) and by others (SQLite: within 0.2 s; a
        server tells at once where it can)."""
        follower = self._followers.follow(run_id)
        if self._backend is not None:
            self._backend.watch()
        return follower

    # --------------------------------------------------------------------------------------------- the parts

    def _open(self) -> Backend:
        if self._backend is None:
            raise BufferUnavailable("the buffer is not open: await its open() first")
        return self._backend

    def _write(self, job: Job[Tx, R]) -> Coroutine[Any, Any, R]:
        return self._open().write(job)

    async def _read(self, body: Callable[[Tx], R]) -> R:
        return await self._open().read(body)
