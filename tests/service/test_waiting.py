"""`when_it_waits` is a plain await, with a look in before the first wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest

from streamchat.service.waiting import when_it_waits

pytestmark = pytest.mark.anyio


async def test_what_does_not_wait_calls_nothing() -> None:
    async def at_once() -> str:
        return "x"

    seen: list[str] = []
    assert await when_it_waits(at_once(), lambda: seen.append("waits")) == "x"
    assert seen == []


async def test_the_call_comes_once_and_before_the_others_get_their_turn() -> None:
    seen: list[str] = []

    async def twice() -> str:
        seen.append("begins")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "x"

    asyncio.get_running_loop().call_soon(seen.append, "another's turn")
    assert await when_it_waits(twice(), lambda: seen.append("waits")) == "x"
    assert seen == ["begins", "waits", "another's turn"]


async def test_the_items_of_a_generator_and_its_end_come_through() -> None:
    async def items() -> AsyncGenerator[int, None]:
        yield 1
        await asyncio.sleep(0)
        yield 2
        await asyncio.sleep(0)

    waits: list[int] = []
    got: list[int] = []
    source = items()
    for _ in range(2):
        got.append(await when_it_waits(anext(source), lambda: waits.append(len(got))))
    with pytest.raises(StopAsyncIteration):
        await when_it_waits(anext(source), lambda: waits.append(len(got)))
    assert (got, waits) == ([1, 2], [1, 2])


async def test_an_exception_comes_through_whether_it_waited_or_not() -> None:
    async def fails(after: int) -> None:
        for _ in range(after):
            await asyncio.sleep(0)
        raise OSError("gone")

    for after in (0, 1, 2):
        with pytest.raises(OSError, match="gone"):
            await when_it_waits(fails(after), lambda: None)


@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_a_cancellation_goes_to_what_is_awaited(turns: int) -> None:
    seen: list[str] = []

    async def cleans_up() -> str:
        with suppress(asyncio.CancelledError):
            try:
                await asyncio.sleep(0)
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # and may wait on the way
                seen.append("clean")
        return "all the same"

    task = asyncio.create_task(asyncio.wait_for(_awaiting(cleans_up()), None))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    assert await task == "all the same"
    assert seen == ["clean"]


async def _awaiting(awaitable: object) -> str:
    return await when_it_waits(awaitable, lambda: None)  # type: ignore[arg-type]
