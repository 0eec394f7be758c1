"""From no tables, half of them, or those of version 1 to today's: on every database, by one at a time."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from streamchat.buffers.notes import NewNote
from streamchat.buffers.sql import SQLEventBuffer, migrate
from streamchat.buffers.sql.migrations import MIGRATIONS
from streamchat.buffers.sql.schema import SCHEMA_VERSION
from streamchat.errors import BufferUnavailable, InvalidInput
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas
from tests.buffers.schema_v1 import SchemaV1
from tests.services.databases import database, execute

pytestmark = pytest.mark.anyio

KINDS = {"sqlite": None, "postgresql": "postgres_url", "mariadb": "mariadb_url"}
R = TypeVar("R")
Another = Callable[[], Any]


@pytest.fixture(params=list(KINDS))
async def another(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Another]:
    """Makes empty databases."""
    fixture = KINDS[request.param]
    server = None if fixture is None else request.getfixturevalue(fixture)
    async with AsyncExitStack() as made:

        async def empty() -> str:
            if server is None:
                return f"sqlite:///{tmp_path / secrets.token_hex(4)}.db"
            return await made.enter_async_context(database(server))

        yield empty


@pytest.fixture
async def url(another: Another) -> str:
    new: str = await another()
    return new


async def sync(url: str, work: Callable[[sa.Connection], R]) -> R:
    """Run ``work`` in a transaction."""
    if url.startswith("sqlite"):
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            done = work(connection)
        engine.dispose()
        return done
    driver = {"postgresql": "postgresql+asyncpg", "mysql": "mysql+asyncmy"}[urlsplit(url).scheme]
    servers = create_async_engine(urlunsplit(urlsplit(url)._replace(scheme=driver)))
    async with servers.begin() as remote:
        done = await remote.run_sync(work)
    await servers.dispose()
    return done


def described(connection: sa.Connection) -> dict[str, Any]:
    """All that can be seen of the tables."""
    there = sa.inspect(connection)

    def by_name(found: list[Any]) -> list[Any]:
        return sorted(json.dumps(one, default=repr, sort_keys=True) for one in found)

    return {
        name: (
            by_name([{**column, "default": None} for column in there.get_columns(name)]),
            there.get_pk_constraint(name)["constrained_columns"],
            by_name(there.get_indexes(name)),
            by_name(there.get_unique_constraints(name)),
            {key: repr(value) for key, value in there.get_table_options(name).items()},
        )
        for name in there.get_table_names()
    }


NEW: dict[str, Any] = {}


async def described_new(another: Another, url: str) -> dict[str, Any]:
    """The same of tables that are made today; looked at once for each kind of database."""
    kind = urlsplit(url).scheme
    if kind not in NEW:
        new = await another()
        await migrate(new)
        NEW[kind] = await sync(new, described)
    return dict(NEW[kind])


async def make_version_1(url: str) -> None:
    """Make the tables of version 1, with a run of two events in them."""
    schema = SchemaV1("streamchat_")

    def make(connection: sa.Connection) -> None:
        schema.metadata.create_all(connection)
        connection.execute(schema.version.insert().values(version=1))
        named = {"run_id": "run-1", "conversation_id": "c-1", "message_id": "m-1"}
        times = {"created_at": 1, "updated_at": 1}
        connection.execute(
            schema.conversations.insert().values(conversation_id="c-1", active_run_id="run-1", **times)
        )
        connection.execute(
            schema.runs.insert().values(
                **named, **times, log_version=1, status="queued", ready_at=1, generation="g-1", fence=0,
                first_seq=1, batch_seq=1, head_seq=2, log_bytes=4, posted=0, consumed=0,
            )
        )  # fmt: skip
        connection.execute(schema.requests.insert().values(run_id="run-1", request=b"{}"))
        connection.execute(
            schema.segments.insert().values(
                run_id="run-1", fence=0, generation="g-1", first_seq=1, claimed_at=1
            )
        )
        for seq, kind in enumerate(("run_started", "text_delta"), 1):
            row = {"run_id": "run-1", "seq": seq, "type": kind, "data": b"{}", "at": 1}
            connection.execute(schema.events.insert().values(**row))

    await sync(url, make)


async def usable(url: str) -> None:
    """A buffer works on the tables, and makes none."""
    buffer = await SQLEventBuffer(url, create_tables=False).open()
    bench = Bench(buffer, None, None, 30.0)
    lease = await bench.held()
    await buffer.append(lease, deltas("a"))
    assert (await buffer.read(lease.run_id)).last_seq == 2
    await buffer.close()


def test_each_version_has_its_step() -> None:
    assert [step.version for step in MIGRATIONS] == list(range(2, SCHEMA_VERSION + 1))


async def test_tables_are_made_once(url: str) -> None:
    first = await migrate(url)
    assert (first.found, first.version, first.pending) == (None, SCHEMA_VERSION, True)
    again = await migrate(url)
    assert (again.found, again.pending, again.sql) == (SCHEMA_VERSION, False, "")
    await usable(url)


async def test_version_1_becomes_what_is_made_today_and_keeps_its_runs(another: Another) -> None:
    old = await another()
    await make_version_1(old)
    with pytest.raises(BufferUnavailable, match=r"have version 1, .* run `streamchat migrate` first"):
        await SQLEventBuffer(old, create_tables=True).open()
    done = await migrate(old)
    assert done.found == 1
    assert [step.partition(":")[0] for step in done.steps] == [str(step.version) for step in MIGRATIONS]
    assert await sync(old, described) == await described_new(another, old)
    buffer = await SQLEventBuffer(old).open()
    page = await buffer.read("run-1")
    assert [(event.seq, event.type) for event in page.events] == [(1, "run_started"), (2, "text_delta")]
    claim = await buffer.claim("worker", 30.0, "run-1")
    assert claim is not None
    assert (await buffer.append(claim.lease, deltas("a"))).lease.head_seq == 3
    await buffer.write_notes([NewNote("run-1", "n", b"x", 30.0)])
    assert [note.name for note in await buffer.notes("run-1")] == ["n"]
    await buffer.close()


async def test_a_migration_that_was_broken_off_is_finished(another: Another) -> None:
    url = await another()
    await migrate(url)

    def break_off(connection: sa.Connection) -> None:
        connection.execute(sa.text("DELETE FROM streamchat_schema"))
        connection.execute(sa.text("DROP TABLE streamchat_tombstones"))
        on = " ON streamchat_runs" if connection.dialect.name == "mysql" else ""
        connection.execute(sa.text(f"DROP INDEX streamchat_runs_ready{on}"))

    await sync(url, break_off)
    with pytest.raises(BufferUnavailable, match=r"has no tables streamchat_.*: run `streamchat"):
        await SQLEventBuffer(url, create_tables=False).open()
    assert (await migrate(url)).found is None
    assert await sync(url, described) == await described_new(another, url)


async def test_of_many_at_once_one_does_it(url: str) -> None:
    await make_version_1(url)
    done = await asyncio.gather(*(migrate(url) for _ in range(5)))
    assert sorted(one.found or 0 for one in done) == [1, *[SCHEMA_VERSION] * 4]
    await usable(url)


async def test_many_that_make_the_tables_at_once_make_them_once(url: str) -> None:
    done = await asyncio.gather(*(migrate(url) for _ in range(4)))
    assert sorted(one.found or 0 for one in done) == [0, *[SCHEMA_VERSION] * 3]


async def test_newer_tables_are_left_alone(url: str) -> None:
    await migrate(url)
    newer = sa.text("UPDATE streamchat_schema SET version = 99")
    await sync(url, lambda connection: connection.execute(newer))
    for dry in (True, False):
        with pytest.raises(BufferUnavailable, match=r"have version 99.*: upgrade streamchat"):
            await migrate(url, dry_run=dry)


@pytest.mark.parametrize("version", [None, 1])
async def test_a_dry_run_changes_nothing_and_tells_the_statements_that_do_it(
    another: Another, version: int | None
) -> None:
    url = await another()
    if version:
        await make_version_1(url)
    before = await sync(url, described)
    told = await migrate(url, dry_run=True)
    assert (told.found, told.pending) == (version, True)
    assert await sync(url, described) == before

    def by_hand(connection: sa.Connection) -> None:
        for statement in told.sql.split(";"):
            if "\n".join(line for line in statement.split("\n") if not line.startswith("--")).strip():
                connection.exec_driver_sql(statement.strip())

    await sync(url, by_hand)
    assert not (await migrate(url, dry_run=True)).pending
    assert await sync(url, described) == await described_new(another, url)


def test_a_dry_run_makes_no_file(tmp_path: Path) -> None:
    assert asyncio.run(migrate(f"sqlite:///{tmp_path / 'chat.db'}", dry_run=True)).pending
    assert list(tmp_path.iterdir()) == []


async def test_two_prefixes_share_a_database(url: str) -> None:
    await migrate(url)
    assert (await migrate(url, prefix="other_")).found is None
    names = await sync(url, lambda connection: sa.inspect(connection).get_table_names())
    assert {name.partition("_")[0] for name in names} == {"streamchat", "other"}
    with pytest.raises(InvalidInput, match="prefix 'Not-One'"):
        await migrate(url, prefix="Not-One")


# ----------------------------------------------------------------------------------------------- privileges


def as_user(url: str, name: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{name}:secret@{parts.netloc.rpartition('@')[2]}"))


async def test_postgresql_needs_no_more_than_the_right_to_make_tables_and_then_to_use_them(
    postgres_url: str,
) -> None:
    async with database(postgres_url) as url:
        maker, user = f"maker_{secrets.token_hex(4)}", f"user_{secrets.token_hex(4)}"
        await execute(url, *(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'" for name in (maker, user)))
        try:
            with pytest.raises(BufferUnavailable, match="permission denied"):
                await migrate(as_user(url, maker))
            await execute(url, f"GRANT CREATE, USAGE ON SCHEMA public TO {maker}")
            await migrate(as_user(url, maker))
            with pytest.raises(BufferUnavailable, match=r"lacks .* GRANT|lacks a privilege"):
                await SQLEventBuffer(as_user(url, user), create_tables=False).open()
            await execute(
                as_user(url, maker),
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}",
                f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {user}",
            )
            await usable(as_user(url, user))
        finally:
            await execute(url, f"DROP OWNED BY {maker}, {user}", f"DROP ROLE {maker}, {user}")


async def test_mariadb_needs_no_more_than_the_right_to_make_tables_and_then_to_use_them(
    mariadb_url: str,
) -> None:
    async with database(mariadb_url) as url:
        name = urlsplit(url).path.lstrip("/")
        maker, user = f"maker_{secrets.token_hex(4)}", f"user_{secrets.token_hex(4)}"
        await execute(url, *(f"CREATE USER {one} IDENTIFIED BY 'secret'" for one in (maker, user)))
        try:
            use = "SELECT, INSERT, UPDATE, DELETE"
            await execute(url, f"GRANT {use} ON {name}.* TO {maker}")
            with pytest.raises(BufferUnavailable, match=r"CREATE command denied.*lacks a privilege"):
                await migrate(as_user(url, maker))
            await execute(url, f"GRANT CREATE, ALTER, INDEX ON {name}.* TO {maker}")
            await migrate(as_user(url, maker))
            await execute(url, f"GRANT SELECT, INSERT, UPDATE ON {name}.* TO {user}")
            with pytest.raises(BufferUnavailable, match=r"DELETE command denied.*lacks a privilege"):
                await SQLEventBuffer(as_user(url, user), create_tables=False).open()
            await execute(url, f"GRANT DELETE ON {name}.* TO {user}")
            await usable(as_user(url, user))
        finally:
            await execute(url, f"DROP USER {maker}, {user}")
