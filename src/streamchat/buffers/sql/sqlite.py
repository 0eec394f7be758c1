"""SQLite: how its connections are opened, its transactions begun and its errors told.

All writing goes through one connection on one thread, in WAL mode, where readers never wait for it. A
transaction begins with BEGIN IMMEDIATE: a deferred one that turns to writing fails whenever somebody else
wrote in between. Where another process is writing, BEGIN is tried again after a random 0.1 to 2 ms; SQLite's
own busy handler sleeps by a fixed scheme and starved one of two processes for seconds.
"""

from __future__ import annotations

import random
import sqlite3
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import unquote

from sqlalchemy import Connection, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import StaticPool

from streamchat.buffers import refusals
from streamchat.errors import BufferUnavailable, InvalidInput, StreamChatError

__all__ = [
    "SQLiteVersionWarning",
    "begin_immediate",
    "connect",
    "engine_for",
    "file_of",
    "in_memory",
    "translate",
    "warn_of_version",
]

R = TypeVar("R")

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_OLDEST = (3, 35, 0)

_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk, or the size that the database is allowed, is full: make room, try again",
    sqlite3.SQLITE_READONLY: "it cannot be written: check the permissions of the file and of its directory",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its directory exists and may be written to",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database: name another file",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore a backup, or run `.recover` of sqlite3",
    sqlite3.SQLITE_IOERR: "reading or writing it failed: check the disk (network file systems do not work)",
    sqlite3.SQLITE_BUSY: "another process has been writing for too long: find out which, or try again later",
    sqlite3.SQLITE_LOCKED: "another connection holds it locked: find out which, or try again later",
    sqlite3.SQLITE_PERM: "access was refused: check the permissions of the file",
    sqlite3.SQLITE_TOOBIG: "a batch or a message is larger than SQLite takes: bound what is stored",
    sqlite3.SQLITE_NOMEM: "there is no memory left: bound what is stored or read at once",
}


class SQLiteVersionWarning(UserWarning):
    """The SQLite that Python was built with has a bug which can damage a database in WAL mode."""


def warn_of_version(version: tuple[int, int, int]) -> None:
    """Warn where ``version`` has the WAL-reset bug; see https://www.sqlite.org/wal.html#walresetbug."""
    if (3, 7, 0) <= version <= (3, 51, 2):
        warnings.warn(
            f"SQLite {'.'.join(map(str, version))} has the WAL-reset bug (3.7.0 to 3.51.2): very rarely, two "
            f"connections that write and checkpoint at the same moment damage the database. "
            f"Use a Python with SQLite 3.51.3 or later, and keep backups",
            SQLiteVersionWarning,
            stacklevel=3,
        )


def engine_for(url: str) -> Engine:
    """Return an engine for an SQLite URL (``sqlite:///relative.db``, ``sqlite:////absolute.db``,
    ``sqlite://``).

    Raises `InvalidInput` for any other.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInput(f"{url!r} is no database URL: a file is named as sqlite:///chat.db") from error
    if parsed.get_backend_name() != "sqlite":
        shown = parsed.render_as_string(hide_password=True)
        raise InvalidInput(f"{shown!r}: SQLEventBuffer works on SQLite so far, as in sqlite:///chat.db")
    # An async driver would be of no use: the hot path is the standard library's own on a thread.
    parsed = parsed.set(drivername="sqlite")
    arguments = {"check_same_thread": False, "timeout": 0}
    if _names_memory(parsed.database, dict(parsed.query)):
        return create_engine(parsed, poolclass=StaticPool, connect_args=arguments)
    directory = Path(str(parsed.database)).absolute().parent
    if not str(parsed.database).startswith("file:") and not directory.is_dir():
        raise BufferUnavailable(
            f"the directory {str(directory)!r} of {url!r} does not exist: create it first"
        )
    return create_engine(parsed, connect_args=arguments)


def file_of(engine: Engine) -> Path | None:
    """Return the engine's file; None where the database lives in memory."""
    if in_memory(engine):
        return None
    name = str(engine.url.database)
    return (
        Path(unquote(name.removeprefix("file:").partition("?")[0]))
        if name.startswith("file:")
        else Path(name)
    )


