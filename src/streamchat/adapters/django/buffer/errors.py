"""What a database's failure means: whether trying again may help, and what callers are told."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from django.db import DataError, IntegrityError, InterfaceError, OperationalError, ProgrammingError
from django.db import Error as DatabaseFailure

from streamchat.buffers import refusals
from streamchat.errors import BufferUnavailable, StreamChatError

__all__ = ["Fault", "fault_of", "translate"]

Fault: TypeAlias = Literal["locked", "deadlock", "clash", "gone"]
"""What trying again may help against: ``locked``, somebody else holds a row or the database; ``deadlock``,
each of two held what the other wanted, and the database has sent this one away; ``clash``, somebody else was
first with a unique key; ``gone``, the connection is no longer there."""

# By SQLSTATE, and MySQL's by number.
_DEADLOCK = {"40001", "40P01", 1020, 1213}
_LOCK_TIMEOUT = {"55P03", 1205, 3572}
_BUSY, _LOCKED = 5, 6


def fault_of(error: BaseException, connection: Any, before: Any) -> Fault | None:
    """Return what kind of failure this was, as far as trying again may help.

    ``before`` is the driver's connection as it was: where that broke in a transaction, Django may have made
    another by now.
    """
    if isinstance(error, IntegrityError):
        return "clash"
    if not isinstance(error, OperationalError | InterfaceError):
        return None
    cause = error.__cause__ or error
    if getattr(cause, "sqlite_errorcode", 0) & 0xFF in (_BUSY, _LOCKED):
        return "locked"
    number = cause.args[0] if cause.args else None
    codes = {getattr(cause, "sqlstate", None), number}
    if codes & _DEADLOCK:
        return "deadlock"
    if codes & _LOCK_TIMEOUT:
        return "locked"
    return None if connection.connection is before and connection.is_usable() else "gone"


def translate(error: Exception, where: str, *, change: bool = False) -> Exception:
    """Return what callers get to see: what went wrong, where, and the remedy.

    ``change`` says that something was to be written.
    """
    if isinstance(error, StreamChatError):
        return error
    no_text = isinstance(error, UnicodeEncodeError | DataError)
    if no_text or (isinstance(error, ValueError) and "NUL" in str(error)):
        told: Exception = refusals.cannot_be_stored(error)
    elif isinstance(error, ProgrammingError | OperationalError) and _no_table(error):
        told = BufferUnavailable(f"{where} has no tables for streamchat: run `manage.py migrate` first")
    elif isinstance(error, DatabaseFailure):
        written = ". Nothing of this change was written, or all of it" if change else ""
        told = BufferUnavailable(f"{where}: {error}{written}")
    else:
        return error
    told.__cause__ = error
    return told


def _no_table(error: Exception) -> bool:
    cause = error.__cause__ or error
    number = cause.args[0] if cause.args else None
    return getattr(cause, "sqlstate", None) == "42P01" or number == 1146 or "no such table: " in str(cause)
