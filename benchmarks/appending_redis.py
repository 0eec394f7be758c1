"""Appending to Redis beside the bare driver adding one packed entry, by the size of the batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio

from benchmarks.measure import Case, Clock, Row, Scale, in_turns
from streamchat.buffers.base import Lease, NewEvent, NewRun
from streamchat.buffers.redis import RedisEventBuffer
from streamchat.buffers.redis.packing import pack
from streamchat.events import RunStarted, TextDelta
from tests.services.redis import start_redis

__all__ = ["appending_redis"]

BATCHES = (1, 10, 50, 200)
RUNS = 25


class _Bench:
    """A server, the bare driver and a buffer on it."""

    def __init__(self, bare: redis.asyncio.Redis, buffer: RedisEventBuffer) -> None:
        self._bare = bare
        self._buffer = buffer
        self._made = 0

    def bare(self, batch: list[NewEvent], times: int) -> Case:
        """The least that an appended batch takes: it is packed, and one entry is added."""

        async def case(clock: Clock) -> float:
            self._made += 1
            stream, size = f"bare-{self._made}", len(batch)
            with clock.running():
                for number in range(1, times + 1):
                    await self._bare.execute_command(
                        "XADD", stream, f"{number * size}-0", "n", size, "d", pack(batch)
                    )
            return times * size

        return case

    def ours(self, batch: list[NewEvent], times: int, runs: int = 1) -> Case:
        """One holder after the other's answer, for each of so many runs at once."""

        async def write(lease: Lease) -> None:
            for _ in range(times // runs):
                lease = (await self._buffer.append(lease, batch)).lease

        async def case(clock: Clock) -> float:
            leases = [await self._held() for _ in range(runs)]
            with clock.running():
                async with asyncio.TaskGroup() as group:
                    for lease in leases:
                        group.create_task(write(lease))
            return times // runs * runs * len(batch)

        return case

    async def _held(self) -> Lease:
        self._made += 1
        name = f"run-{self._made}"
        started = NewEvent.of(RunStarted(run_id=name))
        await self._buffer.create(NewRun(name, conversation_id=name, message_id=f"m-{name}", started=started))
        claim = await self._buffer.claim("benchmark", 600.0, name)
        assert claim is not None
        return claim.lease


@asynccontextmanager
async def _bench() -> AsyncIterator[_Bench]:
    with start_redis(flavour="valkey", fsync="everysec") as server:
        buffer = await RedisEventBuffer(server.url, prefix="benchmark").open()
        try:
            async with redis.asyncio.Redis.from_url(server.url, protocol=2) as bare:
                yield _Bench(bare, buffer)
        finally:
            await buffer.close()


async def appending_redis(scale: Scale) -> list[Row]:
    """Deltas appended by one holder, one batch after the other; then by many holders at once."""
    event = NewEvent.of(TextDelta(step=1, part=1, text=" word"))
    rows: list[Row] = []
    async with _bench() as bench:
        for size in BATCHES:
            times = max(RUNS, min(scale.events // 10, scale.events // size))
            cases = {
                "ours": bench.ours([event] * size, times),
                "many": bench.ours([event] * size, times, RUNS),
                "bare": bench.bare([event] * size, times),
            }
            samples = await in_turns(cases, scale.rounds)
            rows.append(samples.row(f"append to Valkey, batches of {size}", "ours", "bare", 1.3))
            rows.append(samples.row(f"the same, {RUNS} runs at once", "many", "bare", 1.3))
    return rows
