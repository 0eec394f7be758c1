"""News between processes on PostgreSQL: announced, swallowed by a pooler, missed by a lost connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]
import pytest

from streamchat.buffers.base import Input
from streamchat.buffers.sql import watching
from streamchat.buffers.transactional import looking
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas
from tests.buffers.backends import PostgreSQL
from tests.buffers.inside import inside, until

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def deaf(target: str) -> AsyncIterator[str]:
    """A way to the server on which notifications are lost, as behind a pooler by transaction."""
    at = urlsplit(target)

    async def pump_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
                if head[:1] != b"A":  # NotificationResponse
                    writer.write(head + body)
                    await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(at.hostname, at.port)
        answers = asyncio.create_task(pump_back(there, writer))
        with contextlib.suppress(OSError):
            while block := await reader.read(65536):
                back.write(block)
        back.close()
        await answers

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = at.netloc.rpartition("@")[0]
    try:
        yield urlunsplit(at._replace(netloc=f"{user}@127.0.0.1:{port}", query="ssl=disable"))
    finally:
        server.close()
        await server.wait_closed()


async def woken(writing: Bench, reading: Bench, tries: int = 1) -> None:
    """Follow, in one process, what another one writes."""
    lease = await writing.held()
    follower = await reading.buffer.follow(lease.run_id)
    for number in range(tries):
        lease = (await writing.buffer.append(lease, deltas(str(number)))).lease
        while (await reading.buffer.read(lease.run_id)).last_seq < lease.head_seq:
            assert await follower.wait(20.0)
    await follower.close()


async def test_another_process_hears_what_is_written_without_looking(
    postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "_RARELY", 3600.0)
    async with postgres.bench() as writing, postgres.bench() as reading:
        run = await writing.created()
        follower = await reading.buffer.follow(run.run_id)
        waiting = asyncio.ensure_future(follower.wait(0.0))
        await until(lambda: inside(reading)._watcher.hears)
        await waiting
        await follower.wait(0.3)  # the look at the beginning
        lease = await writing.claimed(run.run_id)
        for change in (
            lambda: writing.buffer.append(lease, deltas("a")),
            lambda: writing.buffer.post(run.run_id, Input("cancel")),
            lambda: writing.buffer.delete(run_id=run.run_id),
        ):
            waiting = asyncio.ensure_future(follower.wait(30.0))
            await asyncio.sleep(0)
            await change()
            assert await waiting
        # What it writes itself is no news to it twice.
        mine = await reading.held()
        follower = await reading.buffer.follow(mine.run_id)
        await reading.buffer.append(mine, deltas("a"))
        assert await follower.wait(10.0)
        await woken(writing, reading)
        assert not await follower.wait(0.05)


async def test_where_notifications_are_swallowed_the_store_is_looked_at(
    postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "_PING_TAKES", 0.1)
    monkeypatch.setattr(watching, "_LONGEST_BACKOFF", 0.1)
    async with postgres.bench() as writing, deaf(postgres.server) as url:
        postgres.server = url
        async with postgres.bench() as reading:
            await woken(writing, reading, 5)
            await until(lambda: "pools by transaction" in caplog.text)
            await woken(writing, reading, 5)
            assert not inside(reading)._watcher.hears
    complaints = [record for record in caplog.records if record.name == "streamchat.buffers"]
    assert [record.levelno for record in complaints] == [logging.WARNING]


async def test_a_listener_whose_connection_ends_listens_again(
    postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "_LONGEST_BACKOFF", 0.1)
    async with postgres.bench() as writing, postgres.bench() as reading:
        await woken(writing, reading)
        watcher = inside(reading)._watcher
        await until(lambda: watcher.hears)
        other = await asyncpg.connect(postgres.server)
        ended = await other.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE $1",
            f'LISTEN "{postgres.prefix}%',
        )
        await other.close()
        assert ended
        await until(lambda: "listens was lost" in caplog.text)
        await woken(writing, reading, 3)
        await until(lambda: watcher.hears)
        await woken(writing, reading, 3)
