"""What `SQLEventBuffer` needs of a kind of database, and which kind a URL names."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError

from streamchat.buffers.base import Page
from streamchat.buffers.sql.dialect import ServerDialect
from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.sql.settings import Given, Settings
from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.transactional.jobs import Job
from streamchat.errors import InvalidInput

if TYPE_CHECKING:
    # Importing it needs greenlet, which SQLite does without.
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = [
    "Backend",
    "backend_for",
    "check_given",
    "dialect_for",
    "parsed",
]

R = TypeVar("R")


class Backend(Protocol):
    """One database, from `open` to `close`; it is used once."""

    async def open(self) -> None:
        """Connect, and make or check the tables; leaves nothing behind where it fails."""
        ...

    async def close(self) -> None:
        """Finish what is waiting, then end all threads, tasks and connections; idempotent."""
        ...

    def write(self, job: Job[Tx, R]) -> Coroutine[Any, Any, R]:
        """Have a job done; tell followers here and elsewhere of its news."""
        ...

    async def read(self, body: Callable[[Tx], R]) -> R:
        """Run ``body`` in a transaction that sees one moment."""
        ...

    async def read_page(self, run_id: str, after: int, limit: int) -> Page:
        """See `EventBuffer.read`."""
        ...

    def watch(self) -> None:
        """Begin to look out for what other processes write, if that is not so yet."""
        ...


def backend_for(given: Given, settings: Settings) -> Backend:
    """Return the backend for a URL or an engine, not yet open.

    Raises `InvalidInput` for what is no database URL, or one of another kind; `MissingDependency` where the
    driver is not installed.
    """
    url = parsed(given) if isinstance(given, str) else given.url
    dialect = dialect_for(url, settings.schema)
    if dialect is None:
        from streamchat.buffers.sql.sqlite_backend import SQLiteBackend

        return SQLiteBackend(given, settings)
    from streamchat.buffers.sql.server import ServerBackend

    engine = None if isinstance(given, str) else cast("AsyncEngine", given)
    return ServerBackend(dialect, url, engine, settings)


def dialect_for(url: URL, schema: Schema) -> ServerDialect | None:
    """Return the dialect of a server database, or None for SQLite; raises as `backend_for`."""
    kind = url.get_backend_name()
    if kind == "sqlite":
        return None
    if kind in ("postgresql", "postgres"):
        from streamchat.buffers.sql.postgres import PostgreSQL

        return PostgreSQL(schema)
    if kind in ("mysql", "mariadb"):
        from streamchat.buffers.sql.mysql import MySQL

        return MySQL(schema, "MySQL" if kind == "mysql" else "MariaDB")
    shown = url.render_as_string(hide_password=True)
    raise InvalidInput(
        f"{shown!r}: SQLEventBuffer works on SQLite (sqlite:///chat.db), "
        f"PostgreSQL (postgresql://user:password@host/database), MariaDB and MySQL (mysql://…)"
    )


def check_given(given: object) -> None:
    """Raise `InvalidInput` for what is neither a database URL nor an engine."""
    if not isinstance(given, Engine) and not isinstance(getattr(given, "sync_engine", None), Engine):
        parsed(given)


def parsed(url: object) -> URL:
    """Return the parts of a database URL; raises `InvalidInput` where it is none."""
    if not isinstance(url, str):  # told without its content, which could be a password
        raise InvalidInput(
            f"the database URL is of type {type(url).__name__}: give text like sqlite:///chat.db or "
            f"postgresql://user:password@host/database, or a SQLAlchemy engine (where it comes from an "
            f"environment variable, see that this is set)",
            field="url",
        )
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        # Nothing is shown that could be a password.
        shown = url if "@" not in url else f"…@{url.rpartition('@')[2]}"
        raise InvalidInput(
            f"{shown!r} is no database URL: a file is named as sqlite:///chat.db, "
            f"a server as postgresql://user:password@host/database",
            field="url",
        ) from error
