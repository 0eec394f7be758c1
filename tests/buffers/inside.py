"""What tests of one store look at: a buffer's parts, and what has no event to wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from streamchat.buffers.sql import SQLEventBuffer
from streamchat.buffers.sql.server import ServerBackend
from streamchat.testing.buffers import Bench


def inside(bench: Bench) -> Any:
    """Return the backend's parts."""
    backend = cast(SQLEventBuffer, bench.buffer)._backend
    assert isinstance(backend, ServerBackend)
    return backend


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    """Wait until something that has no event is so; pytest-timeout ends it."""
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def buffer_over(given: Any, **options: Any) -> AsyncIterator[Bench]:
    buffer = await SQLEventBuffer(given, **options).open()
    try:
        yield Bench(buffer, None, None, 30.0)
    finally:
        await buffer.close()
