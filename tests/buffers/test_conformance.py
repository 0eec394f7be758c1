"""The shipped suite over our own buffers, and the suite itself over buffers that are broken on purpose."""

from __future__ import annotations

import pytest

from streamchat.testing.buffers import BEHAVIOURS, BufferSuite
from tests.buffers.backends import Backend, Memory


@pytest.mark.anyio
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
async def test_a_buffer_keeps_its_promise(backend: Backend, behaviour: str) -> None:
    await backend.suite().run(behaviour)


@pytest.mark.anyio
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_the_memory_buffer_keeps_its_promises_on_trio(
    tmp_path_factory: pytest.TempPathFactory, behaviour: str
) -> None:
    await Memory(tmp_path_factory.mktemp("buffer")).suite().run(behaviour)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "behaviour", ["a_lease_expires_by_the_stores_clock", "the_run_that_has_waited_longest_is_claimed_first"]
)
async def test_a_suite_without_a_clock_sleeps(behaviour: str) -> None:
    from streamchat.buffers.memory import MemoryEventBuffer

    class Sleeping(Memory):
        def make(self) -> MemoryEventBuffer:
            return MemoryEventBuffer()

    from pathlib import Path

    await BufferSuite(Sleeping(Path()).open, ttl=0.05).run(behaviour)
