"""The model's store and the real ones give the same answers."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from streamchat.buffers.base import EventBuffer
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.buffers.sql import SQLEventBuffer
from tests.buffers.backends import Backend, Memory, SQLite
from tests.protocol.model import Model, World
from tests.protocol.mutations import MUTATIONS
from tests.protocol.replay import Replay, walk
from tests.protocol.state import Violation
from tests.protocol.worlds import SMALL


def _fresh(directory: Path) -> Path:
    directory.mkdir()
    return directory


async def _follow(kind: type[Backend], directory: Path, world: World, model: Model, seed: int) -> None:
    """Walk one random way through ``model`` on a store in a fresh directory."""
    backend, tokens = kind(directory), deque[str]()
    options: dict[str, Any] = {"clock": backend.clock, "token": tokens.popleft}
    buffer: EventBuffer
    if kind is Memory:
        buffer = MemoryEventBuffer(retention=None, **options)
    else:
        buffer = SQLEventBuffer(f"sqlite:///{directory / 'chat.db'}", readers=1, **options)
    await buffer.open()
    try:
        replay = Replay(buffer, tokens, backend)
        await replay.run(world, model.start(), walk(model, seed))
    finally:
        await buffer.close()


def _follow_all(kind: type[Backend], directory: Path, seeds: range) -> None:
    async def follow_all() -> None:
        for seed in seeds:
            for number, world in enumerate(SMALL.values()):
                await _follow(kind, _fresh(directory / f"{seed}-{number}"), world, Model(world), seed)

    asyncio.run(follow_all())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "walks"), [(Memory, 60), (SQLite, 3)])
def test_real_stores_answer_as_the_model_does(kind: type[Backend], walks: int, tmp_path: Path) -> None:
    _follow_all(kind, tmp_path, range(walks))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "walks"), [(Memory, 2000), (SQLite, 200)])
def test_real_stores_answer_as_the_model_does_at_length(
    kind: type[Backend], walks: int, tmp_path: Path
) -> None:
    _follow_all(kind, tmp_path, range(1000, 1000 + walks))


@pytest.mark.parametrize(
    "name", ["an append names the head", "a post wakes who sleeps", "the end frees the slot"]
)
def test_a_store_that_decides_otherwise_is_noticed(name: str, tmp_path: Path) -> None:
    """Here it is the model that has the other rules, and the real store that is asked."""
    mutation = next(mutation for mutation in MUTATIONS if mutation.name == name)
    model = Model(mutation.world, mutation.rules)

    async def follow_until_different() -> None:
        for seed in range(100):
            await _follow(Memory, _fresh(tmp_path / str(seed)), mutation.world, model, seed)

    with pytest.raises((AssertionError, Violation)):
        asyncio.run(follow_until_different())
