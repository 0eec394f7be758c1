"""The disk is full in mid-answer: the answer waits for room, or another takes it up when there is some."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import event

from streamchat import StoredEvent, StreamChat
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.buffers.sql.sqlite import engine_for
from streamchat.core.fold import fold
from streamchat.core.lifecycle import check_log
from streamchat.errors import BufferUnavailable
from streamchat.models import OpenAIChatModel
from streamchat.service.log import read_log
from tests.chaos.checks import Findings
from tests.chaos.provider import Plan
from tests.chaos.scene import Cast, Scene
from tests.chaos.stores import Store
from tests.services.fixtures import require
from tests.services.postgres import start_postgres
from tests.services.process import Unavailable

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

TEXT = Plan("full", (), words=150, delay=0.01)
MEGABYTE = 2**20


class Pages:
    """The connections of an SQLite buffer, and how many pages its file may have."""

    def __init__(self, path: Path) -> None:
        self.engine = engine_for(f"sqlite:///{path}")
        self._connections: list[sqlite3.Connection] = []
        event.listen(self.engine, "connect", lambda raw, _: self._connections.append(raw))

    def limit(self, most: int) -> None:
        """Allow so many; SQLite never sets less than there are."""
        for connection in self._connections:
            connection.execute(f"PRAGMA max_page_count = {most}").fetchall()


async def test_an_sqlite_file_that_may_not_grow_holds_the_answer_up_until_it_may(
    cast: Cast, tmp_path: Path
) -> None:
    pages = Pages(tmp_path / "chat.db")
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(pages.engine.dispose)
        client = await stack.enter_async_context(openai.AsyncOpenAI(base_url=cast.provider, api_key="no"))
        model = OpenAIChatModel(client, "scripted")
        buffer = SQLEventBuffer(pages.engine)
        chat = StreamChat(model=model, buffer=buffer, allow_anonymous=True, lease_ttl=20.0)
        await stack.enter_async_context(chat)
        run_id = (await chat.start("c", str(TEXT.encode()))).run_id
        seen: list[StoredEvent] = []
        full = False
        async for stored in chat.attach(run_id):
            assert isinstance(stored, StoredEvent)
            seen.append(stored)
            if stored.type == "text_delta" and not full:
                full = True
                pages.limit(1)
                with pytest.raises(BufferUnavailable, match="full: make room"):
                    await fill(chat)
                pages.limit(1_000_000)
        log = await read_log(buffer, run_id)
        assert [e.id for e in seen] == [e.id for e in log]
        assert check_log(log) == "over"
        assert fold(log).text == TEXT.text(0)


async def fill(chat: StreamChat) -> None:
    """Write until there is no room left."""
    for _ in range(1000):
        await chat.start(None, "x" * 100_000)


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """Mount a small disk in memory; where that is not allowed, the test cannot be made."""
    folder = Path(tempfile.mkdtemp(prefix="streamchat-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "tmpfs", str(folder)]
    try:
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("NOT TESTED, a tmpfs may not be mounted here: run it as root")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
async def test_a_postgresql_whose_disk_is_full_costs_a_pause(cast: Cast, tmp_path: Path) -> None:
    with small_disk(150) as disk:
        try:
            server = await asyncio.to_thread(
                lambda: start_postgres(disk / "pg", settings={"min_wal_size": "32MB", "max_wal_size": "48MB"})
            )
        except Unavailable as unavailable:
            require(unavailable)
            raise
        try:
            await attack_full(cast, server, disk, tmp_path)
        finally:
            await asyncio.to_thread(server.close)


async def attack_full(cast: Cast, server: Any, disk: Path, folder: Path) -> None:
    async with (
        Scene(cast, Store(server.url, "full_"), folder, ttl=60.0) as scene,
        asyncio.TaskGroup() as group,
    ):
        worker = await scene.start_ready(f"{folder.name}/1")
        run = await scene.post(TEXT, "c:0", random.Random(1), to=worker)
        group.create_task(scene.read(run, random.Random(1)))
        await scene.until_appended(3)
        # A big answer comes when there is no room for it.
        ballast = disk / "ballast"
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while shutil.disk_usage(disk).free > MEGABYTE:
                file.write(bytes(MEGABYTE))
                file.flush()
        asked = group.create_task(scene.post(Plan("big", (("big",),), words=3), "big:0", random.Random(2)))
        await scene.until_logged("No space left on device")
        ballast.unlink()
        if not server.running:
            await asyncio.to_thread(server.start)
        await scene.read(await asked, random.Random(2))
        while not run.read:
            await asyncio.sleep(0.05)
        findings = Findings()
        await scene.check(findings)
        assert not findings.violations, [what[:400] for _, what in findings.violations]
