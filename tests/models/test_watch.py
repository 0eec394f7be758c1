"""`Watch` bounds each of many awaits, with cancellations told apart and no timer left behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from streamchat.models.watch import Watch

pytestmark = pytest.mark.anyio
both = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


async def forever() -> None:
    await anyio.sleep_forever()


@both
async def test_an_await_that_ends_in_time_gives_its_result() -> None:
    async def soon() -> str:
        await anyio.sleep(0)
        return "x"

    watch = Watch()
    for until in (None, monotonic() + 60, monotonic() + 30, None):
        assert await watch.wait(soon, until) == "x"
    watch.close()
    assert not watch.expired


@both
async def test_an_await_that_takes_too_long_is_a_timeout() -> None:
    watch = Watch()
    with pytest.raises(TimeoutError):
        await watch.wait(forever, monotonic() + 0.01)
    assert watch.expired


@both
async def test_a_limit_that_has_passed_ends_the_await_at_its_first_stop() -> None:
    with pytest.raises(TimeoutError):
        await Watch().wait(forever, monotonic() - 1)


@both
async def test_a_later_limit_holds_though_the_timer_was_set_for_an_earlier_one() -> None:
    watch = Watch()
    await watch.wait(anyio.lowlevel.checkpoint, monotonic() + 0.01)
    event = anyio.Event()

    async def set_later() -> None:
        await anyio.sleep(0.05)  # the first limit has passed by then
        event.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(set_later)
        await watch.wait(event.wait, monotonic() + 60)
    watch.close()


@both
async def test_an_earlier_limit_holds_though_the_timer_was_set_for_a_later_one() -> None:
    watch = Watch()
    await watch.wait(anyio.lowlevel.checkpoint, monotonic() + 3600)
    with pytest.raises(TimeoutError):
        await watch.wait(forever, monotonic() + 0.01)


@both
async def test_somebody_elses_timeout_error_is_not_taken_for_the_watchs_own() -> None:
    async def fails() -> None:
        raise TimeoutError("the transport's")

    watch = Watch()
    with pytest.raises(TimeoutError, match="the transport's"):
        await watch.wait(fails, monotonic() + 60)
    watch.close()
    assert not watch.expired


@both
async def test_time_between_two_awaits_is_nobodys() -> None:
    watch = Watch()
    await watch.wait(anyio.lowlevel.checkpoint, monotonic() + 0.01)
    await anyio.sleep(0.03)  # the timer fires while nothing is awaited
    await watch.wait(anyio.lowlevel.checkpoint, monotonic() + 60)
    watch.close()
    assert not watch.expired


async def test_a_cancellation_from_outside_passes_through() -> None:
    watch = Watch()
    task = asyncio.create_task(watch.wait(forever, monotonic() + 60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    watch.close()
    assert not watch.expired


async def test_a_cancellation_from_outside_wins_over_the_limit() -> None:
    watch = Watch()
    outer: list[asyncio.Task[Any]] = []

    async def cancelled_at_the_limit() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outer[0].cancel()
            raise

    outer.append(asyncio.create_task(watch.wait(cancelled_at_the_limit, monotonic() + 0.01)))
    with pytest.raises(asyncio.CancelledError):
        await outer[0]
    assert outer[0].cancelling() == 1


async def test_the_limit_leaves_no_cancellation_behind() -> None:
    async def turned_into_another_error() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("closed") from None

    async def swallowed() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "all the same"

    task = asyncio.current_task()
    assert task is not None
    for function in (forever, turned_into_another_error):
        with pytest.raises(TimeoutError):
            await Watch().wait(function, monotonic() + 0.01)
        assert task.cancelling() == 0
    watch = Watch()
    assert await watch.wait(swallowed, monotonic() + 0.01) == "all the same"
    assert (task.cancelling(), watch.expired) == (0, False)
    await asyncio.sleep(0)  # a cancellation that was left would come here
