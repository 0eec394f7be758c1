"""What PostgreSQL alone can do right or wrong: rows that others lock, news between processes, bad input at
`open`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from streamchat.buffers.base import Appended, Created, Input, Lease, NewEvent
from streamchat.buffers.sql import SQLEventBuffer, watching
from streamchat.buffers.sql.server import ServerBackend
from streamchat.errors import (
    BufferUnavailable,
    ConversationBusy,
    IdempotencyConflict,
    InvalidInput,
    LeaseLost,
    StreamChatError,
)
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending, message
from tests.buffers.backends import PostgreSQL
from tests.services.databases import database
from tests.services.fixtures import require
from tests.services.postgres import PostgresServer, start_postgres
from tests.services.process import Unavailable

pytestmark = pytest.mark.anyio

R = TypeVar("R")


@pytest.fixture
async def postgres(tmp_path: Path, postgres_url: str) -> PostgreSQL:
    """The tables of this process, empty; a clock that goes by itself."""
    backend = PostgreSQL(tmp_path, postgres_url)
    await backend.begin()
    backend.clock = None
    return backend


@contextlib.asynccontextmanager
async def opened(postgres: PostgreSQL, **options: Any) -> AsyncIterator[Bench]:
    buffer = await postgres.make(**options).open()
    try:
        yield Bench(buffer, None, None, 30.0)
    finally:
        await buffer.close()


@pytest.fixture
async def bench(postgres: PostgreSQL) -> AsyncIterator[Bench]:
    async with opened(postgres) as bench:
        yield bench


def inside(bench: Bench) -> Any:
    """Return the backend's parts."""
    backend = cast(SQLEventBuffer, bench.buffer)._backend
    assert isinstance(backend, ServerBackend)
    return backend


@contextlib.asynccontextmanager
async def locked(postgres: PostgreSQL, *run_ids: str) -> AsyncIterator[None]:
    """Have runs' rows locked by another transaction."""
    other = await asyncpg.connect(postgres.server)
    try:
        async with other.transaction():
            query = f"SELECT 1 FROM {postgres.prefix}runs WHERE run_id = ANY($1) FOR UPDATE"
            assert len(await other.fetch(query, run_ids)) == len(run_ids)
            yield
    finally:
        await other.close()


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    """Wait until something that has no event is so; pytest-timeout ends it."""
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.01)


# ---------------------------------------------------------------------------------------------- locked rows


async def test_a_run_whose_row_is_locked_holds_up_nobody(postgres: PostgreSQL, bench: Bench) -> None:
    buffer = bench.buffer
    stuck, *others = [await bench.held() for _ in range(6)]
    waiting = await bench.created()
    async with locked(postgres, stuck.run_id):
        batch = asyncio.ensure_future(buffer.append(stuck, deltas("late")))
        answer = asyncio.ensure_future(buffer.post(stuck.run_id, Input("cancel")))
        for number in range(5):
            appended = [buffer.append(lease, deltas(str(number))) for lease in others]
            others = [one.lease for one in await asyncio.gather(*appended)]
        claim = await buffer.claim("worker-2", 30.0)
        assert claim is not None
        assert claim.lease.run_id == waiting.run_id
        assert await buffer.claim("worker-2", 30.0) is None
        await buffer.post(others[0].run_id, Input("cancel"))
        assert (await buffer.create(bench.new_run())).new
        assert not batch.done()
        assert not answer.done()
    appended_late = await batch
    assert appended_late.lease.head_seq == 2
    assert not appended_late.recovered
    assert (await answer).new
    assert await bench.texts(stuck.run_id) == ["late"]


async def test_many_answers_to_locked_runs_do_not_keep_others_from_being_made(
    postgres: PostgreSQL, bench: Bench
) -> None:
    stuck = [await bench.created() for _ in range(12)]
    async with locked(postgres, *(run.run_id for run in stuck)):
        answers = [asyncio.ensure_future(bench.buffer.post(run.run_id, Input("cancel"))) for run in stuck]
        for _ in range(3):
            await bench.created()
        assert not any(answer.done() for answer in answers)
    assert all(posted.new for posted in await asyncio.gather(*answers))


