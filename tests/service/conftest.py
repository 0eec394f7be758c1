"""The service over each embedded buffer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamchat import EventBuffer, MemoryEventBuffer
from streamchat.buffers.shared import now_ms
from streamchat.buffers.sql import SQLEventBuffer
from tests.buffers.backends import BACKENDS, Backend


@pytest.fixture(params=["memory", "sqlite"])
async def buffer(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventBuffer]:
    made: EventBuffer = (
        MemoryEventBuffer()
        if request.param == "memory"
        else SQLEventBuffer(f"sqlite:///{tmp_path / 'runs.db'}")
    )
    await made.open()
    yield made
    await made.close()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventBuffer]:
    """A store in this process, in a file, and on a server."""
    kind: type[Backend] = BACKENDS[request.param]
    backend = kind(tmp_path, request.getfixturevalue(kind.service) if kind.service else "")
    backend.clock = now_ms if request.param == "memory" else None
    async with backend.open() as made:
        yield made
