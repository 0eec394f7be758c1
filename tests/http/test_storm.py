"""A reconnect storm: all clients are cut off, and come back at once, each with a cursor of its own."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streamchat import MemoryEventBuffer, StoredEvent, StreamChat
from streamchat.core.sse import SSEDecoder
from streamchat.errors import RunNotFound
from streamchat.http import Request
from streamchat.principal import Principal
from streamchat.service.log import read_log
from streamchat.testing import ScriptedModel, Stall, Step
from tests.adapters.serving import Connection, fetch, read_until
from tests.http.asking import make_request, serving
from tests.http.storm_server import WORDS
from tests.project.support import ROOT
from tests.service.support import WatchedBuffer

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def server(path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.http.storm_server", str(path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ids_of(port: int, run_id: str) -> list[str]:
    """The ids of all events of a run, as a stream brings them."""
    connection = await Connection.open(port)
    await connection.send("GET", f"/runs/{run_id}/stream")
    await connection.head()
    frames = SSEDecoder().feed(await connection.body())
    await connection.close()
    return [frame.id or "" for frame in frames if frame.data]


class Client:
    """Reads a run, is cut off, comes back with a cursor, and reads to the end."""

    def __init__(self, port: int, run_id: str) -> None:
        self.port = port
        self.path = f"/runs/{run_id}/stream"
        self.connection: Connection | None = None

    async def connect(self, cursor: str | None = None) -> None:
        self.connection = await Connection.open(self.port)
        lines = [f"GET {self.path} HTTP/1.1", "Host: test"]
        lines += [f"Last-Event-ID: {cursor}"] if cursor is not None else []
        await self.connection.send_raw("\r\n".join([*lines, "", ""]).encode())
        await self.connection.head()
        assert self.connection.status == 200, self.connection.status

    async def cut(self) -> None:
        assert self.connection is not None
        await self.connection.close(abort=True)

    async def rest(self) -> list[str]:
        assert self.connection is not None
        frames = SSEDecoder().feed(await self.connection.body())
        await self.connection.close()
        return [frame.id or "" for frame in frames if frame.data]


@pytest.mark.parametrize(
    ("clients", "runs"),
    [(75, 3), pytest.param(1000, 10, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
async def test_all_clients_come_back_at_once_and_each_gets_its_tail(
    clients: int, runs: int, tmp_path: Path
) -> None:
    chance = random.Random(5)
    async with server(tmp_path / "runs.db") as (process, port):
        started = [(await fetch(port, "POST", "/runs", {"message": "Hi"}))[1]["run_id"] for _ in range(runs)]
        cursors: dict[str, list[str]] = {}
        for run_id in started:
            reader = Client(port, run_id)
            await reader.connect()
            assert reader.connection is not None
            got = await read_until(reader.connection.blocks(), b"word99")  # where it stands still
            cursors[run_id] = [frame.id or "" for frame in SSEDecoder().feed(got) if frame.id]
            await reader.cut()
        crowd = [Client(port, started[number % runs]) for number in range(clients)]
        await asyncio.gather(*(client.connect() for client in crowd))
        assert (await fetch(port, "GET", "/counts"))[1]["open"] == clients
        await asyncio.gather(*(client.cut() for client in crowd))
        await fetch(port, "GET", "/counts")
        # Half of them had all that there was; the others had been slow.
        had = [
            of_run[-1] if chance.random() < 0.5 else chance.choice(of_run)
            for of_run in (cursors[client.path.split("/")[2]] for client in crowd)
        ]
        await asyncio.gather(*(client.connect(cursor) for client, cursor in zip(crowd, had, strict=True)))
        await fetch(port, "POST", "/release")
        rests = await asyncio.gather(*(client.rest() for client in crowd))
        counts = (await fetch(port, "GET", "/counts"))[1]
        logs = {run_id: await ids_of(port, run_id) for run_id in started}
        for client, cursor, rest in zip(crowd, had, rests, strict=True):
            log = logs[client.path.split("/")[2]]
            behind = log.index(cursor) + 1 if cursor in log else 0  # generation.0 stands before the first
            assert rest == log[behind:]
        assert process.returncode is None
        assert (await fetch(port, "GET", "/health/ready"))[0] == 200
        # One look for all who come at once, another where somebody comes later and had less than others, and
        # one to go on. Whose the run is, is looked up for each.
        assert set(counts["reads"]) == set(started)
        assert max(counts["reads"].values()) <= max(map(len, cursors.values())) + 3
        assert sum(counts["gets"].values()) == clients


async def test_however_many_come_back_at_once_a_log_is_read_a_few_times() -> None:
    stall = Stall()
    watched = WatchedBuffer(MemoryEventBuffer())
    chance = random.Random(7)
    model = ScriptedModel([Step(WORDS, stall_after=100, stall=stall)])
    async with StreamChat(model=model, buffer=watched, allow_anonymous=True) as chat:  # type: ignore[arg-type]
        started = await chat.start(None, "go")
        await stall.reached()
        log = await read_log(watched.inner, started.run_id)
        had = [chance.choice(log) for _ in range(500)]
        for _ in range(3):
            before = watched.reads
            crowd = await asyncio.gather(*(chat.attach(started.run_id, event.id) for event in had))
            assert watched.reads - before <= 4
            for subscription in crowd:
                await subscription.close()
        crowd = await asyncio.gather(*(chat.attach(started.run_id, event.id) for event in had))
        stall.release()

        async def rest(subscription: Any) -> list[StoredEvent]:
            events: list[StoredEvent] = []
            async with subscription:
                while not subscription.finished:
                    events += await subscription.next()
            return events

        rests = await asyncio.gather(*map(rest, crowd))
        whole = await read_log(watched.inner, started.run_id)
        for event, tail in zip(had, rests, strict=True):
            assert tail == whole[event.seq :]


@pytest.mark.parametrize("wire", ["native", "vercel", "ag_ui"])
async def test_pages_of_every_wire_that_come_back_at_once_share_their_reads(wire: str) -> None:
    stall = Stall()
    watched = WatchedBuffer(MemoryEventBuffer())
    model = ScriptedModel([Step(WORDS, stall_after=100, stall=stall)])

    def request(run_id: str, number: int) -> Request:
        if wire == "ag_ui":
            sent = {"threadId": "c", "runId": f"r{number}", "messages": []}
            return make_request("POST", "/ag-ui", json=sent)
        return make_request("GET", f"/runs/{run_id}/stream" if wire == "native" else "/vercel/c/stream")

    async with serving(model, buffer=watched) as endpoints:
        started = await endpoints.chat.start("c", "go")
        await stall.reached()
        before = watched.reads
        answers = await asyncio.gather(
            *(endpoints.handle(request(started.run_id, number)) for number in range(200))
        )
        assert watched.reads - before <= 6
        for answer in answers:
            assert not isinstance(answer.body, bytes)
            assert await anext(answer.body)
            await answer.body.aclose()
        stall.release()


async def test_whose_run_it_is_is_asked_for_each_who_shares_a_read() -> None:
    async with serving(users=True) as endpoints:
        run_id = (await endpoints.chat.start("c", "go", Principal("ann"))).run_id
        readers = [Principal(name) for name in ("ann", "bob", "ann", "bob")]
        told = await asyncio.gather(
            *(endpoints.chat.whole_log(run_id, who) for who in readers), return_exceptions=True
        )
        assert [isinstance(each, RunNotFound) for each in told] == [False, True, False, True]