async def test_a_lock_that_is_never_given_back_is_told_of(postgres: PostgreSQL) -> None:
    async with opened(postgres, busy_seconds=0.3) as bench:
        lease = await bench.held()
        async with locked(postgres, lease.run_id):
            with pytest.raises(BufferUnavailable, match=r"holds a lock.*pg_locks.*Nothing of this change"):
                await bench.buffer.append(lease, deltas("a"))
            with pytest.raises(BufferUnavailable, match="holds a lock"):
                await bench.buffer.post(lease.run_id, Input("cancel"))
        await bench.buffer.append(lease, deltas("a"))
        assert await bench.texts(lease.run_id) == ["a"]


# --------------------------------------------------------------------------------------------- group commit


def count_statements(bench: Bench, gate: asyncio.Event | None = None) -> list[list[str]]:
    """Record the runs of each statement that appends; they wait for ``gate``."""
    sessions = inside(bench)._sessions
    append, seen = sessions._dialect.append, []

    async def counting(raw: Any, jobs: Any, now: Any) -> Any:
        seen.append([job.run_id for job in jobs])
        if gate is not None:
            await gate.wait()
        return await append(raw, jobs, now)

    sessions._dialect.append = counting
    return seen


async def test_what_waits_together_is_one_statement_and_who_is_refused_fails_alone(bench: Bench) -> None:
    leases = [await bench.held() for _ in range(20)]
    gate = asyncio.Event()
    seen = count_statements(bench, gate)
    calls = [bench.buffer.append(lease, deltas("a", "b")) for lease in leases]
    calls += [bench.buffer.append(leases[3].advanced(7), deltas("x")), bench.buffer.append(leases[4], ())]
    tasks = [asyncio.ensure_future(call) for call in calls]
    await until(lambda: bool(seen))
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = [type(result) for result in results]
    assert kinds == [Appended] * 20 + [LeaseLost] * 2
    assert len(seen) <= 4
    assert all(runs == sorted(set(runs)) for runs in seen)
    for lease in leases:
        assert await bench.texts(lease.run_id) == ["a", "b"]


async def test_a_poisonous_batch_takes_nobody_with_it(bench: Bench) -> None:
    leases = [await bench.held() for _ in range(6)]
    poisons = {2: NewEvent("NUL \0", b"{}"), 3: NewEvent("lone \ud800", b"{}"), 4: NewEvent("x" * 300, b"{}")}
    gate = asyncio.Event()
    seen = count_statements(bench, gate)
    tasks = [
        asyncio.ensure_future(
            bench.buffer.append(lease, [*deltas("p"), poisons[n]] if n in poisons else deltas("a"))
        )
        for n, lease in enumerate(leases)
    ]
    await until(lambda: bool(seen))
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for number, result in enumerate(results):
        assert isinstance(result, InvalidInput if number in poisons else Appended), result
    for number, lease in enumerate(leases):
        assert await bench.texts(lease.run_id) == ([] if number in poisons else ["a"])


async def test_payload_of_any_bytes_is_kept(bench: Bench) -> None:
    lease = await bench.held()
    odd = [NewEvent("custom", b'"\0\xff\xed\xa0\x80"', b"\0private"), NewEvent("custom", b"\0", b"")]
    await bench.buffer.append(lease, odd)
    page = await bench.buffer.read(lease.run_id, 1)
    assert [(stored.data, stored.private) for stored in page.events] == [(e.data, e.private) for e in odd]
    with pytest.raises(InvalidInput, match="not text that can be stored"):
        await bench.created(run_id="\ud800")
    with pytest.raises(InvalidInput, match="not text that can be stored"):
        await bench.created(run_id="a\0b")
    with pytest.raises(InvalidInput, match="not text that can be stored"):
        await bench.buffer.get("\ud800")


async def test_pages_of_large_logs_are_bounded_in_bytes(bench: Bench) -> None:
    lease = await bench.held()
    for number in range(9):
        event = NewEvent("custom", b"%d" % number * 4_000_000, b"p" if number % 2 else None)
        lease = (await bench.buffer.append(lease, [event, *deltas("small")])).lease
    sizes, seqs, after = [], [], 0
    while after < 19:
        page = await bench.buffer.read(lease.run_id, after)
        sizes.append(sum(len(event.data) for event in page.events))
        seqs += [event.seq for event in page.events]
        after = seqs[-1]
    assert seqs == list(range(1, 20))
    assert max(sizes) <= 16 * 1024 * 1024
    (stored,) = (await bench.buffer.read(lease.run_id, 3, 1)).events
    assert (stored.data, stored.private) == (b"1" * 4_000_000, b"p")


