"""`SQLEventBuffer`: events in a SQL database, so far SQLite. Needs the extra ``sqlite``."""

from __future__ import annotations

from streamchat.errors import MissingDependency

try:
    import sqlalchemy  # noqa: F401
except ImportError as error:
    raise MissingDependency("SQLEventBuffer", "sqlite", "sqlalchemy") from error

from streamchat.buffers.sql.buffer import SQLEventBuffer
from streamchat.buffers.sql.sqlite import SQLiteVersionWarning

__all__ = ["SQLEventBuffer", "SQLiteVersionWarning"]
