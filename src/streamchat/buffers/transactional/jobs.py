"""Jobs: changes to the store on their way to a transaction, and the rules of how they share one.

A writer, be it a thread (`writer`) or tasks on the loop (`group`, `lanes`), takes jobs, and gives each its
result or its refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from streamchat.errors import BufferUnavailable

__all__ = [
    "BIG_JOB",
    "Job",
    "done",
    "finish",
    "hold_back_cancellation",
    "next_transaction",
    "settle",
    "to_the_end",
]

BIG_JOB = 256 * 1024
"""A job with more bytes than this does not share its transaction."""

_TRANSACTION_BYTES = 1024 * 1024
_TRANSACTION_JOBS = 256

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Job(Generic[T, R]):
    """A change to one run (``""``: no certain one): ``body`` makes it inside a transaction ``T``, maybe
    twice.

    ``size`` is bytes of payload. ``durable`` must survive a power loss once it is done. ``plain`` jobs write
    nothing before they refuse. ``news`` says that readers of the run are to be told, or of which runs there
    is news, given the result. ``undo`` is what to do with the result if nobody is there to take it.
    """

    run_id: str
    body: Callable[[T], R]
    size: int = 0
    durable: bool = False
    plain: bool = False
    news: bool | Callable[[R], Iterable[str]] = False
    undo: Callable[[R], Job[T, Any]] | None = None
    result: R | None = None
    error: BaseException | None = None
    loop: asyncio.AbstractEventLoop | None = None
    future: asyncio.Future[R] | None = None

    @property
    def withdrawn(self) -> bool:
        """Whether its caller went away."""
        return self.future is not None and self.future.cancelled()

    def changed(self, result: R) -> list[str]:
        """Return the runs of which there is news with this result."""
        if callable(self.news):
            return list(self.news(result))
        return [self.run_id] if self.news else []

    def told(self) -> list[str]:
        """Return the runs of which there is news, now that the job is done or refused."""
        return [] if self.error is not None else self.changed(self.result)  # type: ignore[arg-type]


def next_transaction(waiting: deque[Job[T, Any]]) -> list[Job[T, Any]]:
    """Take the jobs of the next transaction out of ``waiting``, and order them by run.

    First come, first served, within bounds of bytes and number; a big job goes alone. Runs are touched in the
    order of their ids, by every process, so that two writers never wait for each other's rows; the jobs of
    one run stay in the order in which they came.
    """
    jobs: list[Job[T, Any]] = []
    size = 0
    while waiting and len(jobs) < _TRANSACTION_JOBS and size < _TRANSACTION_BYTES:
        if waiting[0].size > BIG_JOB:
            if not jobs:
                jobs.append(waiting.popleft())
            break
        jobs.append(waiting.popleft())
        size += jobs[-1].size
    jobs.sort(key=lambda job: job.run_id)
    return jobs


async def done(job: Job[T, R], put: Callable[[Job[T, Any]], None]) -> R:
    """Have a job done by whoever ``put`` gives it to, and return its result; raises what it raises.

    A job that is cancelled before its transaction began is not done; from then on it may be.
    """
    job.loop = asyncio.get_running_loop()
    job.future = job.loop.create_future()
    put(job)
    try:
        return await job.future
    except asyncio.CancelledError:
        if job.undo is not None and not job.future.cancelled() and job.future.exception() is None:
            # It was done, and its caller was cancelled before it could take the result.
            put(job.undo(job.future.result()))
        raise


def finish(job: Job[T, Any], put: Callable[[Job[T, Any]], None]) -> None:
    """Give a job's outcome to its caller, or take it back where that went away; call it on the job's loop."""
    future = job.future
    if future is None:
        return
    if future.done() and job.error is None and job.undo is not None:
        with contextlib.suppress(BufferUnavailable):
            put(job.undo(job.result))
    settle(future, job.result, job.error)


def settle(future: asyncio.Future[R], result: R, error: BaseException | None) -> None:
    """Give a future its outcome, unless its waiter went away."""
    if not future.done():
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


async def hold_back_cancellation(ended: asyncio.Future[Any]) -> None:
    """Wait for ``ended``; a cancellation meanwhile is raised after it, so that no thread outlives its
    owner."""
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def to_the_end(work: Coroutine[Any, Any, R]) -> R:
    """Do what must not be cut off; a cancellation meanwhile is raised after it."""
    task = asyncio.ensure_future(work)
    await hold_back_cancellation(task)
    return task.result()
