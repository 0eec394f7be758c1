"""Each kind of buffer as the tests open it, with a clock that only moves when it is told to."""

from __future__ import annotations

import contextlib
import copy
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from streamchat.buffers.base import EventBuffer
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.testing.buffers import BufferSuite

__all__ = ["BACKENDS", "Backend", "ManualClock"]

START = 1_700_000_000_000


class ManualClock:
    """Milliseconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


class Backend:
    """One kind of buffer; ``directory`` is for its files."""

    shares = False
    """Whether several buffers can work on one store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock()

    @contextlib.asynccontextmanager
    async def open(self, _: EventBuffer | None = None) -> AsyncIterator[EventBuffer]:
        """Open a buffer; a second one works on the store of the first."""
        buffer = self.make()
        await buffer.open()
        try:
            yield buffer
        finally:
            await buffer.close()

    def make(self) -> EventBuffer:
        raise NotImplementedError

    async def advance(self, _: EventBuffer, seconds: float) -> None:
        self.clock.advance(seconds)

    def suite(self) -> BufferSuite:
        return BufferSuite(self.open, another=self.open if self.shares else None, advance=self.advance)

    def save(self, buffer: Any) -> Any:
        """Return a copy of all that is stored."""
        raise NotImplementedError

    def restore(self, buffer: Any, saved: Any) -> None:
        """Put the store back to an earlier copy, below an open buffer, as a lossy failover does."""
        raise NotImplementedError


class Memory(Backend):
    def make(self) -> MemoryEventBuffer:
        return MemoryEventBuffer(retention=None, clock=self.clock)

    def save(self, buffer: MemoryEventBuffer) -> Any:
        return copy.deepcopy(buffer._state)

    def restore(self, buffer: MemoryEventBuffer, saved: Any) -> None:
        buffer._state = copy.deepcopy(saved)


class SQLite(Backend):
    shares = True

    def make(self) -> SQLEventBuffer:
        return SQLEventBuffer(f"sqlite:///{self.directory / 'chat.db'}", clock=self.clock)

    def save(self, buffer: Any) -> sqlite3.Connection:
        saved = sqlite3.connect(":memory:")
        with contextlib.closing(sqlite3.connect(self.directory / "chat.db")) as source:
            source.backup(saved)
        return saved

    def restore(self, buffer: Any, saved: sqlite3.Connection) -> None:
        with contextlib.closing(sqlite3.connect(self.directory / "chat.db", timeout=30)) as target:
            saved.backup(target)


class SQLiteInMemory(Backend):
    def make(self) -> SQLEventBuffer:
        return SQLEventBuffer("sqlite://", clock=self.clock)


BACKENDS: dict[str, type[Backend]] = {
    "memory": Memory,
    "sqlite": SQLite,
    "sqlite-memory": SQLiteInMemory,
}
