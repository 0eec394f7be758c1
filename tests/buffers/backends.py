"""Each kind of buffer as the tests open it, with a clock that only moves when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import importlib
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import asyncpg  # type: ignore[import-untyped]

from streamchat.buffers.base import EventBuffer
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.buffers.shared import Token, random_token
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.buffers.sql.schema import Schema
from streamchat.testing.buffers import Bench, BufferSuite
from tests.services.databases import execute

__all__ = ["BACKENDS", "Backend", "ManualClock", "found"]

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
    share = 1 / 3
    """Of the examples of a long random history, as each step goes to two stores; 0: nothing can be saved."""
    service: str | None = None
    """The fixture that gives the URL of the server which it needs."""

    def __init__(self, directory: Path, server: str = "") -> None:
        self.directory = directory
        self.server = server
        self.clock: Any = ManualClock()
        self.prefix = ""
        self.token: Token = random_token

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

    def to(self) -> list[str]:
        """Return how another process finds the same store; see `found`."""
        return [type(self).__module__, type(self).__name__, str(self.directory), self.server, self.prefix]

    def check(self) -> None:
        """Look for damage in the store."""

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

    def forget(self, saved: Any) -> None:
        """Let go of a copy."""


class Memory(Backend):
    def make(self) -> MemoryEventBuffer:
        return MemoryEventBuffer(retention=None, clock=self.clock, token=self.token)

    def save(self, buffer: MemoryEventBuffer) -> Any:
        return copy.deepcopy(buffer._state)

    def restore(self, buffer: MemoryEventBuffer, saved: Any) -> None:
        buffer._state = copy.deepcopy(saved)


class SQLite(Backend):
    shares = True

    def make(self) -> SQLEventBuffer:
        url = f"sqlite:///{self.directory / 'chat.db'}"
        return SQLEventBuffer(url, clock=self.clock, token=self.token)

    def save(self, buffer: Any) -> sqlite3.Connection:
        saved = sqlite3.connect(":memory:")
        with contextlib.closing(sqlite3.connect(self.directory / "chat.db")) as source:
            source.backup(saved)
        return saved

    def restore(self, buffer: Any, saved: sqlite3.Connection) -> None:
        with contextlib.closing(sqlite3.connect(self.directory / "chat.db", timeout=30)) as target:
            saved.backup(target)

    def check(self) -> None:
        with contextlib.closing(sqlite3.connect(self.directory / "chat.db")) as checked:
            assert checked.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def forget(self, saved: sqlite3.Connection) -> None:
        saved.close()


class SQLiteInMemory(Backend):
    share = 0.0

    def make(self) -> SQLEventBuffer:
        return SQLEventBuffer("sqlite://", clock=self.clock, token=self.token)


class Server(Backend):
    """A server database: tables of this process's own, emptied for each test."""

    shares = True
    share = 1 / 20
    emptied: ClassVar[str]
    """The statement that empties a table."""
    copied: ClassVar[str]
    """The statement that makes a table like another one."""
    _made: ClassVar[set[str]] = set()

    def __init__(self, directory: Path, server: str = "") -> None:
        super().__init__(directory, server)
        self.prefix = f"t{os.getpid()}_"
        self._empty = False

    def make(self, **options: Any) -> SQLEventBuffer:
        given = {"prefix": self.prefix, "clock": self.clock, "token": self.token, **options}
        return SQLEventBuffer(self.server, **given)

    @contextlib.asynccontextmanager
    async def open(self, _: EventBuffer | None = None) -> AsyncIterator[EventBuffer]:
        await self.begin()
        async with super().open() as buffer:
            yield buffer

    async def begin(self) -> None:
        """See to it that there are empty tables."""
        if self._empty:
            return
        if self.server not in self._made:
            await self.run(f"DROP TABLE IF EXISTS {', '.join(self.tables())}")
            made = self.make(create_tables=True)
            await made.open()
            await made.close()
            self._made.add(self.server)
        else:
            await self.empty()
        self._empty = True

    def tables(self) -> list[str]:
        return sorted(Schema(self.prefix).metadata.tables)

    def data(self) -> list[str]:
        """Return the tables that hold what tests write."""
        return [name for name in self.tables() if name != f"{self.prefix}schema"]

    @contextlib.asynccontextmanager
    async def bench(self, **options: Any) -> AsyncIterator[Bench]:
        """A buffer with a clock that goes by itself."""
        buffer = await self.make(**{"clock": None, **options}).open()
        try:
            yield Bench(buffer, None, None, 30.0)
        finally:
            await buffer.close()

    async def run(self, *statements: str) -> None:
        """Run statements in one transaction."""
        raise NotImplementedError

    async def empty(self) -> None:
        await self.run(*(self.emptied.format(name) for name in self.data()))

    def save(self, buffer: Any) -> str:
        statements = [
            statement.format(name=name, copy=f"saved_{name}")
            for name in self.data()
            for statement in (
                self.copied,
                self.emptied.format("{copy}"),
                "INSERT INTO {copy} SELECT * FROM {name}",
            )
        ]
        asyncio.run(self.run(*statements))
        return "saved"

    def restore(self, buffer: Any, saved: str) -> None:
        statements = [
            statement
            for name in self.data()
            for statement in (self.emptied.format(name), f"INSERT INTO {name} SELECT * FROM saved_{name}")
        ]
        asyncio.run(self.run(*statements))


class PostgreSQL(Server):
    service = "postgres_url"
    emptied = "TRUNCATE {}"
    copied = "CREATE TABLE IF NOT EXISTS {copy} (LIKE {name})"

    async def run(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.server)
        try:
            async with connection.transaction():
                for statement in statements:
                    await connection.execute(statement)
        finally:
            await connection.close()


def found(module: str, kind: str, directory: str, server: str, prefix: str) -> Backend:
    """Return the store of another process, with a clock that goes by itself."""
    backend: Backend = getattr(importlib.import_module(module), kind)(Path(directory), server)
    backend.prefix = prefix
    backend.clock = None
    return backend


class MariaDB(Server):
    service = "mariadb_url"
    emptied = "DELETE FROM {}"
    copied = "CREATE TABLE IF NOT EXISTS {copy} LIKE {name}"

    async def run(self, *statements: str) -> None:
        await execute(self.server, "SET autocommit = 0", *statements, "COMMIT")


BACKENDS: dict[str, type[Backend]] = {
    "memory": Memory,
    "sqlite": SQLite,
    "sqlite-memory": SQLiteInMemory,
    "postgresql": PostgreSQL,
    "mariadb": MariaDB,
}
