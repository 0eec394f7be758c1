"""What MySQL's and MariaDB's errors mean: whether trying again may help, and what people are to do."""

from __future__ import annotations

import asyncmy.errors
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from streamchat.buffers import refusals
from streamchat.buffers.sql.dialect import Fault
from streamchat.errors import BufferUnavailable, StreamChatError

__all__ = ["fault", "too_large", "translate"]

# Lock wait timeout, deadlock, lock not available at once, changed since the snapshot (MariaDB 11.6).
_LOCKED = {1205, 1213, 3572, 1020}
_CLASH = {1062}
# Shutdown, killed, idle for too long, lost, gone, out of step.
_GONE = {1053, 1927, 4031, 2006, 2013, 2014}

# https://mariadb.com/kb/en/mariadb-error-code-reference/, https://dev.mysql.com/doc/mysql-errors/8.0/en/
_REMEDIES = {
    1020: "it was changed at the same moment, again and again: try again later",
    1021: "the disk is full: make room, try again",
    1030: "the storage engine failed, often for want of space: see the server's log",
    1037: "the server has no memory left: bound what is stored or read at once",
    1040: "the server has too many connections: raise max_connections, or lower `readers`",
    1044: "this user may not use the database: GRANT it SELECT, INSERT, UPDATE and DELETE on its tables",
    1045: "the user or the password is wrong: check both in the URL, and from which host the user may come",
    1049: "there is no such database: create it, or name another one in the URL",
    1053: "the server was shut down: check that it runs again",
    1054: "the tables are of another version: run `streamchat migrate`",
    1114: "the disk, or the size that the table is allowed, is full: make room, try again",
    1129: "the server has blocked this host after failed attempts: FLUSH HOSTS there",
    1130: "the server lets nobody in from this host: CREATE USER for it",
    1142: "the user lacks a privilege: it needs SELECT, INSERT, UPDATE and DELETE on the tables, and CREATE, "
    "ALTER and INDEX on the database where it is to make them",
    1146: "tables are missing: run `streamchat migrate`",
    1203: "this user has too many connections: raise max_user_connections, or lower `readers`",
    1205: "another transaction holds a lock that is needed for too long: find out which "
    "(SHOW ENGINE INNODB STATUS), or try again later",
    1213: "transactions block each other for too long: find out which, or try again later",
    1226: "this user has used up what it is allowed: raise its limits",
    1290: "it cannot be written: connect to the primary, not to a replica",
    1317: "the statement was ended by an administrator",
    1698: "the server lets this user in by its system account only: use a user with a password",
    1836: "it cannot be written: connect to the primary, not to a replica",
    1927: "the connection was ended by an administrator",
    1969: "the statement was ended by max_statement_time",
    2006: "the connection was lost: check the server and the way to it",
    2013: "the connection was lost: check the server and the way to it",
    3024: "the statement was ended by max_execution_time",
}
# Data too long, a value that its column cannot hold.
_BAD_VALUE = {1264, 1366, 1406}
_TOO_LARGE = {1118, 1153}


def fault(error: BaseException) -> Fault | None:
    """See `ServerDialect.fault`."""
    cause = _cause(error)
    code = _code(cause)
    if code in _LOCKED:
        return "locked"
    if code in _CLASH:
        return "clash"
    if code in _GONE or isinstance(cause, asyncmy.errors.InterfaceError):
        return "gone"  # the driver's own: the connection is closed
    if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
        return "gone"
    return None


def too_large(size: int, allowed: int) -> BufferUnavailable:
    """Return the error for a statement of ``size`` bytes where the server takes ``allowed``."""
    return BufferUnavailable(
        f"a batch or a message of {size} bytes is larger than the server takes: raise max_allowed_packet "
        f"(now {allowed}) there, or bound what is stored. Nothing of this change was written"
    )


def translate(error: Exception, where: str, *, change: bool) -> Exception:
    """See `ServerDialect.translate`."""
    cause = _cause(error)
    code = _code(cause)
    if isinstance(cause, StreamChatError):
        return cause
    if isinstance(cause, UnicodeEncodeError) or (isinstance(cause, Exception) and code in _BAD_VALUE):
        told: Exception = refusals.cannot_be_stored(cause)
    elif isinstance(cause, PoolTimeout):
        told = BufferUnavailable(
            f"{where}: no connection of the engine's pool was free: give it a larger pool_size"
        )
    elif code in _TOO_LARGE:
        told = BufferUnavailable(
            f"{where}: {_text(cause)}; a batch or a message is larger than the server takes: raise "
            f"max_allowed_packet there, or bound what is stored{refusals.unwritten(change)}"
        )
    elif code == 2003 or isinstance(cause, (OSError, asyncmy.errors.InterfaceError)):
        told = BufferUnavailable(
            f"{where} cannot be reached ({_text(cause)}): check that the server runs, that host and port are "
            f"right, and the way to it"
        )
    elif isinstance(cause, asyncmy.errors.MySQLError):
        remedy = _REMEDIES.get(code, "see the cause")
        told = BufferUnavailable(f"{where}: {_text(cause)}; {remedy}{refusals.unwritten(change)}")
    else:
        return error
    told.__cause__ = cause
    return told


def _cause(error: BaseException) -> BaseException:
    """Return the driver's own error."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _code(error: BaseException) -> int:
    code = error.args[0] if isinstance(error, asyncmy.errors.MySQLError) and error.args else 0
    return code if isinstance(code, int) else 0


def _text(error: BaseException) -> str:
    return str(error.args[-1]) if error.args else type(error).__name__
