"""What runs carry: text that poisons stores, and outputs as large as they may be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from streamchat.core.fold import fold
from tests.chaos.checks import Findings
from tests.chaos.conftest import MakeStore, brief_on
from tests.chaos.provider import Plan
from tests.chaos.scene import Cast, Scene, StartedRun
from tests.chaos.stores import store_at
from tests.chaos.tools import BIG

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@brief_on("sqlite", "postgres", "mariadb", "valkey")
async def test_poisonous_text_passes_everywhere_and_harms_nobody(
    kind: str, cast: Cast, make_store: MakeStore, tmp_path: Path
) -> None:
    async with Scene(cast, make_store(tmp_path), tmp_path, ttl=10.0) as scene:
        await scene.start_ready(f"{tmp_path.name}/1")
        # From the user, from the model, from a tool; beside a run that knows nothing of it. (Over HTTP halves
        # of characters are refused as JSON, see below.)
        plan = Plan("poisoned", (("poison",),), poison=True)
        started = await scene.chat.start("c", plan.encode())
        poisoned = StartedRun(started.run_id, "c", plan)
        scene.runs.append(poisoned)
        plain = await scene.post(Plan("plain", (("charge",),)), "d:0", random.Random(2))
        for run in (poisoned, plain):
            await scene.read(run, random.Random(3))
        # What was said is history of the next turn.
        again = await scene.post(Plan("again"), "c:1", random.Random(4))
        await scene.read(again, random.Random(5))
        findings = Findings()
        logs = await scene.check(findings)
        assert not findings.violations, findings.violations
        (result,) = [e.event for e in logs[poisoned.run_id] if e.type == "tool_result"]
        assert (result.outcome, fold(logs[plain.run_id]).text[-8:]) == ("ok", "plain-1-39"[-8:])
        for text in (fold(logs[poisoned.run_id]).text, *result.output, *result.output.values()):
            assert text.rpartition("before ")[2].endswith("after")
            assert not any("\ud800" <= letter <= "\udfff" for letter in text)


async def test_a_user_over_http_may_send_nul_and_is_told_of_half_characters(
    cast: Cast, tmp_path: Path
) -> None:
    store = store_at("sqlite", "", tmp_path)
    async with Scene(cast, store, tmp_path, ttl=10.0) as scene:
        worker = await scene.start_ready(f"{tmp_path.name}/1")
        for text, status, code in (("a\0b", 201, None), ("a\ud800b", 422, "invalid_json")):
            url = f"http://127.0.0.1:{worker.port}/runs"
            async with cast.session.post(url, json={"message": text}) as response:
                answer = await response.json()
                assert (response.status, answer.get("error", {}).get("code")) == (status, code)


@brief_on("sqlite", "postgres")
async def test_an_output_of_eight_megabytes_passes(
    kind: str, cast: Cast, make_store: MakeStore, tmp_path: Path
) -> None:
    async with Scene(cast, make_store(tmp_path), tmp_path, ttl=20.0) as scene:
        await scene.start_ready(f"{tmp_path.name}/1", pause=0.01)
        run = await scene.post(Plan("big", (("big",),), words=5), "c:0", random.Random(1))
        await scene.read(run, random.Random(1))
        findings = Findings()
        logs = await scene.check(findings)
        assert not findings.violations, [what[:300] for _, what in findings.violations]
        (result,) = [e.event for e in logs[run.run_id] if e.type == "tool_result"]
        assert (result.outcome, result.output == "x" * BIG) == ("ok", True)
