"""Server databases behind `SQLEventBuffer`: what is the same for all of them.

Plain batches of all runs go through one group writer, over one connection; every other change has a
transaction of its own on one of a few connections, and reads on a few more. The database's own half is its
`ServerDialect`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import URL

from streamchat.buffers.base import Page
from streamchat.buffers.sql.dialect import ServerDialect
from streamchat.buffers.sql.group import GroupWriter
from streamchat.buffers.sql.lanes import Lanes
from streamchat.buffers.sql.sessions import Sessions, UnknownFate
from streamchat.buffers.sql.settings import Settings, where_of
from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.sql.watching import Watcher
from streamchat.buffers.transactional.appending import AppendJob, accepted
from streamchat.buffers.transactional.jobs import Job, done, finish, to_the_end
from streamchat.errors import BufferUnavailable, InvalidInput, StreamChatError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["ServerBackend"]

_LANES = 4
_GOODBYE_SECONDS = 2.0
R = TypeVar("R")


class ServerBackend:
    """`Backend` over a server database; ``engine`` is the caller's, which is left alone, or None."""

    def __init__(
        self, dialect: ServerDialect, url: URL, engine: AsyncEngine | None, settings: Settings
    ) -> None:
        self._dialect = dialect
        self._settings = settings
        self._given = engine
        self._url = url
        self._where = where_of(dialect.name, url)
        self._engine: AsyncEngine | None = None
        self._reads: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def open(self) -> None:
        """Connect, and make or check the tables."""
        dialect, settings = self._dialect, self._settings
        if self._given is not None:
            if not hasattr(self._given, "sync_engine"):
                raise InvalidInput(
                    f"a plain engine for {dialect.name}: SQLEventBuffer works with one of "
                    f"create_async_engine(…), or with the URL itself"
                )
            dialect.accept(self._given)
            engine = self._given
        else:
            # The writer, the poller and a ping beside those that read and change.
            engine = dialect.engine(self._url, settings.readers + _LANES + 2)
        self._engine = engine
        self._sessions = Sessions(engine, dialect, settings)
        self._lanes = Lanes(
            change=self._sessions.change,
            fault=dialect.fault,
            translate=self._translate_change,
            settle=self._settle,
            width=_LANES,
            seconds=settings.busy_seconds,
        )
        self._group = GroupWriter(
            write=self._write_together,
            translate=self._translate_change,
            settle=self._settle_all,
            left=self._lanes.go_on,
            rest=self._sessions.let_go,
        )
        self._watcher = Watcher(self._sessions, dialect, settings.followers, self._where)
        preparing = self._sessions.prepare(create=bool(settings.create_tables), where=self._where)
        try:
            await to_the_end(preparing)
        except Exception as error:
            await self._dispose()
            raise self._translate(error) from error
        except BaseException:
            await self._dispose()
            raise
        self._group.start()

    async def close(self) -> None:
        """Finish what is waiting, end all tasks and connections. A cancellation waits for that."""
        if not self._closed and self._engine is not None:
            self._closed = True
            await to_the_end(self._end())

    async def _end(self) -> None:
        try:
            await self._watcher.stop()
            await self._group.stop()
            await self._lanes.stop()
            if self._reads:
                await asyncio.wait(self._reads)
            await self._sessions.let_go()
        finally:
            await self._dispose()

    async def _dispose(self) -> None:
        if self._engine is not None and self._engine is not self._given:
            await to_the_end(_dispose(self._engine))

    # ---------------------------------------------------------------------------------- writing and reading

    async def write(self, job: Job[Tx, R]) -> R:
        """Have a job done: a plain batch together with others, all else alone."""
        return await done(job, self._put)

    def _put(self, job: Job[Tx, Any]) -> None:
        if self._closed:
            raise BufferUnavailable("the buffer is closed: open() it first")
        if isinstance(job, AppendJob) and job.plain:
            self._group.put(job)
        else:
            self._lanes.put(job)

    async def read(self, body: Callable[[Tx], R]) -> R:
        """Run ``body`` in a transaction that sees one moment."""
        return await self._reading(lambda: self._sessions.look(body))

    async def read_page(self, run_id: str, after: int, limit: int) -> Page:
        """Return a page of the log."""
        return await self._reading(lambda: self._sessions.page(run_id, after, limit))

    async def _reading(self, attempt: Callable[[], Awaitable[R]]) -> R:
        """Read in a task of our own, which goes on where its caller is cancelled: a connection that is let go
        in the midst of an answer is lost."""
        task = asyncio.create_task(self._read_twice(attempt), name="streamchat-sql-read")
        self._reads.add(task)
        task.add_done_callback(self._read)
        return await asyncio.shield(task)

    def _read(self, task: asyncio.Task[Any]) -> None:
        self._reads.discard(task)
        if not task.cancelled():
            task.exception()  # of which nobody needs to hear where the caller was cancelled

    async def _read_twice(self, attempt: Callable[[], Awaitable[R]]) -> R:
        """Read, and once more where the server turns out to have closed the connection meanwhile."""
        try:
            return await attempt()
        except StreamChatError:
            raise
        except Exception as error:
            if self._dialect.fault(error) != "gone":
                raise self._translate(error) from error
        try:
            return await attempt()
        except StreamChatError:
            raise
        except Exception as error:
            raise self._translate(error) from error

    def watch(self) -> None:
        """Begin to look out for what other processes write."""
        self._watcher.ensure()

    # -------------------------------------------------------------------------------------------- the parts

    async def _write_together(self, jobs: Sequence[AppendJob]) -> None:
        """Write batches in one transaction; those that could not be written get neither result nor error."""
        try:
            written = await self._sessions.append(jobs)
        except Exception as error:
            if self._dialect.fault(error) != "gone":
                if isinstance(error, TimeoutError):
                    raise self._translate_change(error) from error
                raise
            # The connection was lost. What had been written is found to be so, and the rest is written now.
            try:
                written = await self._sessions.append(jobs)
            except Exception as again:
                if self._dialect.fault(again) == "gone" or isinstance(again, TimeoutError):
                    raise self._translate_change(UnknownFate(again)) from again
                raise
        for job in jobs:
            outcome = written.get(job.run_id)
            if outcome is not None:
                job.result = accepted(job, outcome.at, outcome.unread)

    def _settle_all(self, jobs: Sequence[AppendJob]) -> None:
        self._settings.followers.notify([run_id for job in jobs for run_id in job.told()])
        for job in jobs:
            finish(job, self._put)

    def _settle(self, job: Job[Tx, Any]) -> None:
        self._settings.followers.notify(job.told())
        finish(job, self._put)

    def _translate_change(self, error: Exception) -> Exception:
        return self._translate(error, change=True)

    def _translate(self, error: Exception, *, change: bool = False) -> Exception:
        if isinstance(error, StreamChatError):
            return error
        if isinstance(error, UnknownFate):
            cause = str(error.__cause__ or (error.args[0] if error.args else error)).partition("\n")[0]
            return BufferUnavailable(
                f"{self._where}: the connection was lost before the answer came ({cause}); whether this "
                f"change was written is unknown: make the same call again"
            )
        if isinstance(error, TimeoutError):
            unknown = ". Whether this change was written is unknown:" if change else ", then"
            return BufferUnavailable(
                f"{self._where} gave no answer for {self._settings.busy_seconds:g} seconds: check the server "
                f"and the way to it{unknown} make the same call again"
            )
        return self._dialect.translate(error, self._where, change=change)


async def _dispose(engine: AsyncEngine) -> None:
    """Close an engine's connections; a server that is silent is not waited for for ever."""
    seconds = _GOODBYE_SECONDS
    for _ in range(engine.pool.size()):  # type: ignore[attr-defined]
        try:
            async with asyncio.timeout(seconds):
                await engine.dispose()
        except TimeoutError:
            # That connection was thrown away, and the others are likely to be no better.
            seconds = _GOODBYE_SECONDS / 10
            continue
        return