# ------------------------------------------------------------------------------------------ several at once


async def test_of_requests_with_one_key_that_come_at_once_one_makes_the_run(postgres: PostgreSQL) -> None:
    async with opened(postgres) as one, opened(postgres) as two:
        for number in range(5):
            key = f"key-{number}"
            runs = [
                one.new_run(
                    idempotency_key=key,
                    digest="d" if number else str(n),
                    conversation_id=f"c-{number}-{n % 2}",
                )
                for n in range(8)
            ]
            results = await asyncio.gather(
                *((one, two)[n % 2].buffer.create(run) for n, run in enumerate(runs)), return_exceptions=True
            )
            made = [result for result in results if isinstance(result, Created)]
            assert sum(result.new for result in made) == 1, results
            if number:
                assert len({result.run.run_id for result in made}) == 1
                assert len(made) == 8
            else:
                assert len(made) == 1
                assert all(isinstance(r, IdempotencyConflict) for r in results if r is not made[0]), results


async def test_a_conversation_that_several_begin_at_once_has_one_active_run(postgres: PostgreSQL) -> None:
    async with opened(postgres) as one, opened(postgres) as two:
        for number in range(5):
            runs = [one.new_run(conversation_id=f"c-{number}") for _ in range(6)]
            results = await asyncio.gather(
                *((one, two)[n % 2].buffer.create(run, [message(run)]) for n, run in enumerate(runs)),
                return_exceptions=True,
            )
            kinds = sorted(type(result).__name__ for result in results)
            assert kinds == ["ConversationBusy"] * 5 + ["Created"]
            assert len(await one.buffer.messages(f"c-{number}")) == 1
            with pytest.raises(ConversationBusy):
                await one.buffer.create(one.new_run(conversation_id=f"c-{number}"))


async def test_what_is_written_while_it_is_deleted_leaves_nothing_behind(
    postgres: PostgreSQL,
) -> None:
    async with opened(postgres) as one, opened(postgres) as two:
        for conversation_goes in (False, True) * 3:
            run = one.new_run()
            await one.buffer.create(run, [message(run, run_id=run.run_id)])
            lease = await one.claimed(run.run_id)

            async def write(lease: Lease = lease, run: Any = run) -> None:
                with contextlib.suppress(LeaseLost):
                    for number in range(40):
                        last = message(run, run_id=run.run_id, role="assistant")
                        written = await one.buffer.append(lease, deltas(str(number)), messages=[last])
                        lease = written.lease

            writing = asyncio.ensure_future(write())
            await asyncio.sleep(0.01)
            if conversation_goes:
                assert await two.buffer.delete(conversation_id=run.conversation_id) == 1
            else:
                assert await two.buffer.delete(run_id=run.run_id) == 1
            await writing
            other = await asyncpg.connect(postgres.server)
            for table in ("runs", "events", "messages", "segments", "inputs", "requests"):
                assert await other.fetchval(f"SELECT count(*) FROM {postgres.prefix}{table}") == 0, table
            await other.close()


# ----------------------------------------------------------------------------------------------------- time


