"""Where events are kept: the `EventBuffer` protocol (`base`) and its implementations.

`memory.MemoryEventBuffer` keeps them in the process, `sql.SQLEventBuffer` (extras ``sqlite``, ``postgres``,
``mysql``) in a database, `redis.RedisEventBuffer` (extra ``redis``) in Redis or Valkey. Each is imported from
its own module, so that none needs the dependencies of another; `buffer_for` does so by URL.
"""

from __future__ import annotations

from streamchat.buffers.by_url import buffer_for

__all__ = ["buffer_for"]
