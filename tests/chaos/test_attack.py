"""Attacks with a random hand: workers are killed and frozen while users ask, read, come back and cancel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.conftest import MakeStore, brief_on
from tests.chaos.report import as_text
from tests.chaos.run import Attack, Options

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@brief_on("sqlite")
async def test_nothing_is_lost_doubled_or_left_behind_by_killed_workers(
    kind: str, make_store: MakeStore, tmp_path: Path
) -> None:
    options = Options(kind, seconds=4.0, seed=11, kills=8, rate=2.0, ttl=0.8, patience=120.0)
    outcome = await Attack(options, make_store(tmp_path), tmp_path).run()
    assert not outcome.findings.violations, as_text(outcome)
    # It would prove nothing if nobody had been killed in mid-answer.
    assert outcome.kills > 0
    assert outcome.findings.acknowledged > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [21])
async def test_nothing_is_lost_doubled_or_left_behind_in_a_longer_attack(
    kind: str, seed: int, make_store: MakeStore, tmp_path: Path
) -> None:
    options = Options(kind, seconds=15.0, seed=seed, kills=20, patience=180.0)
    outcome = await Attack(options, make_store(tmp_path), tmp_path).run()
    assert not outcome.findings.violations, as_text(outcome)
    assert outcome.kills > 10
    assert outcome.take_overs
