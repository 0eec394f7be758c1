"""The service over each embedded buffer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamchat import EventBuffer, MemoryEventBuffer
from streamchat.buffers.shared import now_ms
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.testing import ScriptedProvider
from tests.buffers.backends import BACKENDS, Backend
from tests.buffers.redis_backend import Redis

from .world import Jumping, World


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


HERE = ["memory", "sqlite"]
SERVERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("postgresql", "mariadb", "redis")]


@pytest.fixture(params=[*HERE, *SERVERS])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Processes over each sort of store; nothing that is not idempotent may start twice in any of them."""
    clock = now_ms if request.param == "memory" else None
    async with _world(request, tmp_path, clock) as made:
        yield made


@pytest.fixture(params=[*HERE, SERVERS[0]])
async def later_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """The same, by a clock that `Jumping.jump` puts on."""
    async with _world(request, tmp_path, Jumping()) as made:
        yield made


@contextlib.asynccontextmanager
async def _world(request: pytest.FixtureRequest, directory: Path, clock: object) -> AsyncIterator[World]:
    kind: type[Backend] = {**BACKENDS, "redis": Redis}[request.param]
    backend = kind(directory, request.getfixturevalue(kind.service) if kind.service else "")
    backend.clock = clock
    async with backend.open() as store, ScriptedProvider() as provider, provider.client() as client:
        made = World(backend, store, provider, client)
        async with made.open_ones:
            try:
                yield made
            finally:
                for chat in made.alive:  # where a test failed
                    await chat.close()
        provider.assert_used_up()
        assert all(count == 1 for count in made.effects.values())
