"""Appending to Redis beside the bare driver adding one packed entry, by the size of the batch."""

from __future__ import annotations

import itertools

import redis.asyncio

from benchmarks.holders import Bare, beside_bare_server
from benchmarks.measure import Case, Clock, Row, Scale
from streamchat.buffers.base import NewEvent
from streamchat.buffers.redis import RedisEventBuffer
from streamchat.buffers.redis.packing import pack
from tests.services.redis import start_redis

__all__ = ["appending_redis"]


def _through_bare(connection: redis.asyncio.Redis) -> Bare:
    numbers = itertools.count(1)

    def through_bare(batch: list[NewEvent], times: int) -> Case:
        async def case(clock: Clock) -> float:
            stream, size = f"bare-{next(numbers)}", len(batch)
            with clock.running():
                for number in range(1, times + 1):
                    await connection.execute_command(
                        "XADD", stream, f"{number * size}-0", "n", size, "d", pack(batch)
                    )
            return times * size

        return case

    return through_bare


async def appending_redis(scale: Scale) -> list[Row]:
    """Deltas appended by one holder, one batch after the other; then by many holders at once."""
    with start_redis(flavour="valkey", fsync="everysec") as server:
        buffer = await RedisEventBuffer(server.url, prefix="benchmark").open()
        try:
            async with redis.asyncio.Redis.from_url(server.url, protocol=2) as connection:
                return await beside_bare_server("Valkey", buffer, _through_bare(connection), scale)
        finally:
            await buffer.close()
