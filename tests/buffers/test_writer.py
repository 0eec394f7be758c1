"""Group commit: what shares a transaction, and that nobody fails for another's fault."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from streamchat.buffers.base import Appended, Lease, NewEvent
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.buffers.transactional.jobs import BIG_JOB, Job, next_transaction
from streamchat.errors import BufferUnavailable, InvalidInput, LeaseLost
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending, suspended
from tests.buffers.backends import SQLite

JOBS = st.lists(
    st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from([0, 10, 200_000, BIG_JOB, BIG_JOB + 1]))
)


@given(JOBS)
def test_transactions_take_all_in_order_by_run_and_big_ones_alone(given_jobs: list[tuple[str, int]]) -> None:
    jobs: list[Job[None, None]] = [Job(run_id, lambda _: None, size) for run_id, size in given_jobs]
    waiting = deque(jobs)
    transactions = []
    while waiting:
        transactions.append(next_transaction(waiting))
    done = [job for transaction in transactions for job in transaction]
    assert len(done) == len(jobs)
    for run_id in ("", "a", "b", "c"):
        mine = [job for job in done if job.run_id == run_id]
        assert mine == [job for job in jobs if job.run_id == run_id]
    for transaction in transactions:
        # Whoever locks in another order waits for one who waits for him.
        assert [job.run_id for job in transaction] == sorted(job.run_id for job in transaction)
        assert len(transaction) == 1 or all(job.size <= BIG_JOB for job in transaction)
        assert sum(job.size for job in transaction[:-1]) < 2 * 1024 * 1024


def test_a_transaction_is_bounded_in_number() -> None:
    waiting = deque(Job[None, None](str(number), lambda _: None) for number in range(600))
    sizes = []
    while waiting:
        sizes.append(len(next_transaction(waiting)))
    assert sizes == [256, 256, 88]


# ----------------------------------------------------------------------------------- over a real database


class Watched:
    """A bench over SQLite whose writing statements are recorded."""

    def __init__(self, bench: Bench, buffer: SQLEventBuffer, path: Path) -> None:
        self.bench = bench
        self.buffer = buffer
        self.path = path
        self.statements: list[str] = []

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """Let jobs gather: another process is writing."""
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()

    async def begun(self) -> None:
        """Wait until the writer tries to begin, so that all that comes now gathers behind."""
        while self.statements[-1] != "BEGIN IMMEDIATE":
            await asyncio.sleep(0.001)

    async def in_writer(self, body: Any) -> Any:
        return await self.buffer._write(Job("", body))

    def commits(self) -> list[int]:
        """Return the level of synchronous (1 NORMAL, 2 FULL) of each transaction since the last call."""
        level, commits = 2, []
        for statement in self.statements:
            if statement.startswith("PRAGMA synchronous"):
                level = 2 if "FULL" in statement else 1
            elif statement == "COMMIT":
                commits.append(level)
        self.statements.clear()
        # What is begun next may not be preceded by a change of level.
        self.statements.append(f"PRAGMA synchronous = {'FULL' if level == 2 else 'NORMAL'}")
        return commits


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    backend = SQLite(tmp_path)
    async with backend.open() as buffer:
        assert isinstance(buffer, SQLEventBuffer)
        bench = Bench(buffer, None, backend.advance, 30.0)
        watched = Watched(bench, buffer, tmp_path / "chat.db")
        await watched.in_writer(
            lambda tx: tx.connection.connection.dbapi_connection.set_trace_callback(watched.statements.append)
        )
        yield watched


@pytest.mark.anyio
async def test_what_waits_together_is_written_in_one_transaction(watched: Watched) -> None:
    bench = watched.bench
    leases = [await bench.held() for _ in range(20)]
    watched.commits()
    with watched.held_up():
        # The first goes at once, and meets the other process; the rest gathers behind it.
        tasks = [asyncio.create_task(bench.buffer.append(lease, deltas("a", "b"))) for lease in leases]
        await watched.begun()
        assert not any(task.done() for task in tasks)
    await asyncio.gather(*tasks)
    assert len(watched.commits()) <= 3
    for lease in leases:
        assert await bench.texts(lease.run_id) == ["a", "b"]


@pytest.mark.anyio
async def test_in_one_transaction_who_is_refused_fails_alone(watched: Watched) -> None:
    bench = watched.bench
    leases = [await bench.held() for _ in range(5)]
    stale = [lease.advanced(7) for lease in leases[:2]]
    run = await bench.created()
    watched.commits()
    with watched.held_up():
        first = asyncio.ensure_future(bench.buffer.append(leases[4], deltas("a")))
        await watched.begun()
        calls = [
            bench.buffer.append(stale[0], deltas("x")),
            bench.buffer.append(leases[0], deltas("a")),
            bench.buffer.append(leases[0], deltas("y")),
            bench.buffer.append(stale[1], suspended(), then="suspend"),
            bench.buffer.append(leases[1], ending(), then="over"),
            bench.buffer.create(bench.new_run(conversation_id=run.conversation_id)),
            bench.buffer.create(bench.new_run()),
            bench.buffer.append(leases[2], deltas("a")),
            bench.buffer.claim("worker-2", 30, run.run_id),
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await first
    names = [type(result).__name__ for result in results]
    assert names == [
        "LeaseLost",
        "Appended",
        "LeaseLost",
        "LeaseLost",
        "Appended",
        "ConversationBusy",
        "Created",
        "Appended",
        "Claim",
    ]
    assert len(watched.commits()) <= 2
    assert await bench.texts(leases[0].run_id) == ["a"]


@pytest.mark.anyio
async def test_a_poisonous_batch_takes_nobody_with_it(watched: Watched) -> None:
    bench = watched.bench
    leases = [await bench.held() for _ in range(6)]
    poison = [*deltas("p"), NewEvent("lone surrogate \ud800", b"{}")]
    watched.commits()
    with watched.held_up():
        tasks = [
            asyncio.ensure_future(bench.buffer.append(lease, poison if number == 3 else deltas("a", "b")))
            for number, lease in enumerate(leases)
        ]
        await watched.begun()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, Appended) for result in results] == [number != 3 for number in range(6)]
    assert isinstance(results[3], InvalidInput)
    assert (await bench.buffer.get(leases[3].run_id)).head_seq == 1
    for number, lease in enumerate(leases):
        assert await bench.texts(lease.run_id) == ([] if number == 3 else ["a", "b"])


@pytest.mark.anyio
async def test_a_body_that_breaks_is_retried_alone_and_told(watched: Watched) -> None:
    lease = await watched.bench.held()

    def broken(tx: Any) -> None:
        tx.connection.exec_driver_sql("DELETE FROM streamchat_runs")
        raise RuntimeError("a bug")

    with watched.held_up():
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(watched.in_writer(lambda tx: 1))]
        await watched.begun()
        tasks.append(asyncio.ensure_future(watched.in_writer(broken)))
        tasks.append(asyncio.ensure_future(watched.bench.buffer.append(lease, deltas("a"))))
        await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], RuntimeError)
    assert isinstance(results[2], Appended)


@pytest.mark.anyio
async def test_only_what_must_last_is_synced(watched: Watched) -> None:
    bench = watched.bench

    async def level(call: Any) -> Any:
        watched.commits()
        result = await call
        (synced,) = watched.commits()
        return result, synced

    run = bench.new_run()
    _, synced = await level(bench.buffer.create(run))
    assert synced == 2
    claim, synced = await level(bench.buffer.claim("worker-1", 30, run.run_id))
    assert synced == 2
    lease: Lease = claim.lease
    expected = {"text_delta": 1, "tool_call_delta": 1, "status": 1, "tool_started": 2, "model_completed": 2}
    for event_type, wanted in expected.items():
        batch = [NewEvent("text_delta", b"{}"), NewEvent(event_type, b"{}")]
        appended, synced = await level(bench.buffer.append(lease, batch))
        assert (event_type, synced) == (event_type, wanted)
        lease = appended.lease
    lease, synced = await level(bench.buffer.renew(lease, 30))
    assert synced == 1
    appended, synced = await level(bench.buffer.append(lease, (), then="queue"))
    assert synced == 2


@pytest.mark.anyio
async def test_a_big_batch_goes_alone(watched: Watched) -> None:
    bench = watched.bench
    leases = [await bench.held() for _ in range(4)]
    big = [NewEvent("text_delta", b'{"text":"%b"}' % (b"x" * 300_000))]
    watched.commits()
    with watched.held_up():
        tasks = [asyncio.ensure_future(bench.buffer.append(leases[0], deltas("a")))]
        await watched.begun()
        for lease, batch in ((leases[1], deltas("a")), (leases[2], big), (leases[3], deltas("a"))):
            tasks.append(asyncio.ensure_future(bench.buffer.append(lease, batch)))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert len(watched.commits()) == 4


@pytest.mark.anyio
async def test_closing_finishes_what_is_waiting(tmp_path: Path) -> None:
    backend = SQLite(tmp_path)
    async with backend.open() as buffer:
        bench = Bench(buffer, None, backend.advance, 30.0)
        leases = [await bench.held() for _ in range(10)]
        tasks = [asyncio.ensure_future(buffer.append(lease, deltas("a"))) for lease in leases]
        await asyncio.sleep(0)
        await buffer.close()
        await asyncio.gather(*tasks)
        with pytest.raises(BufferUnavailable, match="open"):
            await buffer.append(leases[0].advanced(2), deltas("b"))
    async with backend.open() as again:
        for lease in leases:
            assert (await again.get(lease.run_id)).head_seq == 2


@pytest.mark.anyio
async def test_a_withdrawn_append_is_not_written(watched: Watched) -> None:
    bench = watched.bench
    lease, other = await bench.held(), await bench.held()
    with watched.held_up():
        first = asyncio.ensure_future(bench.buffer.append(other, deltas("a")))
        await watched.begun()
        task = asyncio.ensure_future(bench.buffer.append(lease, deltas("a")))
        await asyncio.sleep(0)
        task.cancel()
    await first
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await bench.buffer.get(lease.run_id)).head_seq == 1
    await bench.buffer.append(lease, deltas("b"))
    with pytest.raises(LeaseLost):
        await bench.buffer.append(lease, deltas("a"))