def in_memory(engine: Engine) -> bool:
    """Say whether the engine's database lives in memory, in its one connection.

    Raises `InvalidInput` for engines that this buffer cannot use.
    """
    if engine.dialect.name != "sqlite" or engine.dialect.is_async:
        raise InvalidInput(
            f"an engine for {engine.dialect.name} with the driver {engine.dialect.driver}: "
            f"SQLEventBuffer works on SQLite with a plain engine, or with the URL itself"
        )
    if not _names_memory(engine.url.database, dict(engine.url.query)):
        return False
    if not isinstance(engine.pool, StaticPool):
        raise InvalidInput(
            "an engine for SQLite in memory gives each thread a database of its own: "
            "use the URL sqlite:// or a file, or create_engine(…, poolclass=StaticPool)"
        )
    return True


def _names_memory(database: str | None, query: dict[str, object]) -> bool:
    return (database or ":memory:") in (":memory:", "file::memory:") or query.get("mode") == "memory"


def connect(engine: Engine, *, writes: bool) -> tuple[Connection, sqlite3.Connection]:
    """Return a connection of our own, outside of the pool, and the driver's below it.

    SQLAlchemy begins and ends no transaction on it. Raises what the driver raises.
    """
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    if not in_memory(engine):
        connection.detach()
    raw = cast(sqlite3.Connection, connection.connection.dbapi_connection)
    try:
        _prepare(raw, writes=writes, memory=in_memory(engine))
    except BaseException:
        connection.close()
        raise
    return connection, raw


def _prepare(raw: sqlite3.Connection, *, writes: bool, memory: bool) -> None:
    if sqlite3.sqlite_version_info < _OLDEST:
        raise BufferUnavailable(
            f"SQLite {sqlite3.sqlite_version} is too old: {'.'.join(map(str, _OLDEST))} or later is needed"
        )
    if not writes:
        raw.execute("PRAGMA busy_timeout = 5000")
        raw.execute("PRAGMA query_only = ON")
        return
    raw.execute("PRAGMA busy_timeout = 0")
    (mode,) = retry(lambda: raw.execute("PRAGMA journal_mode = WAL").fetchone(), 10.0)
    if mode != "wal" and not memory:
        raise BufferUnavailable(
            f"the database stays in journal mode {mode!r}, not WAL: it must lie on a local disk, "
            f"and no other program may hold it open in another mode"
        )
    # Checkpoints reset the file; this gives back what a burst made it grow.
    raw.execute("PRAGMA journal_size_limit = 67108864")


def begin_immediate(raw: sqlite3.Connection, seconds: float) -> None:
    """Begin to write, trying for ``seconds`` while others do; raises `sqlite3.OperationalError` after
    that."""
    try:
        raw.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if _primary_code(error) not in _BUSY:
            raise
        retry(lambda: raw.execute("BEGIN IMMEDIATE"), seconds)


def retry(attempt: Callable[[], R], seconds: float) -> R:
    """Try until it does not fail for being locked out by others, or ``seconds`` are over."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            if _primary_code(error) not in _BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(0.0001, 0.002))


def translate(error: Exception, where: str, *, change: bool = False) -> Exception:
    """Return what callers get to see of a database's error: what went wrong, where, and the remedy.

    ``change`` says that something was to be written.
    """
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if isinstance(cause, StreamChatError):
        return cause
    if isinstance(cause, UnicodeEncodeError):
        told: Exception = refusals.cannot_be_stored(cause)
    elif isinstance(cause, sqlite3.Error):
        remedy = _REMEDIES.get(_primary_code(cause), "see the cause")
        told = BufferUnavailable(f"{where}: {cause}; {remedy}{refusals.unwritten(change)}")
    else:
        return error
    told.__cause__ = cause
    return told


def _primary_code(error: BaseException) -> int:
    # The higher bits say more than we need to know.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
