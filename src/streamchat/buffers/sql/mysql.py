"""MariaDB and MySQL through asyncmy: their `ServerDialect`. Needs the extra ``mysql``.

Written for MariaDB 10.6 and MySQL 8.0.17 and later; what can be run in this project's tests is MariaDB.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import URL, Connection, Executable, event, text

from streamchat.buffers.sql import migrations
from streamchat.buffers.sql.dialect import Accepted, Fault
from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.transactional.appending import AppendJob
from streamchat.buffers.transactional.hot import PageRows
from streamchat.errors import BufferUnavailable, InvalidInput, MissingDependency

try:
    import asyncmy  # noqa: F401
except ImportError as error:
    raise MissingDependency("SQLEventBuffer on MariaDB and MySQL", "mysql", "asyncmy") from error
try:
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
except ImportError as error:
    raise MissingDependency("SQLEventBuffer on MariaDB and MySQL", "mysql", "greenlet") from error

from streamchat.buffers.sql import mysql_errors
from streamchat.buffers.sql.mysql_sql import CLOCK, Statements, check_size

__all__ = ["CONNECT_ARGS", "MySQL"]

_OLDEST_MARIADB = (10, 6)
_OLDEST_MYSQL = (8, 0, 17)
_DRIVERS = ("mysql", "mariadb", "mysql+asyncmy", "mariadb+asyncmy")
_LOCK_SECONDS = 5
_SNAPSHOT = f"SELECT {CLOCK} AS snapshot"
"""The first statement of a transaction that only reads."""

CONNECT_ARGS: Mapping[str, Any] = {
    # What does not fit is refused, never cut. Waits for a row are short, as trying again is ours to do (at 0,
    # MariaDB 10.11 fails with error 1180 where SKIP LOCKED should skip); a wait for a table that somebody
    # changes has an end. A process that is frozen in the midst of a transaction does not keep its rows from
    # others for more than ten seconds, as far as the server knows how (MySQL does not).
    "init_command": "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', "
    "lock_wait_timeout = 60, innodb_lock_wait_timeout = 1 /*M!100301 , idle_transaction_timeout = 10 */",
}
"""How a session must be set up, for engines of the caller's own."""


