"""Connections to a server database: taken from the pool for one transaction, thrown away when that failed.

No connection is held while nothing happens, and none is used by a task that its caller may cancel: what is
let go in the midst of an answer is lost. A connection that the server has closed meanwhile (a restart) is
noticed when it is taken: its socket says so, and no question is sent. Each transaction is bounded in time, so
that a server which has fallen silent is not waited for for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from streamchat.buffers.base import Page
from streamchat.buffers.sql import queries
from streamchat.buffers.sql.core_path import CoreHotPath
from streamchat.buffers.sql.dialect import Accepted, ServerDialect
from streamchat.buffers.sql.migrations import LOCK_SECONDS
from streamchat.buffers.sql.settings import Settings
from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.transactional.appending import AppendJob
from streamchat.buffers.transactional.jobs import Job
from streamchat.concurrency import Deadline
from streamchat.errors import StreamChatError

__all__ = ["Sessions", "UnknownFate"]

_ROW_SECONDS = 0.05
"""How long a transaction waits for a row that another has locked, before it lets go of its connection and is
tried again."""

R = TypeVar("R")


class UnknownFate(Exception):
    """The order to commit was sent, and no answer came; the cause says why."""


class Sessions:
    """Transactions of one buffer."""

    def __init__(self, engine: AsyncEngine, dialect: ServerDialect, settings: Settings) -> None:
        self._engine = engine
        self._reading = engine.execution_options(**dialect.reading)
        self._dialect = dialect
        self._settings = settings
        self._reads = asyncio.Semaphore(settings.readers)
        self._held: AsyncConnection | None = None

    # -------------------------------------------------------------------------------- general transactions

    async def prepare(self, *, create: bool, where: str) -> None:
        """Check the server, and make or check the tables."""
        # Another process may be making them.
        seconds = max(LOCK_SECONDS + 5.0, self._settings.busy_seconds)
        async with asyncio.timeout(seconds), self._connection(self._engine) as connection:
            await connection.run_sync(self._dialect.prepare, create=create, where=where)
            await connection.commit()

    async def change(self, job: Job[Tx, R]) -> R:
        """Do a job in a transaction of its own, and announce its news.

        Raises what its body or the database raises, and then nothing was written; `UnknownFate` where that
        cannot be known.
        """
        committing = False
        try:
            async with self._bounded(), self._connection(self._engine) as connection:
                result = await connection.run_sync(self._perform, job)
                committing = True
                await connection.commit()
                committing = False
        except Exception as error:
            # What the server itself refused, at COMMIT too, is rolled back.
            if committing and self._dialect.fault(error) not in ("locked", "clash"):
                raise UnknownFate from error
            raise
        return result

    def _perform(self, connection: Connection, job: Job[Tx, R]) -> R:
        result = job.body(self._tx(connection, _ROW_SECONDS))
        changed = job.changed(result)
        if changed:
            self._dialect.tell(connection, changed)
        return result

    async def look(self, body: Callable[[Tx], R]) -> R:
        """Run a reading body on one moment's state."""
        async with self._reads, self._bounded(), self._connection(self._reading) as connection:
            return await connection.run_sync(lambda sync: body(self._tx(sync, None)))

    def _tx(self, connection: Connection, lock_seconds: float | None) -> Tx:
        settings, schema = self._settings, self._settings.schema
        clock = settings.clock
        (*_, now) = connection.execute(self._dialect.begin(lock_seconds)).one()
        hot = CoreHotPath(connection, schema, self._dialect.page)
        # The time of one transaction is one moment, whoever's clock it is.
        moment = int(now) if clock is None else clock()
        return Tx(connection, hot, schema, settings.payloads, lambda: moment, settings.token, moment)

    # -------------------------------------------------------------------------------- the driver's own way

    async def page(self, run_id: str, after: int, limit: int) -> Page:
        """Read a page of a log."""
        async with self._reads, self._bounded(), self._connection(self._engine) as connection:
            rows = await self._dialect.page(_driver(connection), run_id, after, limit)
        return queries.page_of(self._settings.payloads, run_id, rows)

    async def heads(self, run_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return (head_seq, posted) of runs, as far as they are stored."""
        async with self._bounded(), self._connection(self._engine) as connection:
            return await self._dialect.heads(_driver(connection), run_ids)

    async def ping(self, word: str) -> None:
        """Say something to the connection that listens."""
        async with self._bounded(), self._connection(self._engine) as connection:
            await self._dialect.ping(_driver(connection), word)

    @contextlib.asynccontextmanager
    async def own(self) -> AsyncIterator[Any]:
        """Give a connection of the driver's that belongs to no pool, and is closed at the end."""
        async with self._bounded():
            connection = await self._live(self._engine)
        try:
            raw = _driver(connection)
            assert connection.sync_connection is not None
            connection.sync_connection.detach()
            yield raw
        finally:
            with contextlib.suppress(Exception):
                await connection.close()

    async def append(self, jobs: Sequence[AppendJob]) -> dict[str, Accepted]:
        """Write plain batches together; see `ServerDialect.append`. For one caller at a time."""
        clock = self._settings.clock
        # Cheaper than `asyncio.timeout`, and this is done at every append.
        with Deadline(self._settings.busy_seconds):
            try:
                raw = await self._writing()
                return await self._dialect.append(raw, jobs, None if clock is None else clock())
            except BaseException:
                await self.let_go(broken=True)
                raise
        raise TimeoutError

    async def _writing(self) -> Any:
        """Return the connection that appends keep from one to the next, while they come."""
        if self._held is not None:
            raw = _driver(self._held)
            if not self._dialect.closed(raw):
                return raw
            await self.let_go(broken=True)
        self._held = await self._live(self._engine)
        return _driver(self._held)

    async def let_go(self, *, broken: bool = False) -> None:
        """Give the connection of the appends back; the next one takes another."""
        held, self._held = self._held, None
        if held is not None:
            if broken:
                await _discard(held)
            with contextlib.suppress(Exception):
                await held.close()

    # ------------------------------------------------------------------------------------------ connections

    @contextlib.asynccontextmanager
    async def _connection(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        connection = await self._live(engine)
        try:
            yield connection
        except StreamChatError:
            raise  # the database is well, and what was begun is rolled back
        except BaseException as error:
            if self._dialect.fault(error) not in ("locked", "clash"):
                await _discard(connection)
            raise
        finally:
            await connection.close()

    async def _live(self, engine: AsyncEngine) -> AsyncConnection:
        """Take a connection that is not known to be dead."""
        while True:
            connection = await engine.connect()
            try:
                if not self._dialect.closed(_driver(connection)):
                    return connection
                await _discard(connection)
            except BaseException:
                await connection.close()
                raise
            await connection.close()

    def _bounded(self) -> asyncio.Timeout:
        return asyncio.timeout(self._settings.busy_seconds)


def _driver(connection: AsyncConnection) -> Any:
    """Return the driver's own connection. It is there, so nothing is awaited to get at it."""
    assert connection.sync_connection is not None
    return connection.sync_connection.connection.driver_connection


async def _discard(connection: AsyncConnection) -> None:
    with contextlib.suppress(Exception):
        await connection.invalidate()
