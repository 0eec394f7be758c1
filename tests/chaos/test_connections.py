"""What lies between a worker and its server fails: answers get lost, connections stand open in silence."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.chaos.checks import Findings
from tests.chaos.conftest import MakeStore, brief_on
from tests.chaos.provider import Plan
from tests.chaos.proxy import Proxy
from tests.chaos.scene import Cast, Scene

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

TRIES = 100


@brief_on("postgres", "valkey")
async def test_a_batch_whose_acknowledgement_is_lost_is_written_once(
    server_kind: str, cast: Cast, make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    async with Proxy.before(store.url) as proxy, Scene(cast, store, tmp_path, ttl=20.0) as scene:
        worker = await scene.start_ready(f"{tmp_path.name}/1", url=proxy.url)
        plan = Plan("again", (("charge",),), words=600, delay=0.01)
        async with asyncio.TaskGroup() as group:
            run = await scene.post(plan, "c:0", random.Random(1), to=worker)
            group.create_task(scene.read(run, random.Random(1)))
            for _ in range(TRIES):
                await scene.until_appended(1)
                proxy.lose_answers()
                await proxy.swallowed.wait()
                await asyncio.sleep(0.05)  # so that the server has done what it was told
                proxy.reset()
                if any(entry.get("recovered") for entry in scene.acknowledged()):
                    break
        findings = Findings()
        await scene.check(findings)
        assert not findings.violations, findings.violations
        assert any(entry.get("recovered") for entry in scene.acknowledged())
        assert (findings.effects, findings.unknown) == (1, 0)


@brief_on("mariadb")
async def test_a_connection_that_stands_open_in_silence_holds_up_nobody(
    server_kind: str, cast: Cast, make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    async with Proxy.before(store.url) as proxy, Scene(cast, store, tmp_path, ttl=1.0) as scene:
        cut_off = await scene.start_ready(f"{tmp_path.name}/1", url=proxy.url, silence=2.0)
        plan = Plan("silence", (), words=100, delay=0.02)
        run = await scene.post(plan, "c:0", random.Random(1), to=cut_off)
        await scene.until_appended(3)
        proxy.go_silent()
        await scene.start_ready(f"{tmp_path.name}/2")
        await scene.read(run, random.Random(1))
        # It finds out, lets the run go, and works on over new connections.
        await scene.until_logged("let go")
        again = await scene.post(Plan("again", (("charge",),)), "c:1", random.Random(1), to=cut_off)
        await scene.read(again, random.Random(1))
        findings = Findings()
        await scene.check(findings)
        assert not findings.violations, findings.violations
