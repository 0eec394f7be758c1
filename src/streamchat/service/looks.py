"""Reads of runs' logs for many who ask at once: who asks while the store is asked shares the next answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from streamchat.buffers.base import EventBuffer, Page
from streamchat.errors import Busy
from streamchat.events import StoredEvent
from streamchat.service.log import read_log
from streamchat.service.topic import PAGE

__all__ = ["Looks"]

_Asked = TypeVar("_Asked")
_Read = TypeVar("_Read")


class Looks:
    """Reads on behalf of readers that arrive; ``looked(run_id, page)`` is told of each page, before them.

    However many clients come back to a run at once, it is read as often as it takes the store to answer, from
    the earliest place that any of them named.
    """

    def __init__(self, buffer: EventBuffer, looked: Callable[[str, Page], None]) -> None:
        self._buffer = buffer
        self._looked = looked
        self._pages: _Shared[int, Page] = _Shared(self._read_page)
        self._logs: _Shared[None, Sequence[StoredEvent]] = _Shared(self._read_log)

    async def look(self, run_id: str, seq: int) -> Page:
        """Return a page that begins with the event at ``seq``, or at an earlier one, read after this call.

        Raises what `EventBuffer.read` raises, and `Busy` where this process shuts down meanwhile.
        """
        return await self._pages.ask(run_id, seq)

    async def log(self, run_id: str) -> Sequence[StoredEvent]:
        """Return all that is stored of a run, read after this call, for nobody to change. Raises as `look`
        does."""
        return await self._logs.ask(run_id, None)

    async def _read_page(self, run_id: str, seqs: Sequence[int]) -> Page:
        # The event before tells whether the run was over there, or suspended.
        page = await self._buffer.read(run_id, max(0, min(seqs) - 1), PAGE)
        self._looked(run_id, page)
        return page

    async def _read_log(self, run_id: str, _: Sequence[None]) -> Sequence[StoredEvent]:
        return await read_log(self._buffer, run_id)

    async def close(self) -> None:
        """End what is under way."""
        await self._pages.close()
        await self._logs.close()


class _Shared(Generic[_Asked, _Read]):
    """One ``read`` at a time for each run, with all that was asked for when it begins. A caller that is
    cancelled leaves it to the others."""

    def __init__(self, read: Callable[[str, Sequence[_Asked]], Awaitable[_Read]]) -> None:
        self._read = read
        self._asked: dict[str, list[tuple[_Asked, asyncio.Future[_Read]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, run_id: str, what: _Asked) -> _Read:
        """Return what a read comes to that begins after this call; raises what it raises, and `Busy`."""
        future: asyncio.Future[_Read] = asyncio.get_running_loop().create_future()
        asked = self._asked.get(run_id)
        if asked is not None:
            asked.append((what, future))
        else:
            self._asked[run_id] = asked = [(what, future)]
            task = asyncio.create_task(self._answer(run_id, asked), name=f"streamchat look {run_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _answer(self, run_id: str, asked: list[tuple[_Asked, asyncio.Future[_Read]]]) -> None:
        batch: list[tuple[_Asked, asyncio.Future[_Read]]] = []
        try:
            while asked:
                batch, asked[:] = asked[:], []
                try:
                    read = await self._read(run_id, [what for what, _ in batch])
                except Exception as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for _, future in batch:
                        if not future.done():
                            future.set_result(read)
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