async def test_a_workers_clock_does_not_matter(postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time_ns
    async with opened(postgres) as bench:
        for hours in (-1, 1):
            monkeypatch.setattr(time, "time_ns", lambda hours=hours: real() + hours * 3600 * 10**9)
            lease = await bench.held()
            appended = await bench.buffer.append(lease, deltas("a"))
            lease = await bench.buffer.renew(appended.lease, 30.0)
            record = await bench.buffer.get(lease.run_id)
            now = real() // 10**6
            for at in (
                record.created_at,
                record.updated_at,
                appended.events[0].at,
                lease.expires_at - 30_000,
            ):
                assert abs(at - now) < 600_000
            # Nobody's lease has expired by it.
            assert await bench.buffer.claim("worker-2", 30.0, lease.run_id) is None


# ----------------------------------------------------------------------------------------------------- news


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
    monkeypatch.setattr(watching, "_RARELY", 3600.0)
    async with opened(postgres) as writing, opened(postgres) as reading:
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
    async with opened(postgres) as writing, deaf(postgres.server) as url:
        postgres.server = url
        async with opened(postgres) as reading:
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
    async with opened(postgres) as writing, opened(postgres) as reading:
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


# ---------------------------------------------------------------------------------------------- connections


async def test_no_connection_is_held_while_streams_are_quiet(postgres: PostgreSQL) -> None:
    async with opened(postgres) as bench:
        pool = inside(bench)._engine.pool
        leases = [await bench.held() for _ in range(30)]
        followers = [await bench.buffer.follow(lease.run_id) for lease in leases]
        await asyncio.gather(*(bench.buffer.append(lease, deltas("a")) for lease in leases))
        await asyncio.gather(*(bench.buffer.read(lease.run_id) for lease in leases))
        for follower in followers:
            await follower.wait(1.0)
        waiting = [asyncio.ensure_future(follower.wait(60.0)) for follower in followers]
        await until(lambda: inside(bench)._watcher.hears)
        await until(lambda: pool.checkedout() == 0)
        other = await asyncpg.connect(postgres.server)
        states = await other.fetch(
            "SELECT state, count(*) FROM pg_stat_activity WHERE query LIKE $1 GROUP BY 1",
            f"%{postgres.prefix}%",
        )
        await other.close()
        assert {row["state"] for row in states} <= {"idle", "active"}
        for follower in followers:
            await follower.close()
        await asyncio.gather(*waiting)


async def test_connections_that_the_server_has_ended_are_replaced_unnoticed(postgres: PostgreSQL) -> None:
    async with database(postgres.server) as url, buffer_over(url, create_tables=True) as bench:
        leases = [await bench.held() for _ in range(3)]
        other = await asyncpg.connect(url)
        for _ in range(3):
            results = await asyncio.gather(*(bench.buffer.append(lease, deltas("a")) for lease in leases))
            leases = [result.lease for result in results]
            await asyncio.gather(*(bench.buffer.get(lease.run_id) for lease in leases))
            ended = await other.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert len(ended) > 1
        await other.close()
        for lease in leases:
            assert await bench.texts(lease.run_id) == ["a"] * 3


async def test_an_engine_of_the_application_is_used_and_left_alone(postgres: PostgreSQL) -> None:
    engine = create_async_engine(postgres.server.replace("postgresql:", "postgresql+asyncpg:"))
    try:
        async with buffer_over(engine, prefix=postgres.prefix) as bench:
            lease = await bench.held()
            await bench.buffer.append(lease, deltas("a"))
            follower = await bench.buffer.follow(lease.run_id)
            await until(lambda: inside(bench)._watcher.hears)
            await follower.close()
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        async with engine.connect() as connection:
            assert (await connection.execute(sa.text("SELECT 1"))).scalar() == 1
            assert (await connection.execute(sa.text("SHOW lock_timeout"))).scalar() == "0"
            assert (await connection.execute(sa.text("SHOW transaction_read_only"))).scalar() == "off"
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def buffer_over(given: Any, **options: Any) -> AsyncIterator[Bench]:
    buffer = await SQLEventBuffer(given, **options).open()
    try:
        yield Bench(buffer, None, None, 30.0)
    finally:
        await buffer.close()


# --------------------------------------------------------------------------------------- a server that fails


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


# -------------------------------------------------------------------------------------------- opening, badly


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
    async with opened(postgres) as bench:
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
        told = translate(error, "here")
        assert isinstance(told, StreamChatError)
        assert re.search(r"^here: what happened; .+\. Nothing of this change was written$", str(told)), told


async def test_options_of_the_driver_may_stand_in_the_url(postgres: PostgreSQL) -> None:
    with pytest.raises(InvalidInput, match="must be numbers"):
        await SQLEventBuffer(f"{postgres.server}?statement_cache_size=many").open()
    postgres.server += "?statement_cache_size=0&prepared_statement_cache_size=0&timeout=5.5&ssl=disable"
    async with opened(postgres) as bench:
        lease = await bench.held()
        await bench.buffer.append(lease, deltas("a"))
        assert await bench.texts(lease.run_id) == ["a"]
