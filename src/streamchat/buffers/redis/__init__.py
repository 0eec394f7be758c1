"""`RedisEventBuffer`: events in Redis Streams, on Redis 6.2 and later or Valkey. Needs the extra
``redis``."""

from __future__ import annotations

from streamchat.errors import MissingDependency

try:
    import redis.asyncio  # noqa: F401
except ImportError as error:
    raise MissingDependency("RedisEventBuffer", "redis", "redis") from error

from streamchat.buffers.redis.buffer import RedisEventBuffer
from streamchat.buffers.redis.checking import RedisEvictionWarning

__all__ = ["RedisEventBuffer", "RedisEvictionWarning"]
