"""Group commit on the loop: one statement carries the waiting batches of all runs to a server database.

It follows the rules of the writing thread (`writer`): while one transaction is under way the next one's jobs
gather, nothing waits when it is alone, a poisonous batch takes nobody with it, a big one goes alone. What a
statement leaves over (a stale lease, a batch that was written before, a row that somebody has locked) is
looked at job by job elsewhere, so that it holds up nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from streamchat.buffers.transactional.appending import AppendJob
from streamchat.buffers.transactional.jobs import next_transaction
from streamchat.buffers.transactional.pacing import ENOUGH, Pace
from streamchat.concurrency import Deadline
from streamchat.errors import BufferUnavailable

__all__ = ["GroupWriter"]

_IDLE_SECONDS = 1.0
_log = logging.getLogger("streamchat.buffers")


class GroupWriter:
    """The task that writes plain batches.

    ``write`` writes some together, and sets the ``result`` of those that were written; it raises
    `BufferUnavailable` where trying job by job is of no use. ``settle`` is given the jobs that have an
    outcome, ``left`` those that have none. ``rest`` is called when nothing came for a second.
    """

    def __init__(
        self,
        *,
        write: Callable[[Sequence[AppendJob]], Awaitable[None]],
        translate: Callable[[Exception], Exception],
        settle: Callable[[Sequence[AppendJob]], None],
        left: Callable[[AppendJob], None],
        rest: Callable[[], Awaitable[None]],
    ) -> None:
        self._write = write
        self._translate = translate
        self._settle = settle
        self._left = left
        self._rest = rest
        self._waiting: deque[AppendJob] = deque()
        self._pace = Pace()
        self._come = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None
        self._resting = False

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._live(), name="streamchat-sql-writer")

    async def stop(self) -> None:
        """Do what is waiting, then end the task; idempotent."""
        self._stopping = True
        self._come.set()
        self._hurry.set()
        task, self._task = self._task, None
        if task is not None:
            await task
        if self._timer is not None:
            self._timer.cancel()

    def put(self, job: AppendJob) -> None:
        """Take a job."""
        if self._task is None:
            raise BufferUnavailable("the buffer is closed: open() it first")
        self._waiting.append(job)
        self._come.set()
        if job.durable or len(self._waiting) >= ENOUGH:
            self._hurry.set()

    async def _live(self) -> None:
        while await self._some():
            await self._linger()
            taken = next_transaction(self._waiting)  # type: ignore[arg-type]
            jobs = self._one_for_each_run(taken)
            if jobs:
                await self._attempt(jobs)
                self._settle([job for job in jobs if job.error is not None or job.result is not None])
                for job in jobs:
                    if job.error is None and job.result is None:
                        self._left(job)

    async def _some(self) -> bool:
        """Wait until there is a job; False at the end."""
        rested = False
        while not self._waiting and not self._stopping:
            self._come.clear()
            self._idle_since = time.monotonic()
            if self._timer is None and not rested:
                self._look_in(_IDLE_SECONDS)
            await self._come.wait()
            self._idle_since = None
            if self._resting:
                self._resting, rested = False, True
                await self._rest()
        return bool(self._waiting)

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Have the connection given back if nothing came for a second; once a second at most, and not when
        it was."""
        self._timer = None
        since = self._idle_since
        if since is None:
            self._look_in(_IDLE_SECONDS)
        elif (left := since + _IDLE_SECONDS - time.monotonic()) > 0.01:
            self._look_in(left)
        else:
            self._resting = True
            self._come.set()

    async def _linger(self) -> None:
        """Wait a moment for more, if that is worth it."""
        self._hurry.clear()
        now = time.monotonic()
        seconds = 0.0 if self._stopping else self._pause(now)
        if seconds > 0.0:
            with Deadline(seconds):
                await self._hurry.wait()
            now = time.monotonic()
        self._pace.begun([job.run_id for job in self._waiting], now)

    def _pause(self, now: float) -> float:
        waiting: Collection[AppendJob] = self._waiting
        durable = any(job.durable for job in waiting)
        return self._pace.pause([job.run_id for job in waiting], durable=durable, now=now)

    def _one_for_each_run(self, taken: Sequence[Any]) -> list[AppendJob]:
        """Return the first job of each run; the others go back to the head of the queue."""
        wanted = [job for job in taken if not job.withdrawn]
        first: dict[str, AppendJob] = {job.run_id: job for job in reversed(wanted)}
        self._waiting.extendleft(job for job in reversed(wanted) if first[job.run_id] is not job)
        return [job for job in wanted if first[job.run_id] is job]

    async def _attempt(self, jobs: Sequence[AppendJob]) -> None:
        try:
            await self._write(jobs)
        except BufferUnavailable as error:
            for job in jobs:
                job.error = BufferUnavailable(str(error))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].error = self._translate(error)
                return
            _log.warning("a transaction of %d batches failed, trying them one by one: %s", len(jobs), error)
            for job in jobs:
                await self._attempt([job])
