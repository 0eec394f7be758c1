"""Behaviours under cancellation: whatever is cut off has happened whole, or not at all."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel

from streamchat.buffers.base import Claim
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, message

__all__: list[str] = []


@behaviour
async def a_cancelled_append_can_be_sent_again(bench: Bench) -> None:
    run = await bench.created()
    lease = await bench.claimed(run.run_id)
    for number in range(10):
        batch = deltas(f"{number}a", f"{number}b")
        append = partial(bench.buffer.append, lease, batch, messages=[message(run)])
        async with anyio.create_task_group() as group:
            group.start_soon(append)
            for _ in range(number):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        lease = (await append()).lease
        stored = await bench.buffer.messages(run.conversation_id)
        assert len(stored) == number + 1
    assert await bench.texts(run.run_id) == [f"{number}{letter}" for number in range(10) for letter in "ab"]


@behaviour
async def a_claim_that_was_cancelled_before_its_answer_gives_the_run_back(bench: Bench) -> None:
    for number in range(10):
        run = await bench.created()
        received: list[Claim | None] = []

        async def claim(run_id: str, received: list[Claim | None]) -> None:
            received.append(await bench.buffer.claim("worker-1", 1e6, run_id))

        async with anyio.create_task_group() as group:
            group.start_soon(claim, run.run_id, received)
            for _ in range(number):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        if received:
            continue
        for _ in range(1000):
            if await bench.buffer.claim("worker-2", bench.ttl, run.run_id) is not None:
                break
            await anyio.sleep(0.01)
        else:
            raise AssertionError(f"run {run.run_id} is held by a claim that nobody got")
