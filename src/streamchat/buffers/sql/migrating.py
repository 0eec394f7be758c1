"""`migrate`: brings the tables of one database to this package's version, as ``streamchat migrate`` does."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Connection, Engine

from streamchat.buffers.sql import migrations, sqlite
from streamchat.buffers.sql.backend import dialect_for, parsed
from streamchat.buffers.sql.dialect import ServerDialect
from streamchat.buffers.sql.schema import SCHEMA_VERSION, Schema
from streamchat.buffers.sql.settings import where_of
from streamchat.errors import StreamChatError

__all__ = ["Migrated", "migrate"]


@dataclass(frozen=True, slots=True)
class Migrated:
    """What became of a database's tables, or, of a dry run, what would.

    ``found`` is the version that was there (None: no tables), ``version`` the one of this package; ``steps``
    says in words what was done, ``sql`` is the same as statements. ``where`` names the database for people.
    """

    where: str
    found: int | None
    version: int
    steps: tuple[str, ...]
    sql: str

    @property
    def pending(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.steps)


async def migrate(url: str, *, prefix: str = "streamchat_", dry_run: bool = False) -> Migrated:
    """Make the tables, or bring them from an older version to this one's; idempotent.

    Several processes may do so at once: one does it, the others wait. Needs the right to make and change
    tables, nothing more. With ``dry_run`` nothing is changed, and no database file made.

    Raises `InvalidInput` for a URL or a prefix that is none, `MissingDependency` without the driver,
    `BufferUnavailable` for a database that cannot be worked with, or tables that are newer than this package.
    Cancelled, it has done some of the steps; the same call again does the others.
    """
    schema = Schema(prefix)
    parts = parsed(url)
    dialect = dialect_for(parts, schema)
    if dialect is not None:
        return await _on_server(parts, dialect, schema, dry_run)
    engine = sqlite.engine_for(url)
    try:
        # On a thread, as a lock may have to be waited for.
        return await asyncio.to_thread(_on_sqlite, engine, schema, dry_run)
    finally:
        engine.dispose()


def _work(connection: Connection, schema: Schema, where: str, dry_run: bool) -> Migrated:
    todo = migrations.plan(connection, schema) if dry_run else migrations.upgrade(connection, schema)
    statements = migrations.render(todo, schema, connection.dialect)
    return Migrated(
        where,
        todo.found,
        SCHEMA_VERSION,
        tuple(f"{step.version}: {step.why}" for step in todo.steps),
        "\n".join(statements),
    )


def _on_sqlite(engine: Engine, schema: Schema, dry_run: bool) -> Migrated:
    name = engine.url.database or ":memory:"
    where = f"SQLite database {name!r}"
    try:
        if dry_run:
            if not sqlite.in_memory(engine) and not name.startswith("file:") and not Path(name).exists():
                nowhere = sqlite.engine_for("sqlite://")
                try:
                    with nowhere.connect() as empty:
                        return _work(empty, schema, where, dry_run)
                finally:
                    nowhere.dispose()
            connection, _ = sqlite.connect(engine, writes=False)
            with contextlib.closing(connection):
                return _work(connection, schema, where, dry_run)
        connection, raw = sqlite.connect(engine, writes=True)
        with contextlib.closing(connection):
            sqlite.begin_immediate(raw, migrations.LOCK_SECONDS)
            done = _work(connection, schema, where, dry_run)
            raw.execute("COMMIT")
            return done
    except StreamChatError:
        raise
    except Exception as error:
        raise sqlite.translate(error, where) from error


async def _on_server(url: URL, dialect: ServerDialect, schema: Schema, dry_run: bool) -> Migrated:
    where = where_of(dialect.name, url)
    engine = dialect.engine(url, 1)
    try:
        async with engine.connect() as connection:
            done = await connection.run_sync(_work, schema, where, dry_run)
            await connection.commit()
            return done
    except StreamChatError:
        raise
    except Exception as error:
        raise dialect.translate(error, where) from error
    finally:
        await engine.dispose()
