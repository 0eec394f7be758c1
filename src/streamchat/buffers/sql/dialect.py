"""What a server database brings: `ServerDialect`, its own half of everything that `server` does for all of
them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from sqlalchemy import URL, Connection, Executable

from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.transactional.appending import AppendJob
from streamchat.buffers.transactional.hot import PageRows

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Accepted", "Fault", "ServerDialect"]

Fault: TypeAlias = Literal["locked", "clash", "gone"]
"""What trying again may help against: ``locked``, somebody else holds a row (or a deadlock was broken up);
``clash``, somebody else was first with a unique key; ``gone``, the connection is no longer there."""


class Accepted(NamedTuple):
    """What became of a batch that was written: when, by the database's clock, and the run's unread inputs."""

    at: int
    unread: int


class ServerDialect(Protocol):
    """One kind of server. ``raw`` is the driver's own connection; each method is at most one transaction."""

    schema: Schema
    name: str
    """For people."""
    reading: Mapping[str, Any]
    """SQLAlchemy's execution options for a transaction that sees one moment."""
    announces: bool
    """Whether news can be announced and heard; where not, everybody looks for it."""

    def engine(self, url: URL, connections: int) -> AsyncEngine:
        """Return an engine of our own for ``url`` with at most so many connections.

        Raises `MissingDependency` without the driver, `InvalidInput` for a URL that cannot be meant.
        """
        ...

    def accept(self, engine: AsyncEngine) -> None:
        """Raise `InvalidInput` for a caller's engine that cannot be used."""
        ...

    def begin(self, lock_seconds: float | None) -> Executable:
        """Return the first statement of a transaction, which gives the database's time in milliseconds.

        With ``lock_seconds`` it also bounds each wait for a lock in this transaction; None: it only reads.
        """
        ...

    def prepare(self, connection: Connection, *, create: bool, where: str) -> None:
        """Check that the server can be worked with, and make or check the tables (`migrations.prepare`).

        Raises `BufferUnavailable` with what to do.
        """
        ...

    async def append(self, raw: Any, jobs: Sequence[AppendJob], now: int | None) -> dict[str, Accepted]:
        """Write plain batches, at most one for each run, in one transaction; return those that were written.

        A batch is written if and only if the stored generation and head are its lease's, the run has a
        holder, and nobody else has locked the run's row: this never waits for a row. ``now`` is the time to
        use instead of the database's (tests). What is raised means that it is unknown whether they were
        written, or that they were not: sending them again is right in both cases.
        """
        ...

    async def page(self, raw: Any, run_id: str, after: int, limit: int) -> PageRows | None:
        """Read a page, true of one moment; see `HotPath.page`."""
        ...

    async def heads(self, raw: Any, run_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return (head_seq, posted) of those runs that are stored; asked every moment while others poll."""
        ...

    def tell(self, connection: Connection, run_ids: Collection[str]) -> None:
        """Announce news to other processes, as part of the connection's transaction."""
        ...

    async def listen(
        self,
        raw: Any,
        heard: Callable[[Sequence[str]], None],
        pinged: Callable[[str], None],
        lost: Callable[[], None],
    ) -> None:
        """Begin to hear, on a connection of its own, what is announced; only where ``announces``.

        ``heard`` is called with runs of which others have news, ``pinged`` with what `ping` said;
        ``lost`` when the connection ends.
        """
        ...

    async def ping(self, raw: Any, word: str) -> None:
        """Say something to the connection that listens, by another one."""
        ...

    def closed(self, raw: Any) -> bool:
        """Say whether the driver knows already that the connection is gone."""
        ...

    def fault(self, error: BaseException) -> Fault | None:
        """Say what kind of failure this is, as far as trying again may help."""
        ...

    def translate(self, error: Exception, where: str, *, change: bool = False) -> Exception:
        """Return the error that callers are to see: what went wrong, where, and the remedy.

        ``change`` says that something was to be written.
        """
        ...
