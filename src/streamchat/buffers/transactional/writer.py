"""Group commit: one writer per process carries the changes of all runs, each transaction all that is waiting.

While one transaction is under way, the next one's jobs gather; when nothing is under way a job goes at once,
and only while several runs are being written do deltas wait some milliseconds for each other (see `pacing`).
A job that is refused (a stale lease, say) fails alone; a transaction that breaks is rolled back and tried
again job by job, so that a poisonous one takes nobody with it. A big batch gets a transaction of its own and
is never split.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, Generic, Protocol, TypeVar

from streamchat.buffers.transactional.jobs import (
    Job,
    done,
    finish,
    hold_back_cancellation,
    next_transaction,
    settle,
)
from streamchat.buffers.transactional.pacing import ENOUGH, Pace
from streamchat.errors import BufferUnavailable

__all__ = ["Store", "Writer"]

T = TypeVar("T")
R = TypeVar("R")
_log = logging.getLogger("streamchat.buffers")


class Store(Protocol[T]):
    """What a `Writer` needs of a database. Everything is called from the writer's thread."""

    def connect(self) -> None:
        """Open the connection, and make the store ready for work."""
        ...

    def transact(self, jobs: Sequence[Job[T, Any]], *, durable: bool) -> None:
        """Do all jobs in one transaction, setting ``result``, or ``error`` for those that are refused.

        Anything that is raised means that nothing of it was written. Raises `BufferUnavailable` where no
        transaction could be had at all, so that trying job by job is of no use.
        """
        ...

    def translate(self, error: Exception, *, change: bool = False) -> Exception:
        """Return the error that callers are to see; ``change`` says that something was to be written."""
        ...

    def disconnect(self) -> None:
        """Close the connection."""
        ...


@dataclass(slots=True, eq=False)
class Writer(Generic[T]):
    """The thread that owns a store's writing connection."""

    store: Store[T]
    name: str
    announce: Callable[[Iterable[str]], None]
    """Called on the loop with the runs of which there is news, once for each transaction."""
    _queue: SimpleQueue[Job[T, Any] | _Stop] = field(default_factory=SimpleQueue)
    _thread: Thread | None = None
    _lock: Lock = field(default_factory=Lock)
    """So that nothing is queued behind the order to stop."""
    _open: bool = False
    _pace: Pace = field(default_factory=Pace)
    _lingering: int = 0
    """How many jobs wait for others at this moment."""
    _hurry: Event = field(default_factory=Event)
    """Set when what has come is not to wait any longer."""

    async def start(self) -> None:
        """Start the thread and connect; raises what the connection raises."""
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        self._thread = Thread(target=self._live, args=(loop, ready), name=self.name, daemon=True)
        self._open = True
        self._thread.start()
        try:
            await asyncio.shield(ready)
        except BaseException:
            ready.cancel()
            await self.stop()
            raise

    async def stop(self) -> None:
        """Do what is waiting, then end the thread; idempotent. Cancellation is held back until it has
        ended."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._open = False
            self._queue.put(_Stop(loop, ended))
            self._hurry.set()
        await hold_back_cancellation(ended)
        thread.join()

    def do(self, job: Job[T, R]) -> Coroutine[Any, Any, R]:
        """Have a job done and return its result; raises what it raises.

        A job that is cancelled before its transaction began is not done; from then on it may be.
        """
        return done(job, self._put)

    def _put(self, job: Job[T, Any]) -> None:
        with self._lock:
            if not self._open:
                raise BufferUnavailable("the buffer is closed: open() it first")
            self._queue.put(job)
            if self._lingering and (job.durable or self._lingering + self._queue.qsize() >= ENOUGH):
                self._hurry.set()

    # ------------------------------------------------------------------------------------- in the thread

    def _live(self, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None]) -> None:
        waiting: deque[Job[T, Any]] = deque()
        try:
            self.store.connect()
        except Exception as error:
            _call(loop, settle, ready, None, self.store.translate(error))
            stop = self._gather(waiting)
            while stop is None:
                stop = self._gather(waiting)
        else:
            _call(loop, settle, ready, None, None)
            stop = None
            while stop is None or waiting:
                stop = stop or self._gather(waiting) or self._linger(waiting)
                self._transact(next_transaction(waiting))
        try:
            self.store.disconnect()
        finally:  # whoever closes waits for it
            _call(stop.loop, settle, stop.ended, None, None)

    def _gather(self, waiting: deque[Job[T, Any]]) -> _Stop | None:
        """Move what was queued to ``waiting``, and wait for it if that is empty; return the order to stop."""
        queue = self._queue
        # Nobody else takes from it, so what is there stays there.
        while not waiting or not queue.empty():
            item = queue.get()
            if isinstance(item, _Stop):
                return item
            waiting.append(item)
        return None

    def _linger(self, waiting: deque[Job[T, Any]]) -> _Stop | None:
        """Wait a moment for more, if that is worth it; return the order to stop."""
        now = time.monotonic()
        run_ids = [job.run_id for job in waiting]
        durable = any(job.durable for job in waiting)
        seconds = self._pace.pause(run_ids, durable=durable, now=now)
        if seconds > 0.0:
            self._hurry.clear()
            self._lingering = len(waiting)
            stop = self._gather(waiting)
            run_ids = [job.run_id for job in waiting]
            durable = any(job.durable for job in waiting)
            seconds = self._pace.pause(run_ids, durable=durable, now=now)
            if stop is None and seconds > 0.0:
                self._hurry.wait(seconds)
                stop = self._gather(waiting)
            self._lingering = 0
            if stop is not None:
                return stop
            now = time.monotonic()
            run_ids = [job.run_id for job in waiting]
        self._pace.begun(run_ids, now)
        return None

    def _transact(self, taken: Sequence[Job[T, Any]]) -> None:
        jobs = [job for job in taken if not job.withdrawn]
        if not jobs:
            return
        self._attempt(jobs)
        by_loop: dict[asyncio.AbstractEventLoop, list[Job[T, Any]]] = {}
        for job in jobs:
            if job.loop is not None:
                by_loop.setdefault(job.loop, []).append(job)
        for loop, settled in by_loop.items():
            _call(loop, self._settle, settled)

    def _attempt(self, jobs: Sequence[Job[T, Any]]) -> None:
        try:
            self.store.transact(jobs, durable=any(job.durable for job in jobs))
        except BufferUnavailable as error:
            for job in jobs:
                job.error = BufferUnavailable(str(error))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].error = self.store.translate(error, change=True)
                return
            _log.warning("a transaction of %d jobs failed, trying them one by one: %s", len(jobs), error)
            for job in jobs:
                job.result = job.error = None
                self._attempt([job])

    # ------------------------------------------------------------------------------------- on the loop

    def _settle(self, jobs: Sequence[Job[T, Any]]) -> None:
        self.announce([run_id for job in jobs for run_id in job.told()])
        for job in jobs:
            finish(job, self._put)


@dataclass(slots=True, eq=False)
class _Stop:
    """The order to end the thread, once all before it is done."""

    loop: asyncio.AbstractEventLoop
    ended: asyncio.Future[None]


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
        loop.call_soon_threadsafe(function, *args)
