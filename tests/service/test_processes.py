"""Several processes over one store: who reads, who works, who dies, and what the others make of it."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streamchat import HistoryReset, ServiceLimits, StreamChat, check_log, fold
from streamchat.buffers.notes import notes_of
from streamchat.errors import Busy
from tests.services.databases import database

from .processes import chat_over, process, said
from .support import drain, log_of

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:SQLite .* has the WAL-reset bug")]


def on(*always: str) -> pytest.MarkDecorator:
    """Run a test on these stores, and in the long run on the others."""
    stores = ("sqlite", "postgres", "valkey")
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in stores if name not in always]
    return pytest.mark.parametrize("url", [*always, *slow], indirect=True)


@pytest.fixture
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "postgres":
        async with database(request.getfixturevalue("postgres_url")) as new:
            yield new
    elif request.param == "valkey":
        yield f"{request.getfixturevalue('valkey_url')}#{secrets.token_hex(4)}"
    else:
        yield f"sqlite:///{tmp_path / 'chat.db'}"


@asynccontextmanager
async def two(url: str, **more: Any) -> AsyncIterator[tuple[StreamChat, StreamChat]]:
    """A process that only serves, and one that works."""
    async with chat_over(url, work=False, **more) as web, chat_over(url, **more) as worker:
        yield web, worker


async def over(chat: StreamChat, run_id: str) -> str:
    """Wait for a run's end without reading it, which would have a meaning; return its status."""
    while not (run := await chat.buffer.get(run_id)).over:
        await asyncio.sleep(0.02)
    return run.status


@on("sqlite", "postgres")
async def test_what_one_process_takes_another_answers_and_the_first_streams_it(url: str) -> None:
    async with two(url) as (web, worker):
        started = await web.start(None, "hello")
        events = await drain(web, started.run_id)
        assert check_log(events) == "over"
        assert fold(events).text == "You said hello."
        assert (await web.buffer.get(started.run_id)).fence == 1
        assert events == await drain(worker, started.run_id)


@on("sqlite", "postgres")
async def test_a_cancel_in_one_process_stops_the_tool_in_another(url: str) -> None:
    async with process(url, "work") as worker, chat_over(url, work=False) as web:
        started = await web.start(None, "wait")
        await said(worker, "waiting")
        await web.cancel(started.run_id, reason="enough")
        await said(worker, "tool cancelled")
        assert await over(web, started.run_id) == "cancelled"
        ending = [event for event in await log_of(web, started.run_id) if event.type == "cancelled"]
        assert [event.reason for event in ending] == ["enough"]


@on("sqlite")
async def test_presence_tells_of_connections_to_other_processes(url: str) -> None:
    async with two(url) as (web, worker):
        started = await web.start(None, "wait", client_id="phone")
        async with web.attach(started.run_id, client_id="phone") as reading:
            got = await reading.next()
            assert not isinstance(got, HistoryReset)
            while [p.client_id for p in await worker.presence(started.run_id)] != ["phone"]:
                await asyncio.sleep(0.02)
            (here,) = await web.presence(started.run_id)
            assert here.cursor == reading.cursor
            assert here.since <= (await worker.presence(started.run_id))[0].since
        while await worker.presence(started.run_id):
            await asyncio.sleep(0.02)
        assert await web.presence(started.run_id) == []
        await web.cancel(started.run_id)
        await over(web, started.run_id)


@on("sqlite", "postgres")
async def test_the_last_reader_of_all_processes_decides(url: str) -> None:
    async with two(url, on_disconnect=0.3) as (web, worker):
        started = await web.start(None, "wait")
        first = await web.attach(started.run_id)
        second = await worker.attach(started.run_id)
        notes = notes_of(web.buffer)
        assert notes is not None
        assert len(await notes.notes(started.run_id)) == 2
        await first.close()
        # The web process has looked, found the other's reader, and left it to that one.
        while len(await notes.notes(started.run_id)) == 2:
            await asyncio.sleep(0.02)
        assert not (await web.buffer.get(started.run_id)).over
        await second.close()
        assert await over(web, started.run_id) == "cancelled"
        (cancelled,) = [event for event in await log_of(web, started.run_id) if event.type == "cancelled"]
        assert cancelled.reason == "disconnected"


