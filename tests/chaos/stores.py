"""The stores under attack: how a buffer is made from a URL, and how a fresh store is had from a server's."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from streamchat.buffers import buffer_for
from streamchat.buffers.base import EventBuffer
from tests.services.mariadb import start_mariadb
from tests.services.postgres import start_postgres
from tests.services.process import Server
from tests.services.redis import start_redis

__all__ = [
    "DURABLE",
    "FIXTURES",
    "REDIS",
    "SQL_SERVERS",
    "Store",
    "make_buffer",
    "private_server",
    "private_store",
    "store_at",
]

FIXTURES = {
    "postgres": "postgres_url",
    "mariadb": "mariadb_url",
    "redis": "redis_url",
    "valkey": "valkey_url",
}
"""The stores that need a server, and the fixture that gives the URL of one which all tests share."""

DURABLE = ("sqlite", *FIXTURES)
"""The kinds of stores that outlive a process, by the names that ``--backend`` takes."""

SQL_SERVERS = ("postgres", "mariadb")
REDIS = ("redis", "valkey")

_SERVERS: dict[str, Callable[[], Server]] = {
    "postgres": start_postgres,
    "mariadb": start_mariadb,
    "redis": lambda: start_redis(flavour="redis", fsync="everysec"),
    "valkey": lambda: start_redis(flavour="valkey", fsync="everysec"),
}


@dataclass(frozen=True, slots=True)
class Store:
    """A store as a worker is told of it; ``prefix`` begins the names of its tables or keys."""

    url: str
    prefix: str = "streamchat_"

    def make(self) -> EventBuffer:
        """Make a buffer over it, not opened yet."""
        return make_buffer(self.url, self.prefix)


def make_buffer(url: str, prefix: str, silence: float = 10.0) -> EventBuffer:
    """Make the buffer that a URL asks for, not opened yet; tables are made where they are missing.

    ``silence`` is the seconds after which a server that says nothing is given up.
    """
    option = "timeout" if url.startswith("redis:") else "busy_seconds"
    return buffer_for(url, prefix=prefix, create_tables=True, **{option: silence})


def store_at(kind: str, url: str, folder: Path) -> Store:
    """Return a fresh store of a kind: a file in ``folder``, or names of its own on the server at ``url``."""
    if kind == "sqlite":
        return Store(f"sqlite:///{folder / 'chat.db'}")
    return Store(url, f"c{os.urandom(4).hex()}_")


@contextlib.asynccontextmanager
async def private_server(kind: str) -> AsyncIterator[Server]:
    """Have a server of one's own, to do harm to. Raises `tests.services.process.Unavailable`."""
    server = await asyncio.to_thread(_SERVERS[kind])
    try:
        yield server
    finally:
        await asyncio.to_thread(server.close)


@contextlib.asynccontextmanager
async def private_store(kind: str, folder: Path) -> AsyncIterator[Store]:
    """Have a fresh store of that kind, on a server of its own where it needs one."""
    if kind == "sqlite":
        yield store_at(kind, "", folder)
        return
    async with private_server(kind) as server:
        yield store_at(kind, server.url, folder)