class MySQL:
    """`ServerDialect` of MariaDB and MySQL; one object for each buffer."""

    announces = False

    def __init__(self, schema: Schema, name: str = "MySQL") -> None:
        self.schema = schema
        self.name = name
        # On engines of our own `_before` does it, in one round trip and not in four.
        self.reading: Mapping[str, Any] = {}
        self._statements = Statements(schema.prefix)

    def engine(self, url: URL, connections: int) -> AsyncEngine:
        """Return an engine of our own."""
        if url.drivername not in _DRIVERS or not url.database:
            raise InvalidInput(
                f"{url.render_as_string(hide_password=True)!r}: SQLEventBuffer works with asyncmy and a "
                f"database, as in mysql://user:password@host/database"
            )
        engine = create_async_engine(
            # This one works on MariaDB too, and finds out which it is.
            url.set(drivername="mysql+asyncmy"),
            connect_args=dict(CONNECT_ARGS),
            isolation_level="READ COMMITTED",
            pool_size=connections,
            max_overflow=0,
            pool_use_lifo=True,
        )
        event.listen(engine.sync_engine, "before_cursor_execute", self._before, retval=True)
        return engine

    def _before(
        self, _: Any, cursor: Any, statement: str, parameters: Any, __: Any, executemany: bool
    ) -> tuple[str, Any]:
        if statement == _SNAPSHOT:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for values in parameters if executemany else [parameters]:
            check_size(values, self._statements.packet)
        # A row that somebody holds is not waited for here, on a connection that others could use.
        return f"{statement} NOWAIT" if statement.endswith("FOR UPDATE") else statement, parameters

    def accept(self, engine: AsyncEngine) -> None:
        """Refuse engines with another driver."""
        if engine.dialect.driver != "asyncmy":
            raise InvalidInput(
                f"an engine for {engine.dialect.name} with the driver {engine.dialect.driver}: "
                f"SQLEventBuffer works with create_async_engine('mysql+asyncmy://…'), or with the URL itself"
            )
        self.reading = {"isolation_level": "REPEATABLE READ"}

    def begin(self, lock_seconds: float | None) -> Executable:
        """Return the statement that tells the time; how long locks are waited for is the session's."""
        return text(_SNAPSHOT if lock_seconds is None else f"SELECT {CLOCK}")

    def prepare(self, connection: Connection, *, create: bool, where: str) -> None:
        """Check the server and the session, and make or check the tables."""
        _check_version(connection, where)
        mode, seconds, packet = connection.exec_driver_sql(
            "SELECT @@sql_mode, @@innodb_lock_wait_timeout, @@max_allowed_packet"
        ).one()
        modes = set(mode.split(","))
        if (
            not modes & {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES"}
            or "NO_BACKSLASH_ESCAPES" in modes
            or seconds > _LOCK_SECONDS
            or connection.get_isolation_level() != "READ COMMITTED"
        ):
            raise InvalidInput(
                f"{where}: the engine's sessions are not set up for SQLEventBuffer: make it with "
                f"create_async_engine(…, isolation_level='READ COMMITTED', "
                f"connect_args=streamchat.buffers.sql.mysql.CONNECT_ARGS), or give the URL itself"
            )
        self._statements.packet = int(packet)
        migrations.prepare(connection, self.schema, create=create, where=where)
        self._check_privileges(connection)

    def _check_privileges(self, connection: Connection) -> None:
        """Do what will be done, to no row: a missing privilege, or a replica, is told now and not later."""
        for table in self.schema.metadata.sorted_tables:
            name, column = table.name, next(iter(table.columns)).name
            connection.exec_driver_sql(f"INSERT INTO `{name}` SELECT * FROM `{name}` WHERE 1 = 0")
            connection.exec_driver_sql(f"UPDATE `{name}` SET `{column}` = `{column}` WHERE 1 = 0")
            connection.exec_driver_sql(f"DELETE FROM `{name}` WHERE 1 = 0")

    async def append(self, raw: Any, jobs: Sequence[AppendJob], now: int | None) -> dict[str, Accepted]:
        """Write plain batches in one transaction."""
        return await self._statements.append(raw, jobs, now)

    async def page(self, raw: Any, run_id: str, after: int, limit: int) -> PageRows | None:
        """Read a page in one statement."""
        return await self._statements.page(raw, run_id, after, limit)

    async def heads(self, raw: Any, run_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return where runs are."""
        return await self._statements.heads(raw, run_ids)

    def tell(self, connection: Connection, run_ids: Collection[str]) -> None:
        """Do nothing: there is no way to announce anything, and others poll."""

    async def listen(
        self,
        raw: Any,
        heard: Callable[[Sequence[str]], None],
        pinged: Callable[[str], None],
        lost: Callable[[], None],
    ) -> None:
        """Do nothing: nothing is ever announced."""

    async def ping(self, raw: Any, word: str) -> None:
        """Do nothing: nobody listens."""

    def closed(self, raw: Any) -> bool:
        """Say whether the connection is gone."""
        # What the server closed while nobody was looking, only the second one tells.
        return not raw.connected or bool(getattr(raw, "_stream_broken", False))

    def fault(self, error: BaseException) -> Fault | None:
        """Say what kind of failure this is."""
        return mysql_errors.fault(error)

    def translate(self, error: Exception, where: str, *, change: bool = False) -> Exception:
        """Return what callers are to see."""
        return mysql_errors.translate(error, where, change=change)


def _check_version(connection: Connection, where: str) -> None:
    dialect: Any = connection.dialect
    version = dialect.server_version_info
    name, oldest = ("MariaDB", _OLDEST_MARIADB) if dialect.is_mariadb else ("MySQL", _OLDEST_MYSQL)
    if version < oldest:
        raise BufferUnavailable(
            f"{where}: {name} {'.'.join(map(str, version))} is too old, "
            f"{'.'.join(map(str, oldest))} or later is needed"
        )
