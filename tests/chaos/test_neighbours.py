"""What others do to a worker: lock a run's row, or have clocks that are an hour off."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from streamchat.core.fold import fold
from tests.chaos.checks import Findings
from tests.chaos.conftest import MakeStore, brief_on
from tests.chaos.fleet import Fleet
from tests.chaos.provider import Plan
from tests.chaos.scene import Cast, Scene
from tests.chaos.stores import Store
from tests.services.fixtures import require
from tests.services.process import Unavailable

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

HOUR = 3600
FAKES = [f"/usr/{place}/faketime/libfaketime.so.1" for place in ("lib/*", "lib", "lib64", "local/lib")]


@contextlib.asynccontextmanager
async def row_locked(store: Store, run_id: str) -> AsyncIterator[None]:
    """Hold the run's row in a transaction of somebody else's."""
    statement = f"SELECT run_id FROM {store.prefix}runs WHERE run_id = '{run_id}' FOR UPDATE"
    if store.url.startswith("postgresql"):
        import asyncpg  # type: ignore[import-untyped]

        postgres: Any = await asyncpg.connect(store.url)
        try:
            async with postgres.transaction():
                assert await postgres.fetch(statement)
                yield
        finally:
            await postgres.close()
        return
    import asyncmy

    at = urlsplit(store.url)
    maria: Any = await asyncmy.connect(
        host=at.hostname, port=at.port or 3306, user=at.username, password=at.password or "", db=at.path[1:]
    )
    try:
        async with maria.cursor() as cursor:
            # One that repeats its reads would lock the gap before the row as well, and new runs fall into it.
            await cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            await maria.begin()
            await cursor.execute(statement)
            assert await cursor.fetchall()
            yield
            await maria.rollback()
    finally:
        await maria.ensure_closed()


@brief_on("postgres")
async def test_a_run_whose_row_is_locked_waits_and_the_others_go_on(
    sql_kind: str, cast: Cast, make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    async with Scene(cast, store, tmp_path, ttl=30.0) as scene, asyncio.TaskGroup() as group:
        worker = await scene.start_ready(f"{tmp_path.name}/1", silence=30.0)
        locked = await scene.post(
            Plan("locked", (("charge",),), words=300), "c:0", random.Random(1), to=worker
        )
        reading = group.create_task(scene.read(locked, random.Random(1)))
        await scene.until_appended(3)
        async with row_locked(store, locked.run_id):
            before = (await scene.log(locked))[-1].seq
            others = [
                await scene.post(Plan(f"other{n}", (("book",),)), f"d{n}:0", random.Random(n), to=worker)
                for n in range(3)
            ]
            for other in others:
                await scene.read(other, random.Random(2))
            events = await scene.log(locked)
            # One batch may have been on its way when the row was locked.
            assert events[-1].type != "finalized"
            assert events[-1].seq - before < 200
            assert not reading.done()
        await reading
        findings = Findings()
        await scene.check(findings)
        assert not findings.violations, findings.violations
        assert {e["fence"] for e in scene.acknowledged() if e["kind"] == "claimed"} == {1}


@pytest.mark.slow
async def test_workers_whose_clocks_are_an_hour_off_hold_and_take_over_by_the_stores_time(
    server_kind: str, make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    fake = next((path for place in FAKES for path in glob.glob(place)), None)
    if fake is None:
        require(Unavailable("no libfaketime: install Debian's `faketime`"))
    clocks = [
        {"LD_PRELOAD": str(fake), "FAKETIME": f"{off:+d}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        for off in (1, -1)
    ]
    async with (
        Cast.gathered(clocks[0]) as ahead,
        Fleet(env=clocks[1]) as behind,
        Scene(ahead, store, tmp_path, ttl=1.0) as scene,
    ):
        fast = await scene.start_ready("fast")
        slow = await scene.start_ready("slow", fleet=behind)
        plan = Plan("off", (("charge",),), words=150, delay=0.02)
        run = await scene.post(plan, "c:0", random.Random(1), to=fast)
        other = await scene.post(plan, "d:0", random.Random(2), to=slow)
        # Each lives longer than the lease without being taken over by the other.
        await asyncio.gather(*(scene.read(run, random.Random(1)) for run in (run, other)))
        assert {e["was"] for e in scene.acknowledged() if e["kind"] == "claimed"} == {"queued"}
        times = {entry["kind"]: entry["time"] - time.time() for entry in scene.acknowledged()}
        assert abs(abs(times["claimed"]) - HOUR) < HOUR / 2
        # The one that is ahead dies, and the one that is behind takes over.
        last = await scene.post(plan, "e:0", random.Random(3), to=fast)
        await scene.until_appended(3)
        for worker in (fast, slow):
            if worker.pid == [e for e in scene.acknowledged() if e["kind"] == "claimed"][-1]["pid"]:
                worker.kill()
        await scene.read(last, random.Random(3))
        findings = Findings()
        logs = await scene.check(findings)
        assert not findings.violations, findings.violations
        assert any(event.type == "run_resumed" for event in logs[last.run_id])
        for events in logs.values():
            assert all(abs(event.at / 1000 - time.time()) < HOUR / 2 for event in events)
            assert fold(events).status == "success"
