"""Looks into the logs of runs for many who ask at once: who asks while the store is asked shares the next
answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamchat.buffers.base import EventBuffer, Page
from streamchat.errors import Busy
from streamchat.service.topic import PAGE

__all__ = ["Looks"]


class Looks:
    """Reads pages on behalf of readers that arrive; ``looked(run_id, page)`` is told of each, before them.

    However many clients come back to a run at once, it is read as often as it takes the store to answer, from
    the earliest place that any of them named.
    """

    def __init__(self, buffer: EventBuffer, looked: Callable[[str, Page], None]) -> None:
        self._buffer = buffer
        self._looked = looked
        self._asked: dict[str, list[tuple[int, asyncio.Future[Page]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def look(self, run_id: str, seq: int) -> Page:
        """Return a page that begins with the event at ``seq``, or at an earlier one, read after this call.

        Raises what `EventBuffer.read` raises, and `Busy` where this process shuts down meanwhile.
        """
        future: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        asked = self._asked.get(run_id)
        if asked is not None:
            asked.append((seq, future))
        else:
            self._asked[run_id] = asked = [(seq, future)]
            task = asyncio.create_task(self._answer(run_id, asked), name=f"streamchat look {run_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _answer(self, run_id: str, asked: list[tuple[int, asyncio.Future[Page]]]) -> None:
        batch: list[tuple[int, asyncio.Future[Page]]] = []
        try:
            while asked:
                batch, asked[:] = asked[:], []
                # The event before tells whether the run was over there, or suspended.
                after = max(0, min(seq for seq, _ in batch) - 1)
                try:
                    page = await self._buffer.read(run_id, after, PAGE)
                    self._looked(run_id, page)
                except Exception as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for _, future in batch:
                        if not future.done():
                            future.set_result(page)
        finally:
            del self._asked[run_id]
            for _, future in (*batch, *asked):
                if not future.done():
                    future.set_exception(
                        Busy(f"run {run_id}: this process is shutting down; go on elsewhere")
                    )

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
