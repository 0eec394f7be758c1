"""The store itself fails in mid-answer: it dies and comes back, as it was, as an older copy, or empty."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamchat import StoredEvent
from streamchat.core.fold import fold
from streamchat.core.lifecycle import check_log
from tests.chaos.checks import Findings
from tests.chaos.conftest import brief_on
from tests.chaos.provider import Plan
from tests.chaos.readers import Reading
from tests.chaos.scene import Cast, Scene
from tests.chaos.stores import REDIS, Store, private_server, store_at
from tests.services.fixtures import require
from tests.services.process import Server, Unavailable
from tests.services.redis import start_redis

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

TEXT = Plan("outage", (), words=300, delay=0.01)


@contextlib.asynccontextmanager
async def a_server(kind: str) -> AsyncIterator[Server]:
    try:
        context = private_server(kind)
        server = await context.__aenter__()
    except Unavailable as unavailable:
        require(unavailable)
        raise
    try:
        yield server
    finally:
        await context.__aexit__(None, None, None)


@brief_on("postgres")
async def test_a_server_that_dies_and_comes_back_costs_a_pause_and_nothing_else(
    server_kind: str, cast: Cast, tmp_path: Path
) -> None:
    async with a_server(server_kind) as server:
        store = store_at(server_kind, server.url, tmp_path)
        async with Scene(cast, store, tmp_path, ttl=20.0) as scene, asyncio.TaskGroup() as group:
            worker = await scene.start_ready(f"{tmp_path.name}/1")
            run = await scene.post(TEXT, "c:0", random.Random(1), to=worker)
            group.create_task(scene.read(run, random.Random(1)))
            for _ in range(2):
                await scene.until_appended(3)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            while not run.read:
                await asyncio.sleep(0.05)
            findings = Findings()
            await scene.check(findings)
            assert not findings.violations, findings.violations
            claims = [entry for entry in scene.acknowledged() if entry["kind"] == "claimed"]
            assert len(claims) == 1


@brief_on("valkey")
async def test_a_server_that_is_away_for_longer_than_the_lease_costs_a_take_over(
    server_kind: str, cast: Cast, tmp_path: Path
) -> None:
    async with a_server(server_kind) as server:
        store = store_at(server_kind, server.url, tmp_path)
        async with Scene(cast, store, tmp_path, ttl=1.0) as scene, asyncio.TaskGroup() as group:
            worker = await scene.start_ready(f"{tmp_path.name}/1", silence=1.0)
            run = await scene.post(TEXT, "c:0", random.Random(1), to=worker)
            group.create_task(scene.read(run, random.Random(1)))
            await scene.until_appended(3)
            await asyncio.to_thread(server.kill)
            await scene.until_logged("let go")
            await asyncio.to_thread(server.start)
            while not run.read:
                await asyncio.sleep(0.05)
            findings = Findings()
            logs = await scene.check(findings)
            assert not findings.violations, findings.violations
            assert sum(event.type == "run_resumed" for event in logs[run.run_id]) == 1


# ------------------------------------------------------------------------------------------- an older copy


class _Copies:
    """Keeps a copy of a store, and puts it back below everybody who works with it."""

    def __init__(self, kind: str, store: Store, server: Server | None) -> None:
        self._store = store
        self._server = server
        self._saved: Any = None

    async def save(self) -> None:
        await asyncio.to_thread(self._save)

    async def restore(self) -> None:
        await asyncio.to_thread(self._restore)

    def _save(self) -> None:
        if self._server is not None:
            self._saved = self._server.snapshot()
            return
        self._saved = sqlite3.connect(":memory:", check_same_thread=False)
        with contextlib.closing(sqlite3.connect(self._path)) as source:
            source.backup(self._saved)

    def _restore(self) -> None:
        if self._server is not None:
            self._server.restore(self._saved)
            return
        with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as target:
            self._saved.backup(target)
        self._saved.close()

    @property
    def _path(self) -> str:
        return self._store.url.removeprefix("sqlite:///")


@contextlib.asynccontextmanager
async def a_store_with_copies(kind: str, folder: Path) -> AsyncIterator[tuple[Store, _Copies]]:
    if kind == "sqlite":
        store = store_at(kind, "", folder)
        yield store, _Copies(kind, store, None)
        return
    async with a_server(kind) as server:
        store = store_at(kind, server.url, folder)
        yield store, _Copies(kind, store, server)


@brief_on("sqlite", "valkey")
async def test_an_older_copy_of_the_store_resets_its_readers_and_shows_them_nothing_wrong(
    kind: str, cast: Cast, tmp_path: Path
) -> None:
    async with (
        a_store_with_copies(kind, tmp_path) as (store, copies),
        Scene(cast, store, tmp_path, ttl=1.5) as scene,
        asyncio.TaskGroup() as group,
    ):
        worker = await scene.start_ready(f"{tmp_path.name}/1")
        run = await scene.post(TEXT, "c:0", random.Random(1), to=worker)
        group.create_task(scene.read(run, random.Random(1)))
        await scene.until_appended(5)
        await copies.save()
        # Beyond the copy, and seen by a client.
        await scene.until_appended(10)
        ahead = Reading("ahead")
        async for event in scene.chat.attach(run.run_id):
            assert isinstance(event, StoredEvent)
            ahead.take(event.id, {})
            if event.seq == max(e["head"] + e["count"] for e in scene.appended()):
                break
        await copies.restore()
        while not run.read:
            await asyncio.sleep(0.05)
        events = await scene.log(run)
        assert check_log(events) == "over"
        assert (events[-1].event.status, fold(events).text) == ("success", TEXT.text(0))
        # The client of before the failover is told, and not given what does not follow on.
        assert ahead.cursor is not None
        assert ahead.cursor not in [event.id for event in events]
        (told,) = [event async for event in scene.chat.attach(run.run_id, ahead.cursor)]
        assert told.type == "history_reset"
        for reading in run.readings:
            assert_true_to(events, reading)


def assert_true_to(events: list[StoredEvent], reading: Reading) -> None:
    """What a reader has in the end is the log: all of it, or all that came after its last reset."""
    ids = [event.id for event in events]
    assert reading.problem is None
    assert reading.ids == (ids[ids.index(reading.ids[0]) :] if reading.resets else ids)
    assert reading.state() == fold(events).model_dump(mode="json")


@pytest.mark.parametrize("flavour", REDIS)
async def test_a_redis_that_lost_everything_ends_what_was_and_takes_what_comes(
    flavour: Any, cast: Cast, tmp_path: Path
) -> None:
    try:
        server = await asyncio.to_thread(lambda: start_redis(flavour=flavour, fsync=None))
    except Unavailable as unavailable:
        require(unavailable)
        raise
    try:
        store = store_at(flavour, server.url, tmp_path)
        async with Scene(cast, store, tmp_path, ttl=1.0) as scene:
            worker = await scene.start_ready(f"{tmp_path.name}/1")
            lost = await scene.post(TEXT, "c:0", random.Random(1), to=worker)
            await scene.until_appended(3)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await scene.until_logged("let go")
            assert await answer_to(scene, lost.run_id, worker.port) == 404
            scene.runs.clear()
            # The same conversation begins anew.
            again = await scene.post(Plan("again"), "c:1", random.Random(1), to=worker)
            await scene.read(again, random.Random(1))
            assert fold(await scene.log(again)).text == Plan("again").text(0)
    finally:
        await asyncio.to_thread(server.close)


async def answer_to(scene: Scene, run_id: str, port: int) -> int:
    async with scene.cast.session.get(f"http://127.0.0.1:{port}/runs/{run_id}/stream") as response:
        return response.status
