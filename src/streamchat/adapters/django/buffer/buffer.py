"""`DjangoEventBuffer`, over a thread that writes, some that read, and a look at others' news."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Self, TypeVar, cast

from streamchat.adapters.django import conf
from streamchat.adapters.django.buffer import bodies
from streamchat.adapters.django.buffer.hot import DjangoHotPath
from streamchat.adapters.django.buffer.reading import read_page
from streamchat.adapters.django.buffer.store import DjangoStore
from streamchat.adapters.django.buffer.tx import Tx
from streamchat.buffers.base import Follower, Page
from streamchat.buffers.codec import Codec, Payloads
from streamchat.buffers.following import Followers
from streamchat.buffers.shared import Clock, Token, check_page, check_run_id, check_threads, random_token
from streamchat.buffers.transactional.front import JobBuffer
from streamchat.buffers.transactional.jobs import Job
from streamchat.buffers.transactional.looking import Looker
from streamchat.buffers.transactional.readers import Readers
from streamchat.buffers.transactional.writer import Writer
from streamchat.errors import BufferUnavailable

__all__ = ["DjangoEventBuffer"]

R = TypeVar("R")


class DjangoEventBuffer(JobBuffer[Tx]):
    """An `EventBuffer` in the project's own database: SQLite, PostgreSQL, MariaDB or MySQL.

    ``using`` names the database among ``DATABASES`` (default: ``STREAMCHAT["DATABASE"]``, else
    ``"default"``). ``codec`` compresses or encrypts payload; ``older_codecs`` read what was written with
    former keys. ``readers`` is the number of reading threads; ``busy_seconds`` for how long to try while
    others hold what is needed. ``clock`` and ``token`` are for tests: a server's own clock counts.

    A process has ``1 + readers`` connections for it, from `open` to `close`, on threads of its own: no view's
    transaction, and no ``ATOMIC_REQUESTS``, holds it up or takes it back, and no view waits for it. Two
    processes learn of each other's news within 0.2 s. What was acknowledged survives the process being
    killed. Over a power loss, SQLite in WAL mode may lose batches of deltas since the last barrier; elsewhere
    the database's own settings decide. Needs asyncio.
    """

    def __init__(
        self,
        using: str | None = None,
        *,
        codec: Codec | None = None,
        older_codecs: Iterable[Codec] = (),
        readers: int = 2,
        busy_seconds: float = 10.0,
        clock: Clock | None = None,
        token: Token = random_token,
    ) -> None:
        """Raises `InvalidInput` for options that cannot be meant, ``ImproperlyConfigured`` for a setting."""
        check_threads(readers, busy_seconds)
        super().__init__(bodies, Payloads(codec, older_codecs))
        self.using = conf.database() if using is None else conf.alias("using", using)
        self.payloads = self._payloads
        self._store = DjangoStore(
            self.using, self._payloads, clock=clock, token=token, busy_seconds=busy_seconds
        )
        self._reading_threads = readers
        self._followers = Followers()
        self._opening = asyncio.Lock()
        self._writer: Writer[Tx] | None = None
        self._readers: Readers[Tx] | None = None
        self._looker: Looker | None = None

    async def open(self) -> Self:
        """Start the threads, connect, and check that the tables are there; idempotent.

        Raises `BufferUnavailable` where the database cannot be worked with, with what to do.
        """
        async with self._opening:
            if self._writer is None:
                writer = Writer(self._store, "streamchat-django-writer", self._followers.notify)
                await writer.start()
                readers = Readers(self._store, self._reading_threads, "streamchat-django-reader")
                readers.start()
                self._looker = Looker(
                    self._heads, self._followers, self._store.where, "streamchat-django-looker"
                )
                self._writer, self._readers = writer, readers
        return self

    async def close(self) -> None:
        """Finish what is waiting, end all threads and connections; idempotent. A cancellation waits for
        that."""
        self._followers.close()
        writer, self._writer = self._writer, None
        looker, self._looker = self._looker, None
        readers, self._readers = self._readers, None
        try:
            if looker is not None:
                await looker.stop()
        finally:
            try:
                if writer is not None:
                    await writer.stop()
            finally:
                if readers is not None:
                    await readers.stop()

    async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        """Return a page of the log; see `EventBuffer.read`. One of large events may be shorter than
        ``limit``."""
        check_page(after, limit)
        check_run_id(run_id)
        return await self._read(lambda tx: read_page(tx, run_id, after, limit))

    async def follow(self, run_id: str) -> Follower:
        """Watch a run for appends and posts, by this process (at once) and by others (within 0.2 s)."""
        follower = self._followers.follow(run_id)
        if self._looker is not None:
            self._looker.ensure()
        return follower

    def _write(self, job: Job[Tx, R]) -> Coroutine[Any, Any, R]:
        if self._writer is None:
            raise BufferUnavailable("the buffer is not open: await its open() first")
        return self._writer.do(job)

    async def _read(self, body: Callable[[Tx], R]) -> R:
        if self._readers is None:
            raise BufferUnavailable("the buffer is not open: await its open() first")
        return await self._readers.read(body)

    async def _heads(self, run_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        return await self._read(lambda tx: cast(DjangoHotPath, tx.hot).positions(run_ids))
