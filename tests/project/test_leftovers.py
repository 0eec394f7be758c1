"""The suite's own guard: a test that leaves something behind on the event loop fails, and says what."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.project.support import ROOT

CONFTEST = "from tests.conftest import _no_task_left, _nothing_left_behind, anyio_backend\n"

CASES = """
import asyncio
import gc

import pytest

kept = []


@pytest.mark.anyio
async def test_a_task_runs_on():
    kept.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))


@pytest.mark.anyio
async def test_nobody_retrieves_an_exception():
    async def fail():
        raise ValueError("unseen")

    task = asyncio.create_task(fail())
    await asyncio.wait([task])


def test_a_loop_is_closed_under_its_task():
    loop = asyncio.new_event_loop()
    loop.create_task(asyncio.sleep(9))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del loop
    gc.collect()


@pytest.mark.anyio
async def test_nothing_is_left():
    await asyncio.create_task(asyncio.sleep(0))


@pytest.mark.anyio
@pytest.mark.leaves_tasks
async def test_a_task_is_left_on_purpose():
    kept.append(asyncio.create_task(asyncio.Event().wait(), name="meant"))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("leftovers")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_case.py").write_text(CASES)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={folder}", "--tb=short"]
    # The project's markers, and not its warnings: the guard must find these things by itself.
    command += ["-c", str(ROOT / "pyproject.toml"), "-W", "default", "test_case.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("case", "complaint"),
    [
        ("test_a_task_runs_on", "forgotten"),
        ("test_nobody_retrieves_an_exception", "unseen"),
        ("test_a_loop_is_closed_under_its_task", "Task was destroyed but it is pending"),
    ],
)
def test_what_is_left_behind_fails_the_test_that_left_it(report: str, case: str, complaint: str) -> None:
    assert re.search(rf"^(ERROR|FAILED) test_case.py::{case} ", report, flags=re.MULTILINE)
    assert complaint in report


@pytest.mark.parametrize("case", ["test_nothing_is_left", "test_a_task_is_left_on_purpose"])
def test_a_test_that_may_leave_what_it_left_passes(report: str, case: str) -> None:
    assert f"test_case.py::{case}" not in report
    assert "meant" not in report
