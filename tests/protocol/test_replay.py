"""The model's store and the real ones give the same answers."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path

import pytest

from tests.buffers.backends import Backend, MariaDB, Memory, PostgreSQL, SQLite
from tests.buffers.redis_backend import Redis, Valkey
from tests.protocol.model import Model, World
from tests.protocol.mutations import MUTATIONS
from tests.protocol.replay import Replay, walk
from tests.protocol.state import Violation
from tests.protocol.worlds import SMALL


async def _follow(backend: Backend, world: World, model: Model, seed: int) -> None:
    """Walk one random way through ``model`` on an empty store."""
    async with backend.open() as buffer:
        replay = Replay(buffer, backend)
        try:
            await replay.run(world, model.start(), walk(model, seed))
        finally:
            await replay.close()


def _follow_all(kind: type[Backend], request: pytest.FixtureRequest, directory: Path, seeds: range) -> None:
    server = request.getfixturevalue(kind.service) if kind.service is not None else ""
    places = (directory / str(number) for number in itertools.count())

    async def follow_all() -> None:
        for seed in seeds:
            for world in SMALL.values():
                place = next(places)
                os.mkdir(place)
                await _follow(kind(place, server), world, Model(world), seed)

    with asyncio.Runner(debug=False) as runner:
        runner.run(follow_all())


WALKS = [(Memory, 60), (SQLite, 2), (PostgreSQL, 1), (MariaDB, 1), (Valkey, 2)]
LONG = [(Memory, 1000), (SQLite, 50), (PostgreSQL, 10), (MariaDB, 10), (Valkey, 50), (Redis, 50)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "walks"), WALKS)
def test_real_stores_answer_as_the_model_does(
    kind: type[Backend], walks: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    _follow_all(kind, request, tmp_path, range(walks))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "walks"), LONG)
def test_real_stores_answer_as_the_model_does_at_length(
    kind: type[Backend], walks: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    _follow_all(kind, request, tmp_path, range(1000, 1000 + walks))


@pytest.mark.parametrize(
    "name", ["an append names the head", "a post wakes who sleeps", "the end frees the slot"]
)
def test_a_store_that_decides_otherwise_is_noticed(name: str, tmp_path: Path) -> None:
    """Here it is the model that has the other rules, and the real store that is asked."""
    mutation = next(mutation for mutation in MUTATIONS if mutation.name == name)
    model = Model(mutation.world, mutation.rules)

    async def follow_until_different() -> None:
        for seed in range(100):
            await _follow(Memory(tmp_path), mutation.world, model, seed)

    with pytest.raises((AssertionError, Violation)):
        asyncio.run(follow_until_different())
