"""Two workers and a run: the one that holds it dies or is frozen, and a client of the other sees it all."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamchat import StoredEvent
from tests.chaos.checks import Findings
from tests.chaos.conftest import MakeStore, brief_on
from tests.chaos.fleet import Worker
from tests.chaos.provider import Plan
from tests.chaos.readers import Reading, follow_over_http
from tests.chaos.scene import Cast, Scene, StartedRun

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

TTL = 0.8


@contextlib.asynccontextmanager
async def two_workers(
    cast: Cast, make_store: MakeStore, folder: Path, **spec: Any
) -> AsyncIterator[tuple[Scene, Worker, Worker]]:
    """A scene with two workers, the second of which takes only what the first lets fall."""
    async with Scene(cast, make_store(folder), folder, TTL, **spec) as scene:
        holder = await scene.start_ready(f"{folder.name}/holder")
        other = await scene.start_ready(f"{folder.name}/other")
        yield scene, holder, other


async def read_until(scene: Scene, run: StartedRun, kind: str) -> StoredEvent:
    """Follow a run until there is an event of that type."""
    async for event in scene.chat.attach(run.run_id):
        if event.type == kind:
            assert isinstance(event, StoredEvent)
            return event
    raise AssertionError(f"no {kind} came")


def finished(scene: Scene, findings: Findings) -> None:
    assert not findings.violations, findings.violations
    assert len({entry["pid"] for entry in scene.acknowledged() if entry["kind"] == "claimed"}) == 2


@brief_on("sqlite", "postgres")
async def test_a_client_of_the_other_process_sees_the_answer_of_a_killed_one_finish(
    kind: str, cast: Cast, make_store: MakeStore, tmp_path: Path
) -> None:
    async with two_workers(cast, make_store, tmp_path) as (scene, holder, other):
        plan = Plan("told", (("charge",),), words=120, delay=0.02)
        run = await scene.post(plan, "c:0", random.Random(1), to=holder)
        reading = Reading("one connection")
        reached = asyncio.Event()
        url = f"http://127.0.0.1:{other.port}/runs/{run.run_id}/stream"
        async with cast.session.get(url) as response:
            assert response.status == 200
            following = asyncio.create_task(follow_over_http(response, reading, 25, reached))
            await reached.wait()
            claims = [entry["pid"] for entry in scene.acknowledged() if entry["kind"] == "claimed"]
            assert claims == [holder.pid]
            holder.kill()
            await following
        assert reading.events[-1]["type"] == "finalized"
        assert [e["worker"] for e in reading.events if e["type"] == "run_resumed"] == [other.name]
        run.readings, run.read = [reading], True
        findings = Findings()
        await scene.check(findings)
        finished(scene, findings)


@brief_on("sqlite", "postgres")
async def test_a_worker_frozen_past_its_lease_is_refused_and_drops_its_work(
    kind: str, cast: Cast, make_store: MakeStore, tmp_path: Path
) -> None:
    # The tool would take effect long after the end of the test.
    async with two_workers(cast, make_store, tmp_path, pause=60.0) as (scene, holder, _):
        plan = Plan("frozen", (("charge",),), words=5, delay=0.005)
        run = await scene.post(plan, "c:0", random.Random(1), to=holder)
        await read_until(scene, run, "tool_started")
        holder.freeze()
        await scene.read(run, random.Random(1))
        holder.thaw()
        await until(lambda: any(e["kind"] == "refused" for e in scene.acknowledged()))
        # What the zombie was doing is cancelled, so it never takes effect.
        await until(lambda: [e["kind"] for e in scene.effects()] == ["cancelled"])
        findings = Findings()
        logs = await scene.check(findings)
        finished(scene, findings)
        assert (findings.unknown, findings.effects) == (1, 0)
        resumed = [event.event.worker for event in logs[run.run_id] if event.type == "run_resumed"]
        assert len(resumed) == 1
        assert resumed[0] != holder.name


@brief_on("valkey")
async def test_a_worker_frozen_in_mid_answer_is_refused_at_its_next_append(
    kind: str, cast: Cast, make_store: MakeStore, tmp_path: Path
) -> None:
    async with two_workers(cast, make_store, tmp_path) as (scene, holder, _):
        plan = Plan("frozen", (), words=100, delay=0.02)
        run = await scene.post(plan, "c:0", random.Random(1), to=holder)
        await read_until(scene, run, "text_delta")
        holder.freeze()
        await scene.read(run, random.Random(1))
        holder.thaw()
        await until(lambda: any(e["kind"] == "refused" for e in scene.acknowledged()))
        # It is well otherwise, and takes the next run.
        again = await scene.post(plan, "c:1", random.Random(2), to=holder)
        await scene.read(again, random.Random(2))
        findings = Findings()
        await scene.check(findings)
        finished(scene, findings)


async def until(true: Any) -> None:
    while not true():
        await asyncio.sleep(0.02)
