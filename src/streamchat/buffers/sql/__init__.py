"""`SQLEventBuffer`: events in a SQL database. Needs the extra ``sqlite``, ``postgres`` or ``mysql``."""

from __future__ import annotations

from streamchat.errors import MissingDependency

try:
    import sqlalchemy  # noqa: F401
except ImportError as error:
    raise MissingDependency(
        "SQLEventBuffer on SQLite (on PostgreSQL the extra is postgres, on MariaDB and MySQL mysql)",
        "sqlite",
        "sqlalchemy",
    ) from error

from streamchat.buffers.sql.buffer import SQLEventBuffer
from streamchat.buffers.sql.migrating import Migrated, migrate
from streamchat.buffers.sql.sqlite import SQLiteVersionWarning

__all__ = ["Migrated", "SQLEventBuffer", "SQLiteVersionWarning", "migrate"]
