"""`Deadline`: what ends the generator's awaits, and leaves everybody else's cancellations alone."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest

from streamchat.concurrency import Deadline
from tests.orchestrator.support import asyncio_only, until_blocked

pytestmark = pytest.mark.anyio


async def test_time_that_runs_out_leaves_the_block_and_raises_nothing():
    after = False
    with Deadline(0.01) as deadline:
        await anyio.sleep_forever()
        after = True  # type: ignore[unreachable]
    assert (deadline.expired, after) == (True, False)
    await anyio.sleep(0.001)


@pytest.mark.parametrize("seconds", [None, 30.0])
async def test_a_block_that_ends_in_time_is_not_expired(seconds):
    with Deadline(seconds) as deadline:
        await anyio.sleep(0)
    assert not deadline.expired


async def test_no_time_at_all_ends_the_first_await():
    with Deadline(0.0) as deadline:
        await anyio.sleep_forever()
    assert deadline.expired


async def test_expire_ends_the_block_from_another_task():
    deadline, left = Deadline(), anyio.Event()

    async def wait() -> None:
        with deadline:
            await anyio.sleep_forever()
        left.set()

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await until_blocked()
        deadline.expire()
        deadline.expire()
        with anyio.fail_after(5):
            await left.wait()
    assert deadline.expired


async def test_expire_before_the_block_ends_its_first_await():
    deadline = Deadline(30.0)
    deadline.expire()
    with deadline:
        await anyio.sleep_forever()
    assert deadline.expired


async def test_expire_from_within_does_not_leak_out_of_the_block():
    with Deadline() as deadline:
        deadline.expire()
    await anyio.sleep(0.001)
    await anyio.sleep(0.001)


async def test_expire_after_the_block_does_nothing_to_anybody():
    with Deadline() as deadline:
        pass
    deadline.expire()
    await anyio.sleep(0.001)


async def test_it_may_be_used_again():
    deadline = Deadline(0.005)
    for _ in range(2):
        with deadline:
            await anyio.sleep_forever()
        assert deadline.expired
    with deadline:
        pass
    assert not deadline.expired


async def test_an_outside_cancellation_goes_through():
    deadline, seen = Deadline(30.0), []

    async def wait() -> None:
        with deadline:
            try:
                await anyio.sleep_forever()
            finally:
                seen.append(deadline.expired)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await until_blocked()
        group.cancel_scope.cancel()
    assert (seen, deadline.expired) == ([False], False)


@asyncio_only
@pytest.mark.parametrize("first", ["expire", "cancel"])
async def test_with_both_in_one_moment_the_outside_cancellation_wins(first):
    deadline = Deadline()

    async def wait() -> None:
        with deadline:
            await asyncio.sleep(30)
        pytest.fail("the cancellation was swallowed")

    task = asyncio.create_task(wait())
    await until_blocked()
    for what in ("expire", "cancel") if first == "expire" else ("cancel", "expire"):
        if what == "expire":
            deadline.expire()
            if first == "expire":
                await asyncio.sleep(0)  # its timer has fired, the task has not run yet
        else:
            task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_blocks_may_be_nested_and_each_ends_its_own():
    outer, inner = Deadline(0.01), Deadline(30.0)
    reached = []
    with outer:
        with inner:
            await anyio.sleep_forever()
        reached.append("between")  # type: ignore[unreachable]
    assert (outer.expired, inner.expired, reached) == (True, False, [])
    outer, inner = Deadline(30.0), Deadline(0.01)
    with outer:
        with inner:
            await anyio.sleep_forever()
        reached.append("between")
    assert (outer.expired, inner.expired, reached) == (False, True, ["between"])


@asyncio_only
async def test_within_asyncio_timeout_and_around_it():
    with suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            with Deadline(30.0):
                await asyncio.sleep(30)
            pytest.fail("the timeout was swallowed")
    with Deadline(0.01) as deadline:
        async with asyncio.timeout(30):
            await asyncio.sleep(30)
    assert deadline.expired
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_exception_of_the_block_is_raised_whatever_the_time_says():
    async def fail() -> None:
        with Deadline(0.0):
            try:
                await anyio.sleep_forever()
            finally:
                raise KeyError

    with pytest.raises(KeyError):
        await fail()
    await anyio.sleep(0.001)


@asyncio_only
async def test_a_block_that_swallows_its_expiry_ends_as_it_likes():
    value = ""
    with Deadline(0.0) as deadline:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            value = "kept"
    assert (value, deadline.expired) == ("kept", False)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)
