"""The stores under attack: how a buffer is made from a URL, and how a fresh store is had from a server's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamchat.buffers.base import EventBuffer
from streamchat.buffers.sql import SQLEventBuffer

__all__ = ["DURABLE", "SERVERS", "Store", "make_buffer", "private_store", "store_at"]

DURABLE = ("sqlite",)
"""The kinds of stores that outlive a process, by the names that ``--backend`` takes."""

SERVERS: dict[str, str] = {}
"""Those that need a server, with the fixture that gives the URL of one which all tests share."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store as a worker is told of it; ``prefix`` begins the names of its tables or keys."""

    url: str
    prefix: str = "streamchat_"

    def make(self) -> EventBuffer:
        """Make a buffer over it, not opened yet."""
        return make_buffer(self.url, self.prefix)


def make_buffer(url: str, prefix: str) -> EventBuffer:
    """Make the buffer that a URL asks for, not opened yet; tables are made where they are missing."""
    if url.startswith("sqlite:"):
        return SQLEventBuffer(url, prefix=prefix)
    more: dict[str, Any] = {"create_tables": True}
    return SQLEventBuffer(url, prefix=prefix, **more)


def store_at(kind: str, url: str, folder: Path) -> Store:
    """Return a fresh store of a kind: a file in ``folder``, or names of its own on the server at ``url``."""
    if kind == "sqlite":
        return Store(f"sqlite:///{folder / 'chat.db'}")
    return Store(url, f"c{os.urandom(4).hex()}_")


@contextlib.asynccontextmanager
async def private_store(kind: str, folder: Path) -> AsyncIterator[Store]:
    """Have a store of that kind, on a server of its own where it needs one."""
    if kind != "sqlite":
        raise ValueError(f"there is no store {kind!r}: {', '.join(DURABLE)}")
    yield store_at(kind, "", folder)
