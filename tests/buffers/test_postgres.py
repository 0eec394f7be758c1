"""What PostgreSQL alone can do right or wrong: rows that others lock, statements for many runs, its clock,
connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from streamchat.buffers.base import Appended, Created, Input, Lease, NewEvent
from streamchat.errors import (
    BufferUnavailable,
    ConversationBusy,
    IdempotencyConflict,
    InvalidInput,
    LeaseLost,
)
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, message
from tests.buffers.backends import PostgreSQL
from tests.buffers.inside import buffer_over, inside, until
from tests.services.databases import database

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(postgres: PostgreSQL) -> AsyncIterator[Bench]:
    async with postgres.bench() as bench:
        yield bench


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


# --------------------------------------------------------------------------------------------- locked rows


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


async def test_a_process_that_is_frozen_in_a_transaction_gives_its_rows_back(
    postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamchat.buffers.sql.postgres._LONGEST_PAUSE", 1)
    async with postgres.bench() as bench:
        run = await bench.created()
        engine = create_async_engine(postgres.server.replace("postgresql:", "postgresql+asyncpg:"))
        frozen = await engine.connect()
        await frozen.execute(inside(bench)._dialect.begin(1.0))
        lock = sa.text(f"SELECT 1 FROM {postgres.prefix}runs WHERE run_id = :id FOR UPDATE")
        await frozen.execute(lock, {"id": run.run_id})
        assert await bench.buffer.claim("worker-2", 30.0) is None
        while (claim := await bench.buffer.claim("worker-2", 30.0)) is None:
            await asyncio.sleep(0.02)
        assert claim.run.run_id == run.run_id
        with pytest.raises(sa.exc.DBAPIError):
            await frozen.execute(lock, {"id": run.run_id})
        await frozen.invalidate()
        await frozen.close()
        await engine.dispose()


async def test_a_lock_that_is_never_given_back_is_told_of(postgres: PostgreSQL) -> None:
    async with postgres.bench(busy_seconds=0.3) as bench:
        lease = await bench.held()
        async with locked(postgres, lease.run_id):
            with pytest.raises(BufferUnavailable, match=r"holds a lock.*pg_locks.*Nothing of this change"):
                await bench.buffer.append(lease, deltas("a"))
            with pytest.raises(BufferUnavailable, match="holds a lock"):
                await bench.buffer.post(lease.run_id, Input("cancel"))
        await bench.buffer.append(lease, deltas("a"))
        assert await bench.texts(lease.run_id) == ["a"]


# -------------------------------------------------------------------------------------------- group commit


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
    for kind in ("\ud800", "a\0b", "x" * 192):
        with pytest.raises(InvalidInput, match=r"not text that can be stored.*at most 191 characters"):
            await bench.buffer.append(lease._replace(head_seq=3), [NewEvent(kind, b"{}")])


# ----------------------------------------------------------------------------------------- several at once


async def test_of_requests_with_one_key_that_come_at_once_one_makes_the_run(postgres: PostgreSQL) -> None:
    async with postgres.bench() as one, postgres.bench() as two:
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
    async with postgres.bench() as one, postgres.bench() as two:
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
    async with postgres.bench() as one, postgres.bench() as two:
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


# ---------------------------------------------------------------------------------------------------- time


async def test_a_workers_clock_does_not_matter(postgres: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time_ns
    async with postgres.bench() as bench:
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


# --------------------------------------------------------------------------------------------- connections


async def test_no_connection_is_held_while_streams_are_quiet(postgres: PostgreSQL) -> None:
    async with postgres.bench() as bench:
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
