"""The service over each embedded buffer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamchat import EventBuffer, MemoryEventBuffer
from streamchat.buffers.sql import SQLEventBuffer


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
