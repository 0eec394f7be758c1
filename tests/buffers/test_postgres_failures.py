"""A PostgreSQL that restarts, falls silent, or cannot be worked with, which `open` tells."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa

from streamchat.buffers.base import Input, Lease
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.errors import (
    BufferUnavailable,
    InvalidInput,
    StreamChatError,
)
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending
from tests.buffers.backends import PostgreSQL
from tests.buffers.inside import buffer_over, inside, until
from tests.services.databases import database
from tests.services.fixtures import require
from tests.services.postgres import PostgresServer, start_postgres
from tests.services.process import Unavailable

pytestmark = pytest.mark.anyio

R = TypeVar("R")


@pytest.fixture
async def bench(postgres: PostgreSQL) -> AsyncIterator[Bench]:
    async with postgres.bench() as bench:
        yield bench


# ------------------------------------------------------------------------------------- a server that fails


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of the test's own, to do harm to."""
    try:
        server = start_postgres()
    except Unavailable as unavailable:
        require(unavailable)
        raise
    with server:
        yield server


async def persistently(call: Callable[[], Awaitable[R]], failed: list[BufferUnavailable]) -> R:
    """Make the same call until the store answers."""
    while True:
        try:
            return await call()
        except BufferUnavailable as error:
            failed.append(error)
            await asyncio.sleep(0.02)


async def test_over_restarts_in_mid_stream_nothing_is_lost_or_written_twice(server: PostgresServer) -> None:
    async with buffer_over(server.url, create_tables=True, busy_seconds=5.0) as bench:
        leases = [await bench.held() for _ in range(4)]
        follower = await bench.buffer.follow(leases[0].run_id)
        failed: list[BufferUnavailable] = []
        over = asyncio.Event()

        async def write(lease: Lease) -> Lease:
            number = 0
            while not over.is_set():
                batch = deltas(str(number))
                lease = (await persistently(partial(bench.buffer.append, lease, batch), failed)).lease
                number += 1
            await persistently(lambda: bench.buffer.append(lease, ending(), then="over"), failed)
            return lease

        async def head() -> int:
            return (await persistently(lambda: bench.buffer.get(leases[0].run_id), failed)).head_seq

        async def moves_on(before: int) -> bool:
            return await head() > before + 3

        tasks = [asyncio.create_task(write(lease)) for lease in leases]
        for harm in (server.restart, server.kill):
            before = await head()
            failed.clear()
            await asyncio.to_thread(harm)
            if not server.running:
                await until(lambda: len(failed) > 3)
                await asyncio.to_thread(server.start)
            await until(partial(moves_on, before))
        over.set()
        ends = await asyncio.gather(*tasks)
        assert all("PostgreSQL database" in str(error) for error in failed)
        for lease in ends:
            assert await bench.texts(lease.run_id) == [str(number) for number in range(lease.head_seq - 1)]
        while not (await bench.buffer.read(leases[0].run_id, ends[0].head_seq)).closed:
            await follower.wait(1.0)
        await follower.close()


async def test_a_server_that_is_silent_is_given_up_and_worked_with_again(server: PostgresServer) -> None:
    async with buffer_over(server.url, create_tables=True, busy_seconds=2.0) as bench:
        lease = await bench.held()
        lease = (await bench.buffer.append(lease, deltas("a"))).lease
        await asyncio.to_thread(server.pause)
        try:
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda: bench.buffer.append(lease, deltas("b")),
                lambda: bench.buffer.read(lease.run_id),
                lambda: bench.created(),
                lambda: bench.buffer.post(lease.run_id, Input("cancel")),
            ]
            results = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
            for result in results:
                assert isinstance(result, BufferUnavailable), result
                assert re.search("no answer for 2 seconds.*same call again", str(result)), result
        finally:
            await asyncio.to_thread(server.resume)
        lease = (await persistently(lambda: bench.buffer.append(lease, deltas("b")), [])).lease
        await persistently(lambda: bench.buffer.append(lease, ending(), then="over"), [])
        assert await bench.texts(lease.run_id) == ["a", "b"]


async def test_a_silent_server_does_not_keep_a_buffer_from_closing(server: PostgresServer) -> None:
    async with buffer_over(server.url, create_tables=True, busy_seconds=2.0) as bench:
        lease = await bench.held()
        await asyncio.gather(*(bench.buffer.read(lease.run_id) for _ in range(4)))
        await asyncio.to_thread(server.pause)
    await asyncio.to_thread(server.resume)


