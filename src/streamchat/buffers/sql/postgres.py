"""PostgreSQL through asyncpg: its `ServerDialect`. Needs the extra ``postgres``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import URL, Connection, Executable, literal_column, select, text

from streamchat.buffers.sql.dialect import Accepted, Fault
from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.transactional.appending import AppendJob
from streamchat.buffers.transactional.hot import PageRows
from streamchat.errors import BufferUnavailable, InvalidInput, MissingDependency

try:
    import asyncpg  # type: ignore[import-untyped]  # noqa: F401
except ImportError as error:
    raise MissingDependency("SQLEventBuffer on PostgreSQL", "postgres", "asyncpg") from error
try:
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
except ImportError as error:
    raise MissingDependency("SQLEventBuffer on PostgreSQL", "postgres", "greenlet") from error

from streamchat.buffers.sql import migrations, postgres_errors
from streamchat.buffers.sql.postgres_sql import CLOCK, Statements

__all__ = ["PostgreSQL"]

_OLDEST = 12
_NUMBERS = {
    "timeout": float,
    "command_timeout": float,
    "statement_cache_size": int,
    "max_cached_statement_lifetime": int,
    "max_cacheable_statement_size": int,
}
"""Options of asyncpg's that are no text, though they stand in a URL."""

_LONGEST_PAUSE = 10
"""Seconds that a transaction may be left alone in its midst before the server ends it."""


class PostgreSQL:
    """`ServerDialect` of PostgreSQL 12 and later; one object for each buffer."""

    name = "PostgreSQL"
    announces = True
    reading: Mapping[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._channel = f"{schema.prefix}news"
        # What this process announces itself, its followers know already.
        self._sender = secrets.token_hex(4)
        self._statements = Statements(schema.prefix, self._channel, f"{self._sender}:")
        # COMMIT waits its turn to announce. The bound is for rows, and those are held by then.
        self._tell = text(
            "SELECT set_config('lock_timeout', '0', true), pg_notify(:channel, run_id) "
            "FROM unnest(CAST(:told AS text[])) AS run_id"
        )

    def engine(self, url: URL, connections: int) -> AsyncEngine:
        """Return an engine of our own."""
        if url.drivername not in ("postgresql", "postgres", "postgresql+asyncpg", "postgres+asyncpg"):
            raise InvalidInput(
                f"{url.render_as_string(hide_password=True)!r}: SQLEventBuffer works with asyncpg, "
                f"as in postgresql://user:password@host/database"
            )
        return create_async_engine(
            url.set(drivername="postgresql+asyncpg").difference_update_query(_NUMBERS),
            connect_args=_numbers(url),
            pool_size=connections,
            max_overflow=0,
            pool_use_lifo=True,
        )

    def accept(self, engine: AsyncEngine) -> None:
        """Refuse engines with another driver."""
        if engine.dialect.driver != "asyncpg":
            raise InvalidInput(
                f"an engine for PostgreSQL with the driver {engine.dialect.driver}: SQLEventBuffer works "
                f"with create_async_engine('postgresql+asyncpg://…'), or with the URL itself"
            )

    def begin(self, lock_seconds: float | None) -> Executable:
        """Return the statement that tells the time."""
        now: Any = literal_column(CLOCK)
        if lock_seconds is None:
            return select(now)
        milliseconds = f"{lock_seconds * 1000:.0f}ms"
        return select(
            literal_column(f"set_config('lock_timeout', '{milliseconds}', true)"),
            # A process that is frozen in the midst of a transaction must not keep its rows from others.
            literal_column(f"set_config('idle_in_transaction_session_timeout', '{_LONGEST_PAUSE}s', true)"),
            now,
        )

    def prepare(self, connection: Connection, *, create: bool, where: str) -> None:
        """Check the server, and make or check the tables."""
        version = connection.dialect.server_version_info or ()
        if version < (_OLDEST,):
            raise BufferUnavailable(
                f"{where}: PostgreSQL {'.'.join(map(str, version))} is too old, {_OLDEST} or later is needed"
            )
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            raise BufferUnavailable(f"{where} has the encoding {encoding}: it must be UTF8")
        migrations.prepare(connection, self.schema, create=create, where=where)
        self._check_privileges(connection, where)

    def _check_privileges(self, connection: Connection, where: str) -> None:
        lacking = connection.execute(
            text(
                "SELECT t, p FROM unnest(CAST(:tables AS text[])) AS t, "
                "unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p "
                "WHERE NOT has_table_privilege(quote_ident(t), p) LIMIT 1"
            ),
            {"tables": [table.name for table in self.schema.metadata.sorted_tables]},
        ).first()
        if lacking is not None:
            raise BufferUnavailable(
                f"{where}: the user lacks {lacking[1]} on {lacking[0]}: "
                f"GRANT SELECT, INSERT, UPDATE, DELETE on the tables {self.schema.prefix}* and "
                f"USAGE on their sequences to it"
            )
        if connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar():
            raise BufferUnavailable(f"{where} is a standby, which cannot be written: connect to the primary")

    async def append(self, raw: Any, jobs: Sequence[AppendJob], now: int | None) -> dict[str, Accepted]:
        """Write plain batches in one statement."""
        return await self._statements.append(raw, jobs, now)

    async def page(self, raw: Any, run_id: str, after: int, limit: int) -> PageRows | None:
        """Read a page in one statement."""
        return await self._statements.page(raw, run_id, after, limit)

    async def heads(self, raw: Any, run_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return where runs are."""
        return await self._statements.heads(raw, run_ids)

    def tell(self, connection: Connection, run_ids: Collection[str]) -> None:
        """Announce news, once for each run."""
        told = [f"{self._sender}:{run_id}" for run_id in run_ids]
        connection.execute(self._tell, {"channel": self._channel, "told": told})

    async def listen(
        self,
        raw: Any,
        heard: Callable[[Sequence[str]], None],
        pinged: Callable[[str], None],
        lost: Callable[[], None],
    ) -> None:
        """Listen on the channel of these tables."""
        mine, pings = f"{self._sender}:", f"{self._sender}?"

        def hear(_: Any, __: int, ___: str, payload: str) -> None:
            if payload.startswith(pings):
                pinged(payload.removeprefix(pings))
            elif payload[8:9] == ":" and not payload.startswith(mine):
                heard([payload[9:]])

        raw.add_termination_listener(lambda _: lost())
        await raw.add_listener(self._channel, hear)

    async def ping(self, raw: Any, word: str) -> None:
        """Notify oneself."""
        await raw.execute("SELECT pg_notify($1, $2)", self._channel, f"{self._sender}?{word}")

    def closed(self, raw: Any) -> bool:
        """Say whether the connection is gone."""
        return bool(raw.is_closed())

    def fault(self, error: BaseException) -> Fault | None:
        """Say what kind of failure this is."""
        return postgres_errors.fault(error)

    def translate(self, error: Exception, where: str, *, change: bool = False) -> Exception:
        """Return what callers are to see."""
        return postgres_errors.translate(error, where, change=change)


def _numbers(url: URL) -> dict[str, Any]:
    try:
        return {name: _NUMBERS[name](value) for name, value in url.query.items() if name in _NUMBERS}
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{url.render_as_string(hide_password=True)!r}: {', '.join(_NUMBERS)} must be numbers"
        ) from error
