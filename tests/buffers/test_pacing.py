"""When a transaction waits for company, and that nothing which matters ever waits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from streamchat.buffers.base import NewEvent
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.buffers.sql.sqlite_backend import SQLiteBackend
from streamchat.buffers.transactional.pacing import DISTANCE, ENOUGH, Pace
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas
from tests.buffers.backends import SQLite

RUNS = st.lists(st.sampled_from("abcdefghijklmnopqrstuvwx"), min_size=1, max_size=24, unique=True)
TIMES = st.floats(0, 10 * DISTANCE)


@given(st.lists(st.tuples(TIMES, RUNS)), RUNS, st.booleans(), TIMES)
def test_a_pause_is_short_and_only_for_deltas_in_company(
    history: list[tuple[float, list[str]]], runs: list[str], durable: bool, after: float
) -> None:
    pace, now = Pace(), 0.0
    for gap, begun in history:
        now += gap
        pace.begun(begun, now)
    last, now = now, now + after
    seconds = pace.pause(runs, durable=durable, now=now)
    assert 0 <= seconds <= DISTANCE + 1e-9  # ``now`` is a sum of floats
    if seconds:
        assert history
        assert not durable
        assert len(runs) < ENOUGH
        assert now + seconds == pytest.approx(last + DISTANCE)
        others = {run for _, begun in history for run in begun} - set(runs)
        assert len(others) >= 2


def test_one_run_alone_never_waits() -> None:
    pace = Pace()
    for tick in range(100):
        assert pace.pause(["a"], durable=False, now=tick / 10_000) == 0
        pace.begun(["a"], tick / 10_000)


def test_several_runs_wait_for_each_other_until_enough_have_come() -> None:
    pace = Pace(1.0)
    for number in range(3):
        pace.begun([f"run-{number}"], number / 10)
    assert pace.pause(["x"], durable=False, now=0.4) == pytest.approx(0.8)
    assert pace.pause(["run-0", "run-1"], durable=False, now=0.4) == 0
    assert pace.pause(["x"], durable=True, now=0.4) == 0
    assert pace.pause([str(n) for n in range(ENOUGH)], durable=False, now=0.4) == 0
    assert pace.pause(["x"], durable=False, now=1.3) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("hurry", ["a barrier", "enough", "the end"])
async def test_what_waits_goes_as_soon_as_there_is_a_reason(tmp_path: Path, hurry: str) -> None:
    backend = SQLite(tmp_path)
    async with backend.open() as buffer:
        assert isinstance(buffer, SQLEventBuffer)
        assert isinstance(buffer._backend, SQLiteBackend)
        writer = buffer._backend._writer
        assert writer is not None
        bench = Bench(buffer, None, backend.advance, 30.0)
        leases = [await bench.held() for _ in range(12)]
        writer._pace = Pace(30.0)
        for lease in leases[:3]:
            # All but the first would wait, had they company; now they are the company.
            writer._pace.begun([lease.run_id], 0.0)
        await buffer.append(leases[3], deltas("first"))
        for lease in leases[:3]:
            writer._pace._recent[lease.run_id] = float("inf")
        lingering = asyncio.ensure_future(buffer.append(leases[4], deltas("waits")))
        done, _ = await asyncio.wait([lingering], timeout=0.05)
        assert not done
        if hurry == "a barrier":
            await buffer.append(leases[5], [NewEvent("tool_started", b"{}")])
        elif hurry == "enough":
            others = [buffer.append(lease, deltas("more")) for lease in leases[5:12]]
            await asyncio.gather(*others, return_exceptions=False)
        else:
            await buffer.close()
        await lingering
