"""Background jobs that the demo does itself: in the place of the queue, the builder or the webhook that an
application would have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from streamchat.errors import StreamChatError

__all__ = ["Jobs"]

log = logging.getLogger("streamchat.demo")


class Jobs:
    """Completes each job after ``seconds``; ``complete`` is `StreamChat.complete_job`, set once there is one.

    A demo that is killed forgets its jobs: their calls then time out.
    """

    def __init__(self, seconds: float) -> None:
        self.complete: Callable[[str, Any], Awaitable[None]] | None = None
        self._seconds = seconds
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, job_id: str, result: Any) -> None:
        """Begin a job whose result this will be."""
        task = asyncio.create_task(self._do(job_id, result), name=f"streamchat demo job {job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, job_id: str, result: Any) -> None:
        await asyncio.sleep(self._seconds)
        try:
            if self.complete is not None:
                await self.complete(job_id, result)
        except StreamChatError as error:  # stopped meanwhile, or deleted
            log.info("job %s: its result is not wanted: %s", job_id, error)

    async def close(self) -> None:
        """Give up what is not done."""
        for task in set(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
