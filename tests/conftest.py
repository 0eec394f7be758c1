"""What holds for every test: the event loop, how much hypothesis tries, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

# Real servers for every test that asks for one by name.
from tests.services.fixtures import mariadb_url, postgres_url, redis_url, valkey_url  # noqa: F401

# For loops that tests and their subprocesses start themselves; the anyio fixture says it again for its own.
os.environ.setdefault("PYTHONASYNCIODEBUG", "1")

# A shell starts what runs in the background with SIGINT ignored, and children inherit that; the programs
# under test are started as people start them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: how long an example takes says nothing on a shared machine, and pytest-timeout ends a hang.
# Derandomized, so that a change is judged by itself. The long run searches, except under CI, where what luck
# finds would fall on whoever comes next.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("short", _COMMON, max_examples=60, derandomize=True)
settings.register_profile(
    "long", _COMMON, max_examples=500, print_blob=True, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backends", help="buffers to test, separated by commas: memory,sqlite,postgres …")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the process where pytest-timeout cannot end the test: its exception may hit a task that nobody
    awaits, and the loop would run for ever."""
    marker = item.get_closest_marker("timeout")
    given = marker.args[0] if marker and marker.args else item.config.getvalue("timeout")
    seconds = float(given or item.config.getini("timeout") or 60)
    faulthandler.dump_traceback_later(2 * seconds + 60, exit=True, file=2)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Reports go from process to process as UTF-8, which half a character in a log or an assertion is not:
    the whole run would end there."""
    report = yield
    report.sections = [(name, _encodable(text)) for name, text in report.sections]
    if report.longrepr is not None and (words := str(report.longrepr)) != _encodable(words):
        report.longrepr = _encodable(words)
    return report


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The loop that async tests run on: asyncio in debug mode.

    A module that promises trio as well parametrizes `anyio_backend` with ``["asyncio", "trio"]``.
    """
    return "asyncio", {"debug": True}


# ------------------------------------------------------------------------------------- nothing is left behind


@pytest.fixture
async def _no_task_left() -> AsyncIterator[None]:
    """Fails a test that ends while an asyncio task which it started is still running."""
    before = asyncio.all_tasks()
    yield
    # anyio's runner has a task of its own for each call from outside the loop.
    left = {task for task in asyncio.all_tasks() - before if "TestRunner." not in repr(task.get_coro())}
    if left:
        # What is about to end may do so: the promise is that every task has an owner, not that it ends now.
        _, left = await asyncio.wait(left, timeout=1.0)
    if left:
        names = "\n".join(f"  {task!r}" for task in left)
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1.0)
        pytest.fail(f"{len(left)} asyncio task(s) left behind:\n{names}", pytrace=False)


class _Complaints(logging.Handler):
    """Collects what asyncio can only log: tasks destroyed while pending, exceptions that nobody retrieved."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Applies to every test; `leaves_tasks` excuses a test whose subject is a task that cannot be ended."""
    is_async = request.node.get_closest_marker("anyio") is not None
    if is_async and request.node.get_closest_marker("leaves_tasks") is None:
        backend = request.getfixturevalue("anyio_backend")
        if (backend if isinstance(backend, str) else backend[0]) == "asyncio":
            request.getfixturevalue("_no_task_left")
    complaints = _Complaints()
    logger = logging.getLogger("asyncio")
    logger.addHandler(complaints)
    try:
        yield
        if is_async:
            gc.collect()  # asyncio complains when the forgotten task or future is collected
            gc.freeze()  # what is still alive is of no interest to the tests that follow
    finally:
        logger.removeHandler(complaints)
    if complaints.messages:
        pytest.fail("asyncio complained:\n" + "\n".join(complaints.messages), pytrace=False)


def pytest_collection_finish() -> None:
    # What is alive now stays: out of the collector's sight, a collection after each async test is cheap.
    gc.collect()
    gc.freeze()