@on("sqlite")
async def test_a_run_may_have_a_policy_of_its_own(url: str) -> None:
    async with two(url, on_disconnect="cancel") as (web, _):
        kept = await web.start(None, "wait", on_disconnect="continue")
        ended = await web.start(None, "wait")
        for started in (kept, ended):
            async with web.attach(started.run_id) as reading:
                await reading.next()
        assert await over(web, ended.run_id) == "cancelled"
        assert not (await web.buffer.get(kept.run_id)).over
        await web.cancel(kept.run_id)
        await over(web, kept.run_id)


@on("sqlite")
async def test_the_readers_of_a_process_that_is_killed_have_left(url: str) -> None:
    async with chat_over(url, on_disconnect="cancel") as chat:
        started = await chat.start(None, "wait")
        async with process(url, "read", started.run_id) as reader:
            await said(reader, "connected")
            assert [p.client_id for p in await chat.presence(started.run_id)] == ["elsewhere"]
            reader.kill()
            await reader.wait()
        assert await over(chat, started.run_id) == "cancelled"


@on("sqlite")
async def test_a_run_that_kills_its_workers_is_given_up_after_max_takeovers(url: str) -> None:
    async with chat_over(url, work=False) as web:
        started = await web.start(None, "poison")
        killed = 0
        while killed < 2:  # the first, and max_takeovers
            async with process(url, "work") as worker:
                assert worker.stdout is not None
                while b"poisoned" not in (line := await worker.stdout.readline()):
                    assert line
                assert await worker.wait() == -signal.SIGKILL
            killed += 1
        async with process(url, "work"):
            assert await over(web, started.run_id) == "error"
        log = await log_of(web, started.run_id)
    (error,) = [event for event in log if event.type == "error"]
    assert (error.phase, error.code) == ("limit", "max_takeovers")
    assert len([event for event in log if event.type == "run_resumed"]) == 2
    # Each start was on record before the tool killed its process.
    assert len([event for event in log if event.type == "tool_started"]) == killed
    assert check_log(log) == "over"


@on("sqlite")
async def test_a_worker_that_slept_past_its_lease_ends_its_local_work(url: str) -> None:
    async with process(url, "work") as worker, chat_over(url, work=False) as web:
        started = await web.start(None, "wait")
        await said(worker, "waiting")
        worker.send_signal(signal.SIGSTOP)
        try:
            async with chat_over(url) as other:
                # The tool is not idempotent: the one who takes over tells that its outcome is unknown.
                assert await over(other, started.run_id) == "success"
        finally:
            worker.send_signal(signal.SIGCONT)
        await said(worker, "tool cancelled")
        log = await log_of(web, started.run_id)
        assert [event.outcome for event in log if event.type == "tool_result"] == ["unknown"]
        assert len([event for event in log if event.type == "tool_started"]) == 1


@on("sqlite")
async def test_a_process_that_does_not_work_takes_any_number_until_it_drains(url: str) -> None:
    limits = ServiceLimits(max_runs=1, max_queue=1)
    async with chat_over(url, work=False, limits=limits) as web:
        runs = [await web.start(None, "hello") for _ in range(4)]
        assert {(await web.status(run.run_id)).status for run in runs} == {"queued"}
        # What nobody holds is ended where the cancel is posted.
        await web.cancel(runs[0].run_id)
        assert (await web.status(runs[0].run_id)).status == "cancelled"
        await web.drain(0)
        with pytest.raises(Busy, match="shutting down"):
            await web.start(None, "hello")
