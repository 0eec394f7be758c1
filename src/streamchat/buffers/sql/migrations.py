"""The steps from one version of the tables to the next, and how they are taken: one process at a time.

A step tells the statements that are still missing, given what is there, so that one which was broken off
(MySQL commits each change of a table by itself) is simply taken again. The version is written after its step.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Dialect,
    Executable,
    Index,
    Inspector,
    MetaData,
    Table,
    delete,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from streamchat.buffers.sql.columns import PAYLOAD, Exact
from streamchat.buffers.sql.schema import SCHEMA_VERSION, Schema
from streamchat.errors import BufferUnavailable

__all__ = [
    "MIGRATIONS",
    "Migration",
    "Plan",
    "Step",
    "check_version",
    "lock_name",
    "plan",
    "prepare",
    "render",
    "upgrade",
]

LOCK_SECONDS = 60
"""How long one process waits for another's migration."""


# ----------------------------------------------------------------------------------------------- the steps


@dataclass(frozen=True, slots=True)
class Migration:
    """The step to ``version``; ``statements`` are those that are missing, given a prefix and what is there.

    A step never uses `Schema`, which is always the newest: it describes the tables as they were then.
    """

    version: int
    why: str
    statements: Callable[[str, Inspector], Sequence[Executable]]


def _notes(prefix: str, there: Inspector) -> Sequence[Executable]:
    name = prefix + "notes"
    notes = Table(
        name,
        MetaData(),
        Column("run_id", Exact(191), primary_key=True),
        Column("name", Exact(191), primary_key=True),
        Column("body", PAYLOAD, nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Index(f"{name}_due", "expires_at"),
        sqlite_with_rowid=False,
    )
    return _missing(notes, there)


MIGRATIONS: Sequence[Migration] = (Migration(2, "notes beside runs, with an expiry", _notes),)
"""In order; version 1 is where they begin."""


def _missing(table: Table, there: Inspector) -> list[Executable]:
    """Return the statements that make ``table``, or those of its indexes that are not there."""
    if not there.has_table(table.name):
        return [CreateTable(table), *(CreateIndex(index) for index in _indexes(table))]
    have = {index["name"] for index in there.get_indexes(table.name)}
    return [CreateIndex(index) for index in _indexes(table) if index.name not in have]


def _indexes(table: Table) -> list[Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


# ------------------------------------------------------------------------------------- what is to be done


@dataclass(frozen=True, slots=True)
class Step:
    """Statements, and the version that the tables have after them."""

    version: int
    why: str
    statements: Sequence[Executable]


@dataclass(frozen=True, slots=True)
class Plan:
    """``found`` is the version of the tables, None if there are none; ``steps`` lead to the newest."""

    found: int | None
    steps: Sequence[Step]


def plan(connection: Connection, schema: Schema) -> Plan:
    """Return what is missing; raises `BufferUnavailable` for tables that are newer than this package."""
    there = inspect(connection)
    found = _found(connection, schema, there)
    if found is None:
        statements = [one for table in schema.metadata.sorted_tables for one in _missing(table, there)]
        return Plan(None, [Step(SCHEMA_VERSION, "the first tables", statements)])
    if found > SCHEMA_VERSION:
        check_version(found, schema, "the database")
    todo = [one for one in MIGRATIONS if one.version > found]
    return Plan(found, [Step(one.version, one.why, one.statements(schema.prefix, there)) for one in todo])


def _found(connection: Connection, schema: Schema, there: Inspector) -> int | None:
    if not there.has_table(schema.version.name):
        return None
    # Without a row the tables were half made.
    found: int | None = connection.execute(select(func.max(schema.version.c.version))).scalar()
    return found


def check_version(found: int | None, schema: Schema, where: str) -> None:
    """Raise `BufferUnavailable`, with the remedy, unless the tables are of this package's version."""
    if found == SCHEMA_VERSION:
        return
    if found is None:
        raise BufferUnavailable(
            f"{where} has no tables {schema.prefix}*: run `streamchat migrate` first, "
            f"or give SQLEventBuffer create_tables=True"
        )
    remedy = (
        "run `streamchat migrate` first"
        if found < SCHEMA_VERSION
        else "upgrade streamchat, or use another database or table prefix"
    )
    raise BufferUnavailable(
        f"the tables {schema.prefix}* have version {found}, "
        f"this streamchat works with {SCHEMA_VERSION}: {remedy}"
    )


# ------------------------------------------------------------------------------------------------ doing it


def prepare(connection: Connection, schema: Schema, *, create: bool, where: str) -> None:
    """Check the tables' version; where there are none and ``create`` says so, make them.

    Raises `BufferUnavailable`, with the remedy. Works inside the caller's transaction.
    """
    found = _found(connection, schema, inspect(connection))
    if found is None and create:
        with _alone(connection, schema):
            missing = plan(connection, schema)  # somebody else may have made them meanwhile
            if missing.found is None:
                _take(connection, schema, missing)
            found = SCHEMA_VERSION if missing.found is None else missing.found
    check_version(found, schema, where)


def upgrade(connection: Connection, schema: Schema) -> Plan:
    """Take all steps to the newest version, and return what was done.

    Works inside the caller's transaction, which on SQLite has begun with BEGIN IMMEDIATE. Raises
    `BufferUnavailable` for newer tables, or when another process is at it for more than a minute.
    """
    with _alone(connection, schema):
        todo = plan(connection, schema)
        _take(connection, schema, todo)
    return todo


def render(todo: Plan, schema: Schema, dialect: Dialect) -> Iterator[str]:
    """Return the statements of a plan as SQL text, for somebody else to run."""
    for step in todo.steps:
        yield f"-- version {step.version}: {step.why}"
        for statement in (*step.statements, *_recorded(schema, step.version)):
            text = cast(Any, statement).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
            yield f"{str(text).strip()};"


def _take(connection: Connection, schema: Schema, todo: Plan) -> None:
    for step in todo.steps:
        for statement in (*step.statements, *_recorded(schema, step.version)):
            connection.execute(statement)


def _recorded(schema: Schema, version: int) -> list[Any]:
    return [delete(schema.version), insert(schema.version).values(version=version)]


@contextlib.contextmanager
def _alone(connection: Connection, schema: Schema) -> Iterator[None]:
    """Keep out who would change the same tables; on SQLite the transaction does so."""
    kind = connection.dialect.name
    database = connection.engine.url.database or ""
    if kind == "postgresql":
        # Until the end of the transaction: before, others would not see what it made.
        number = int(lock_name(database, schema.prefix)[-15:], 16)
        connection.execute(select(func.pg_advisory_xact_lock(number)))
        yield
    elif kind in ("mysql", "mariadb"):
        lock = lock_name(database, schema.prefix)
        if connection.execute(select(func.get_lock(lock, LOCK_SECONDS))).scalar() != 1:
            raise BufferUnavailable(
                f"another process has been changing the tables {schema.prefix}* for {LOCK_SECONDS} s: "
                f"wait for it, or find out what holds it up (the lock {lock!r})"
            )
        try:
            yield
            # Before the lock is given back; as SQL, since the transaction of the caller goes on.
            connection.exec_driver_sql("COMMIT")
        finally:
            with contextlib.suppress(DBAPIError):  # with the connection the lock is gone
                connection.execute(select(func.release_lock(lock)))
    else:
        yield


def lock_name(database: str, prefix: str) -> str:
    """Return a name that is the same for all processes, and for nobody else who uses such locks there."""
    digest = hashlib.sha256(f"streamchat migrations\0{database}\0{prefix}".encode()).hexdigest()
    return f"streamchat_{digest[:32]}"
