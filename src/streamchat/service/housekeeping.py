"""What a process does now and then beside its runs: it acts on notes that are due, and trims old events.

Every process does all of it; both are harmless to do twice. So that they do not do it at the same moment,
each waits about as long as it was told, half as long or half more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping

from streamchat.buffers.base import EventBuffer
from streamchat.buffers.notes import NewNote, Note, NoteStore
from streamchat.buffers.shared import now_ms
from streamchat.errors import BufferUnavailable

__all__ = ["Housekeeper"]

log = logging.getLogger("streamchat.service")

_DUE = 500
_TRIMMED = 100
_BETWEEN_BATCHES = 0.05
_UNKNOWN = 3600.0


class Housekeeper:
    """``handlers`` act on due notes, by what stands before the colon of a note's name.

    They are looked for every ``sweep_every`` seconds, the first time after ``first_sweep``: a process that
    starts waits until those who were connected to the one before it are back. ``retention`` is in seconds,
    None trims nothing.
    """

    def __init__(
        self,
        buffer: EventBuffer,
        notes: NoteStore,
        handlers: Mapping[str, Callable[[Note], Awaitable[None]]],
        *,
        sweep_every: float,
        first_sweep: float,
        retention: float | None,
    ) -> None:
        self._buffer = buffer
        self._notes = notes
        self._handlers = handlers
        self._sweep_every = sweep_every
        self._first_sweep = first_sweep
        self._retention = retention
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [
            asyncio.create_task(
                self._again(self._sweep, self._first_sweep, self._sweep_every), name="streamchat sweep"
            )
        ]
        if self._retention is not None:
            every = min(3600.0, max(1.0, self._retention / 10))
            self._tasks.append(
                asyncio.create_task(self._again(self._trim, min(every, 10.0), every), name="streamchat trim")
            )

    async def stop(self) -> None:
        """End; what was begun is done by somebody else, or later. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _again(self, work: Callable[[], Awaitable[None]], first: float, every: float) -> None:
        wait = first
        while True:
            await asyncio.sleep(wait * random.uniform(0.5, 1.5) if wait is not first else wait)
            wait = every
            try:
                await work()
            except BufferUnavailable as error:
                log.warning("housekeeping waits for the store: %s", error)
            except Exception:
                log.exception("housekeeping failed; it is tried again")

    async def _sweep(self) -> None:
        for note in await self._notes.due_notes(_DUE):
            handler = self._handlers.get(note.name.partition(":")[0])
            try:
                if handler is None:
                    # Another version's: it must not stand in front of ours for ever.
                    await self._notes.write_notes([NewNote(note.run_id, note.name, note.body, _UNKNOWN)])
                else:
                    await handler(note)
            except BufferUnavailable:
                raise
            except Exception:
                log.exception("run %s: what was noted as %s could not be done", note.run_id, note.name)

    async def _trim(self) -> None:
        assert self._retention is not None
        older_than = now_ms() - int(self._retention * 1000)
        total = 0
        while (trimmed := await self._buffer.trim(older_than, _TRIMMED)) > 0:
            total += trimmed
            await asyncio.sleep(_BETWEEN_BATCHES)
        if total:
            log.info("%d runs were trimmed to their last batch", total)
