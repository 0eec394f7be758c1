"""What PostgreSQL's errors mean: whether trying again may help, and what people are to do."""

from __future__ import annotations

from typing import cast

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from streamchat.buffers import refusals
from streamchat.buffers.sql.dialect import Fault
from streamchat.errors import BufferUnavailable, InvalidInput, StreamChatError

__all__ = ["fault", "translate"]

_LOCKED = {"55P03", "40P01", "40001"}
_CLASH = {"23505"}
# The driver's own: the connection is closed, or in no state to be used. One that breaks between the two
# halves of a statement is left in the first one's state, and says so by an internal error.
_DRIVERS = (asyncpg.InterfaceError, asyncpg.InternalClientError)
_GONE = {"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"}

# By SQLSTATE, or by its class; https://www.postgresql.org/docs/current/errcodes-appendix.html
_REMEDIES = {
    "28P01": "the password is wrong: check the user and the password in the URL",
    "28": "the server lets this user not in: check the user in the URL, and the server's pg_hba.conf",
    "3D000": "there is no such database: create it (createdb), or name another one in the URL",
    "42501": "the user lacks a privilege: it needs SELECT, INSERT, UPDATE and DELETE on the tables, USAGE on "
    "their sequences, and CREATE on the schema where it is to make them",
    "42P01": "tables are missing: run `streamchat migrate`",
    "42703": "the tables are of another version: run `streamchat migrate`",
    "3F000": "the schema is missing: check the search_path of this user",
    "25006": "it cannot be written: connect to the primary, not to a standby",
    "26000": "a prepared statement is gone: with a pooler by transaction, set max_prepared_statements in it "
    "(PgBouncer 1.21 or later), or pool by session",
    "42P05": "a prepared statement is there already: with a pooler by transaction, set "
    "max_prepared_statements in it (PgBouncer 1.21 or later), or pool by session",
    "53100": "the disk is full: make room, try again",
    "53200": "the server has no memory left: bound what is stored or read at once",
    "53300": "the server has too many connections: raise max_connections, or use a pooler",
    "53": "the server has run out of something: see its log",
    "54": "a batch or a message is larger than PostgreSQL takes: bound what is stored",
    "55P03": "another transaction holds a lock that is needed for too long: find out which (pg_locks), or "
    "try again later",
    "40P01": "transactions block each other for too long: find out which, or try again later",
    "57014": "the statement was ended by an administrator, or by statement_timeout",
    "57P03": "the server is starting up or shutting down: try again in a moment",
    "57P": "the server was shut down: check that it runs again",
    "08": "the connection was lost: check the server and the way to it",
    "58": "the server failed at its disk: see its log",
    "XX": "the server found an error in itself or in its files: see its log",
}


def fault(error: BaseException) -> Fault | None:
    """See `ServerDialect.fault`."""
    cause = _cause(error)
    state = _state(cause)
    if state in _LOCKED:
        return "locked"
    if state in _CLASH:
        return "clash"
    if state in _GONE or state.startswith("08"):
        return "gone"
    if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
        return "gone"
    if isinstance(cause, _DRIVERS) and not isinstance(cause, ValueError):
        return "gone"
    return None


def translate(error: Exception, where: str, *, change: bool) -> Exception:
    """See `ServerDialect.translate`."""
    cause = _cause(error)
    state = _state(cause)
    if isinstance(cause, StreamChatError):
        return cause
    if isinstance(cause, (asyncpg.DataError, asyncpg.exceptions.DataError)) or state.startswith("22"):
        told: Exception = refusals.cannot_be_stored(cast(Exception, cause))
    elif isinstance(cause, asyncpg.ClientConfigurationError):
        told = InvalidInput(f"{where}: the URL cannot be used: {cause}")
    elif isinstance(cause, PoolTimeout):
        told = BufferUnavailable(
            f"{where}: no connection of the engine's pool was free: give it a larger pool_size"
        )
    elif isinstance(cause, asyncpg.PostgresError):
        known = (_REMEDIES.get(state[:length]) for length in (5, 3, 2))
        remedy = next(filter(None, known), "see the cause")
        said = str(cause).partition("\n")[0]  # the driver's own hints are for other programs
        told = BufferUnavailable(f"{where}: {said}; {remedy}{refusals.unwritten(change)}")
    elif isinstance(cause, (OSError, *_DRIVERS)):
        told = BufferUnavailable(
            f"{where} cannot be reached ({cause}): check that the server runs, that host and port are right, "
            f"and the way to it"
        )
    else:
        return error
    told.__cause__ = cause
    return told


def _cause(error: BaseException) -> BaseException:
    """Return the driver's own error."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    inner = error.__cause__
    if inner is not None and isinstance(inner, (asyncpg.PostgresError, OSError, *_DRIVERS)):
        return inner
    return error


def _state(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""
