"""The threads that read: each has a connection of its own, and none waits for the writer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Generic, Protocol, TypeVar

from streamchat.buffers.transactional.jobs import hold_back_cancellation, settle
from streamchat.errors import BufferUnavailable, StreamChatError

__all__ = ["Readers", "ReadingStore", "Session"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")


class Session(Protocol[T_co]):
    """A thread's own connection to read by."""

    def look(self, body: Callable[[T_co], R]) -> R:
        """Run ``body`` in a transaction that sees one moment."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class ReadingStore(Protocol[T_co]):
    """What `Readers` need of a database. Everything is called from the threads that read."""

    def session(self) -> Session[T_co]:
        """Open a connection for the calling thread."""
        ...

    def translate(self, error: Exception) -> Exception:
        """Return the error that callers are to see."""
        ...


@dataclass(slots=True, eq=False)
class _Read:
    body: Callable[[Any], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class Readers(Generic[T]):
    """``count`` threads that take what is to be read from one queue; a thread connects when it is first
    needed."""

    def __init__(self, store: ReadingStore[T], count: int, name: str) -> None:
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

    async def read(self, body: Callable[[T], R]) -> R:
        """Run ``body`` in a transaction that sees one moment; cancelled, its result is thrown away."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        with self._lock:
            if not self._open:
                raise BufferUnavailable("the buffer is closed: open() it first")
            self._queue.put(_Read(body, loop, future))
        return await future

    def _live(self) -> None:
        session: Session[T] | None = None
        while True:
            read = self._queue.get()
            if read is None:
                break
            if read.future.cancelled():
                continue
            result: Any = None
            error: Exception | None = None
            try:
                session = session or self._store.session()
                result = session.look(read.body)
            except StreamChatError as refused:
                error = refused
            except Exception as failed:
                error = self._store.translate(failed)
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits
                read.loop.call_soon_threadsafe(settle, read.future, result, error)
            # Nothing of a page is kept alive until the next read comes.
            del read, result, error
        if session is not None:
            session.close()
        loop, ended = self._ended.pop()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, ended, None, None)
