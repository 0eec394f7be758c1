"""`RedisEventBuffer` as the tests open it, on Valkey and on the oldest Redis that is supported."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import redis

from streamchat.buffers.base import EventBuffer
from streamchat.buffers.redis import RedisEventBuffer
from tests.buffers.backends import Backend

__all__ = ["Redis", "Valkey", "keys_of"]


def keys_of(client: redis.Redis, prefix: str) -> list[bytes]:
    """Return all keys of a deployment."""
    return list(client.scan_iter(match=f"{{{prefix}}}:*", count=1000))


class Redis(Backend):
    shares = True
    share = 1 / 10
    service = "redis_url"

    def __init__(self, directory: Path, server: str = "") -> None:
        super().__init__(directory, server)
        self.prefix = f"test-{secrets.token_hex(6)}"
        self._open = 0

    @contextlib.asynccontextmanager
    async def open(self, _: EventBuffer | None = None) -> AsyncIterator[EventBuffer]:
        """As every backend's; the last to leave takes the keys away, for the server may be somebody's."""
        self._open += 1
        try:
            async with super().open() as buffer:
                yield buffer
        finally:
            self._open -= 1
            if not self._open:
                self.clear()

    def make(self) -> RedisEventBuffer:
        return RedisEventBuffer(self.server, prefix=self.prefix, clock=self.clock, token=self.token)

    def clear(self) -> None:
        with redis.Redis.from_url(self.server) as client:
            for key in keys_of(client, self.prefix):
                client.delete(key)

    def save(self, buffer: Any) -> dict[bytes, Any]:
        with redis.Redis.from_url(self.server) as client:
            return {key: client.dump(key) for key in keys_of(client, self.prefix)}

    def restore(self, buffer: Any, saved: dict[bytes, Any]) -> None:
        self.clear()
        with redis.Redis.from_url(self.server) as client:
            for key, value in saved.items():
                client.restore(key, 0, value)


class Valkey(Redis):
    service = "valkey_url"
