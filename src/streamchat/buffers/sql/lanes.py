"""Jobs that need a transaction of their own on a server database, a few of them at a time.

So one that waits for a row which somebody has locked holds up no other: it waits for a moment, lets go of its
connection, and is tried again after a growing pause.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from streamchat.buffers.sql.dialect import Fault
from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.transactional.jobs import Job
from streamchat.errors import BufferUnavailable, StreamChatError

__all__ = ["Lanes"]

_CLASHES = 5
_SOONEST, _LATEST = 0.002, 0.1
_log = logging.getLogger("streamchat.buffers")


class Lanes:
    """Does jobs, at most ``width`` at once, each for at most ``seconds`` against what passes.

    ``change`` does one, in one transaction; ``fault`` tells whether trying again may help; ``translate`` what
    callers are told; ``settle`` is given jobs with their outcome.
    """

    def __init__(
        self,
        *,
        change: Callable[[Job[Tx, Any]], Awaitable[Any]],
        fault: Callable[[BaseException], Fault | None],
        translate: Callable[[Exception], Exception],
        settle: Callable[[Job[Tx, Any]], None],
        width: int,
        seconds: float,
    ) -> None:
        self._change = change
        self._fault = fault
        self._translate = translate
        self._settle = settle
        self._seconds = seconds
        self._slots = asyncio.Semaphore(width)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def put(self, job: Job[Tx, Any]) -> None:
        """Take a job."""
        if self._closed:
            raise BufferUnavailable("the buffer is closed: open() it first")
        self.go_on(job)

    def go_on(self, job: Job[Tx, Any]) -> None:
        """Take a job that was begun elsewhere, also while closing."""
        task = asyncio.create_task(self._do(job), name="streamchat-sql-change")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Do what is waiting, and take nothing more."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _do(self, job: Job[Tx, Any]) -> None:
        begun = time.monotonic()
        clashes, gone, pause = 0, 0, _SOONEST
        while True:
            async with self._slots:
                if job.withdrawn:
                    return
                job.result = job.error = None
                fault = await self._attempt(job)
            if fault is None:
                break
            clashes += fault == "clash"
            gone += fault == "gone"
            if clashes > _CLASHES or gone > 1 or time.monotonic() - begun > self._seconds:
                break
            if fault == "locked":
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(2 * pause, _LATEST)
        self._settle(job)

    async def _attempt(self, job: Job[Tx, Any]) -> Fault | None:
        """Do a job once; return what was in the way, if trying again may help."""
        try:
            job.result = await self._change(job)
        except StreamChatError as refused:
            job.error = refused
        except Exception as error:
            job.error = self._translate(error)
            return self._fault(error)
        return None
