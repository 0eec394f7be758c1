"""``streamchat worker`` as people start it: it works on what others take, and ends in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamchat import fold
from streamchat.cli import main
from tests.service.processes import ROOT, chat_over, said
from tests.service.support import drain

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:SQLite .* has the WAL-reset bug")]

COMMAND = (sys.executable, "-W", "ignore", "-m", "streamchat.cli", "worker")


@asynccontextmanager
async def worker(url: str, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHONASYNCIO")}
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, f"tests.cli.worker_app:{name}", "--look-every", "0.1"),
        cwd=ROOT,
        env={**environment, "STREAMCHAT_TEST_WORKER_URL": url},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert b"is at work" in await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("name", ["chat", "make"])
async def test_a_worker_answers_what_a_process_that_only_serves_takes(tmp_path: Path, name: str) -> None:
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    async with chat_over(url, work=False) as web, worker(url, name) as process:
        started = await web.start(None, "hello")
        assert fold(await drain(web, started.run_id)).text == "You said hello."
        process.send_signal(signal.SIGTERM)
        await said(process, "streamchat worker: ended")
        assert await process.wait() == 0


async def test_at_sigterm_a_worker_waits_and_at_a_second_one_it_hands_over(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    async with chat_over(url, work=False) as web, worker(url, "chat") as process:
        started = await web.start(None, "wait")
        await said(process, "waiting")
        process.send_signal(signal.SIGTERM)
        await said(process, "streamchat worker: finishing what runs (60 s at most)…")
        assert (await web.buffer.get(started.run_id)).owner is not None
        process.send_signal(signal.SIGTERM)
        await said(process, "tool cancelled")
        await said(process, "streamchat worker: ended")
        assert await process.wait() == 0
        run = await web.buffer.get(started.run_id)
        assert (run.owner, run.over) == (None, False)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tests.cli.worker_app", "name a module"),
        ("tests.cli.worker_app:", "name a module"),
        ("tests.cli.worker_app:missing", "has no 'missing'"),
        ("tests.cli.worker_app:nothing", "is of type int: it must be a StreamChat"),
        ("tests.cli.nowhere:chat", "there is no module 'tests.cli.nowhere'"),
    ],
)
def test_what_is_no_streamchat_is_told_in_one_sentence(
    name: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    assert main(["worker", name]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert told in captured.err
