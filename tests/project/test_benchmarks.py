"""Each benchmark runs, with sizes that say nothing: how long things take is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.measure import TINY, Row, Samples
from benchmarks.report import as_json, as_page, as_text
from tests.project.support import ROOT

AT_ONCE = {"in-process", "accumulate", "append"}
"""Those that start no other process; the rest is for `make test-all`."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in AT_ONCE else [pytest.mark.slow]) for name in BENCHMARKS]
)
@pytest.mark.timeout(130)
def test_a_benchmark_runs(name: str) -> None:
    # In a process of its own: it moves the collector's generations about, and wants no debugging of the loop.
    code = f"""
from benchmarks.__main__ import BENCHMARKS, _run
from benchmarks.measure import TINY
_, loop, benchmark = BENCHMARKS[{name!r}]
rows = _run(benchmark, TINY, loop)
assert rows and all(row.value > 0 for row in rows if "more subscriber" not in row.name), rows
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_row_has_a_verdict_only_where_there_is_a_budget() -> None:
    assert [
        Row("a", 1.0, 1.3).verdict,
        Row("b", 1.4, 1.3).verdict,
        Row("c", 5.0).verdict,
        Row("d", 5.0, 4.0, at_least=True).verdict,
    ] == ["met", "missed", "", "met"]


def test_a_verdict_tells_what_is_missed_from_what_may_be_and_what_nobody_could_keep() -> None:
    assert [
        Row("a", 0.55, 0.5, margin=0.25).verdict,
        Row("b", 0.65, 0.5, margin=0.25, floor=0.4).verdict,
        Row("c", 0.65, 0.5, margin=0.25, floor=0.52).verdict,
        Row("d", 0.55, 0.5).verdict,
    ] == ["within ± 25%", "missed", "missed, as is the floor", "missed"]


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    samples = Samples({"ours": [1.0, 6.0, 2.0], "base": [1.0, 2.0, 4.0]})
    row = samples.row("x", "ours", "base")
    assert (row.value, row.low, row.high) == (1.0, 0.5, 3.0)


def test_the_report_has_every_row_in_each_form(tmp_path: Path) -> None:
    results = {"Title": [Row("first", 0.5, 0.6, low=0.4, high=0.7), Row("second", 1234.0, unit="events/s")]}
    for text in (as_json(results), as_page(results), as_text("Title", results["Title"])):
        assert "first" in text
        assert "second" in text
    assert json.loads(as_json(results))["benchmarks"]["Title"][0]["verdict"] == "met"


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert all(name in done.stderr for name in BENCHMARKS)


def test_the_tiny_scale_is_tiny() -> None:
    assert TINY.rounds == 1
    assert TINY.live_seconds < 0.1
