"""The threads that read: each has a connection of its own, and none waits for the writer."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

from streamchat.buffers.sql.jobs import hold_back_cancellation, settle
from streamchat.buffers.sql.sqlite_store import SQLiteStore
from streamchat.buffers.sql.transaction import Tx
from streamchat.errors import BufferUnavailable, StreamChatError

__all__ = ["Readers"]

R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Read:
    body: Callable[[Tx], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class Readers:
    """``count`` threads that take what is to be read from one queue; a thread connects when it is first
    needed."""

    def __init__(self, store: SQLiteStore, count: int, name: str) -> None:
        self._store = store
        self._count = count
        self._name = name
        self._queue: SimpleQueue[_Read | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._ended: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._lock = Lock()
        self._open = False

    def start(self) -> None:
        """Start the threads."""
        self._open = True
        for number in range(self._count):
            thread = Thread(target=self._live, name=f"{self._name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    async def stop(self) -> None:
        """Do what is waiting, then end the threads; idempotent."""
        threads, self._threads = self._threads, []
        loop = asyncio.get_running_loop()
        with self._lock:
            self._open = False
            ended = [loop.create_future() for _ in threads]
            self._ended = [(loop, future) for future in ended]
            for _ in threads:
                self._queue.put(None)
        for future in ended:
            await hold_back_cancellation(future)
        for thread in threads:
            thread.join()

    async def read(self, body: Callable[[Tx], R]) -> R:
        """Run ``body`` in a transaction that sees one moment; cancelled, its result is thrown away."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        with self._lock:
            if not self._open:
                raise BufferUnavailable("the buffer is closed: open() it first")
            self._queue.put(_Read(body, loop, future))
        return await future

    def _live(self) -> None:
        session: tuple[Tx, sqlite3.Connection] | None = None
        while True:
            read = self._queue.get()
            if read is None:
                break
            if read.future.cancelled():
                continue
            result: Any = None
            error: Exception | None = None
            try:
                session = session or self._store.session(writes=False)
                result = _within(*session, read.body)
            except StreamChatError as refused:
                error = refused
            except Exception as failed:
                error = self._store.translate(failed)
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits
                read.loop.call_soon_threadsafe(settle, read.future, result, error)
            # Nothing of a page is kept alive until the next read comes.
            del read, result, error
        if session is not None:
            session[0].connection.close()
        loop, ended = self._ended.pop()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, ended, None, None)


def _within(tx: Tx, raw: sqlite3.Connection, body: Callable[[Tx], R]) -> R:
    raw.execute("BEGIN")
    tx.now = tx.clock()
    try:
        return body(tx)
    finally:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
