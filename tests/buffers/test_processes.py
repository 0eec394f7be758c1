"""Several processes on one store, and what is left of one that was killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending
from tests.buffers.backends import Backend

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.anyio


@pytest.fixture
def shared(backend: Backend) -> Backend:
    if not backend.shares:
        pytest.skip("of this kind there is one in each process")
    backend.clock = None
    return backend


async def start(backend: Backend, command: str, argument: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.buffers.worker", command, argument, *backend.to()),
        cwd=ROOT,
        # Debug mode tells of slow steps, on a machine that is slow because of others.
        env={**os.environ, "PYTHONASYNCIODEBUG": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_of_a_killed_worker_nothing_acknowledged_is_lost_and_another_goes_on(shared: Backend) -> None:
    async with shared.open() as buffer:
        bench = Bench(buffer, None, None, 0.5)
        run = await bench.created()
        worker = await start(shared, "for-ever", run.run_id)
        assert worker.stdout is not None
        acknowledged = 0
        while acknowledged < 60:
            acknowledged = int(await worker.stdout.readline())
        worker.kill()
        # What was already on its way out of the pipe was acknowledged too.
        rest = (await worker.communicate())[0].split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        page = await buffer.read(run.run_id)
        assert page.last_seq >= acknowledged
        texts = [json.loads(event.data)["text"] for event in page.events[1:]]
        assert texts == [f"{number // 2}{'ab'[number % 2]}" for number in range(len(texts))]
        # A batch is there whole, or not at all.
        assert len(texts) % 2 == 0
        follower = await buffer.follow(run.run_id)
        while (claim := await buffer.claim("worker-2", 60.0, run.run_id)) is None:
            await follower.wait(0.1)
        await follower.close()
        assert claim.lease.fence == 2
        assert claim.lease.head_seq in (page.last_seq, page.last_seq + 2)
        await buffer.append(claim.lease, [*deltas("on"), *ending()], then="over")
        assert (await buffer.read(run.run_id)).closed
    shared.check()


async def test_two_processes_share_the_runs_of_one_store(shared: Backend) -> None:
    async with shared.open() as buffer:
        bench = Bench(buffer, None, None, 60.0)
        runs = [await bench.created() for _ in range(24)]
        workers = [await start(shared, "to-the-end", name) for name in "ab"]
        # Meanwhile this process follows them all.
        followers = [await buffer.follow(run.run_id) for run in runs]
        for run, follower in zip(runs, followers, strict=True):
            while not (await buffer.read(run.run_id)).closed:
                await follower.wait(1.0)
            await follower.close()
        taken = []
        for worker in workers:
            out, errors = await worker.communicate()
            assert (worker.returncode, errors) == (0, b"")
            taken.append(int(out))
        assert sum(taken) == len(runs)
        for run in runs:
            texts = await bench.texts(run.run_id)
            assert texts in [[f"{name}{number}" for number in range(20)] for name in "ab"]