async def test_a_call_that_is_cancelled_costs_no_connection(postgres: PostgreSQL, bench: Bench) -> None:
    pool = inside(bench)._engine.pool
    lease = await bench.held()
    lease = (await bench.buffer.append(lease, deltas("a"))).lease
    await asyncio.gather(*(bench.buffer.get(lease.run_id) for _ in range(8)))
    made: list[Any] = []
    sa.event.listen(pool, "connect", lambda *_: made.append(1))
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: bench.buffer.read(lease.run_id),
        lambda: bench.buffer.get(lease.run_id),
        lambda: bench.buffer.post(lease.run_id, Input("cancel")),
        lambda: bench.buffer.claim("worker-2", 30.0),
    ]
    for steps in range(12):
        tasks = [asyncio.ensure_future(call()) for call in calls]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    await until(lambda: pool.checkedout() <= 1)
    assert await bench.texts(lease.run_id) == ["a"]
    assert len(made) <= 8 - 2


async def test_a_change_that_the_server_refuses_at_its_commit_is_made_again(postgres_url: str) -> None:
    """As it does where many announce news at once: COMMIT takes a lock for that, and waits for it in vain."""
    async with database(postgres_url) as url, buffer_over(url, create_tables=True) as bench:
        lease = await bench.held()
        raw = await asyncpg.connect(url)
        await raw.execute(
            "CREATE SEQUENCE commits;"
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('commits') < 3 "
            "THEN RAISE 'canceling statement due to lock timeout' USING ERRCODE = '55P03'; END IF; "
            "RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON streamchat_inputs "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        await bench.buffer.post(lease.run_id, Input("cancel"))
        assert [posted.kind for posted in await bench.buffer.inputs(lease.run_id)] == ["cancel"]
        assert await raw.fetchval("SELECT last_value FROM commits") == 3
        await raw.close()


async def test_a_read_whose_reader_has_left_fails_in_silence(server: PostgresServer) -> None:
    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    async with buffer_over(server.url, create_tables=True) as bench:
        lease = await bench.held()
        await asyncio.to_thread(server.kill)
        reading = asyncio.ensure_future(bench.buffer.read(lease.run_id))
        while not inside(bench)._reads:
            await asyncio.sleep(0)
        reading.cancel()
        await until(lambda: not inside(bench)._reads)
        await asyncio.to_thread(server.start)
    del reading
    gc.collect()
    assert heard == []


# ------------------------------------------------------------------------------------------ opening, badly


def changed(url: str, **parts: Any) -> str:
    """Return the URL with another user, password, port or path."""
    at = urlsplit(url)
    user = parts.get("user", at.username)
    password = parts.get("password", at.password)
    netloc = f"{user}:{password}@{parts.get('host', at.hostname)}:{parts.get('port', at.port)}"
    return urlunsplit(at._replace(netloc=netloc, path=parts.get("path", at.path)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": "hunter2"}, "password is wrong: check the user and the password"),
        ({"path": "/nowhere"}, "no such database: create it"),
        ({"user": "nobody-known", "password": "hunter2"}, "password is wrong|lets this user not in"),
        ({"port": 1}, "cannot be reached.*check that the server runs"),
        ({"host": "no-such-host.invalid"}, "cannot be reached"),
    ],
)
async def test_what_cannot_be_connected_to_says_what_to_do(
    postgres_url: str, change: dict[str, Any], said: str
) -> None:
    url = changed(postgres_url, **change)
    with pytest.raises(BufferUnavailable, match=said) as caught:
        await SQLEventBuffer(url).open()
    assert "PostgreSQL database" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert (urlsplit(postgres_url).password or "-") not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://u:secret@h/d", "works with asyncpg"),
        ("postgresql+psycopg2://u:secret@h/d", "works with asyncpg"),
        ("u:secret@host/db", "no database URL"),
        ("oracle://u:secret@h/d", "works on SQLite"),
        ("postgresql://u:secret@h:port/d", "no database URL|number"),
    ],
)
async def test_a_url_of_no_use_is_refused(url: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        await SQLEventBuffer(url).open()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
async def test_each_way_of_naming_postgresql_works(postgres: PostgreSQL, scheme: str) -> None:
    postgres.server = urlunsplit(urlsplit(postgres.server)._replace(scheme=scheme))
    async with postgres.bench() as bench:
        await bench.held()


async def test_engines_that_cannot_be_used_are_refused() -> None:
    plain = sa.create_engine("postgresql+asyncpg://u@h/d")
    with pytest.raises(InvalidInput, match="create_async_engine"):
        await SQLEventBuffer(plain).open()


def test_without_the_driver_the_extra_is_named() -> None:
    code = (
        "import sys, asyncio; sys.modules['asyncpg'] = None\n"
        "from streamchat.errors import MissingDependency\n"
        "from streamchat.buffers.sql import SQLEventBuffer\n"
        "try:\n    asyncio.run(SQLEventBuffer('postgresql://u@h/d').open())\n"
        "except MissingDependency as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'streamchat[postgres]'" in done.stdout


async def test_tables_are_made_only_when_that_is_asked_for(postgres_url: str) -> None:
    async with database(postgres_url) as url:
        for _ in range(2):
            with pytest.raises(BufferUnavailable, match=r"no tables streamchat_\*: run `streamchat migrate`"):
                await SQLEventBuffer(url).open()
        # Several that start at once do not get in each other's way.
        buffers = [SQLEventBuffer(url, create_tables=True) for _ in range(4)]
        await asyncio.gather(*(buffer.open() for buffer in buffers))
        for buffer in buffers:
            await buffer.close()
        await (await SQLEventBuffer(url).open()).close()
        raw = await asyncpg.connect(url)
        assert await raw.fetchval("SELECT count(*) FROM streamchat_schema") == 1
        for version, said in ((0, "streamchat migrate"), (99, "upgrade streamchat")):
            await raw.execute(f"UPDATE streamchat_schema SET version = {version}")
            with pytest.raises(BufferUnavailable, match=f"version {version}.*{said}"):
                await SQLEventBuffer(url).open()
        await raw.execute("DROP TABLE streamchat_schema")
        await raw.close()


async def test_a_user_without_privileges_is_told_which(postgres_url: str) -> None:
    async with database(postgres_url) as url:
        raw = await asyncpg.connect(url)
        role = urlsplit(url).path.lstrip("/")
        await raw.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'")
        theirs = changed(url, user=role, password="pw")
        try:
            with pytest.raises(BufferUnavailable, match=r"lacks a privilege.*CREATE on the schema"):
                await SQLEventBuffer(theirs, create_tables=True).open()
            await (await SQLEventBuffer(url, create_tables=True).open()).close()
            with pytest.raises(BufferUnavailable, match="lacks"):
                await SQLEventBuffer(theirs).open()
            tables = "ALL TABLES IN SCHEMA public"
            await raw.execute(f"GRANT SELECT, INSERT, DELETE ON {tables} TO {role}")
            with pytest.raises(BufferUnavailable, match=r"lacks UPDATE on streamchat_.*GRANT SELECT, INSERT"):
                await SQLEventBuffer(theirs).open()
            await raw.execute(f"GRANT UPDATE ON {tables} TO {role}")
            await raw.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}")
            buffer = await SQLEventBuffer(theirs).open()
            bench = Bench(buffer, None, None, 30.0)
            lease = await bench.held()
            await buffer.append(lease, [*deltas("a"), *ending()], then="over")
            await raw.execute(f"REVOKE INSERT ON streamchat_events FROM {role}")
            with pytest.raises(BufferUnavailable, match="lacks a privilege"):
                await bench.held()
            await buffer.close()
        finally:
            await raw.execute(f"DROP OWNED BY {role}")
            await raw.execute(f"DROP ROLE {role}")
            await raw.close()


async def test_one_buffer_can_be_closed_and_opened_again(postgres: PostgreSQL) -> None:
    buffer = postgres.make()
    bench = Bench(buffer, None, None, 30.0)
    with pytest.raises(BufferUnavailable, match="not open"):
        await bench.created()
    for _ in range(2):
        await asyncio.gather(buffer.open(), buffer.open())
        lease = await bench.held()
        follower = await buffer.follow(lease.run_id)
        last = asyncio.ensure_future(buffer.append(lease, deltas("a")))
        await asyncio.sleep(0)
        await buffer.close()
        await buffer.close()
        assert (await last).lease.head_seq == 2
        assert not await follower.wait(10)
        with pytest.raises(BufferUnavailable):
            await buffer.get(lease.run_id)


async def test_an_opening_that_is_cancelled_leaves_nothing(postgres: PostgreSQL) -> None:
    for pause in (0.0, 0.001, 0.005, 0.01, 0.02, 0.03):
        task = asyncio.ensure_future(postgres.make().open())
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await task.result().close()


def test_no_error_is_without_a_remedy() -> None:
    from streamchat.buffers.sql.postgres_errors import translate

    for state in ("57014", "53100", "25006", "26000", "40P01", "XX000", "99999"):
        error = asyncpg.PostgresError.new({"C": state, "M": "what happened", "S": "ERROR"})
        told = translate(error, "here", change=True)
        assert isinstance(told, StreamChatError)
        assert re.search(r"^here: what happened; .+\. Nothing of this change was written$", str(told)), told


async def test_options_of_the_driver_may_stand_in_the_url(postgres: PostgreSQL) -> None:
    with pytest.raises(InvalidInput, match="must be numbers"):
        await SQLEventBuffer(f"{postgres.server}?statement_cache_size=many").open()
    postgres.server += "?statement_cache_size=0&prepared_statement_cache_size=0&timeout=5.5&ssl=disable"
    async with postgres.bench() as bench:
        lease = await bench.held()
        await bench.buffer.append(lease, deltas("a"))
        assert await bench.texts(lease.run_id) == ["a"]
