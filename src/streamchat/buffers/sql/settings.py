"""What every kind of database is given, and how it is named in messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from sqlalchemy import URL, Engine

from streamchat.buffers.codec import Payloads
from streamchat.buffers.following import Followers
from streamchat.buffers.shared import Clock, Token
from streamchat.buffers.sql.schema import Schema

if TYPE_CHECKING:
    # Importing it needs greenlet, which SQLite does without.
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Given", "Settings", "where_of"]

Given: TypeAlias = "str | Engine | AsyncEngine"


@dataclass(frozen=True, slots=True)
class Settings:
    """What every kind of database is given; a clock or `create_tables` of None is the kind's own."""

    schema: Schema
    payloads: Payloads
    followers: Followers
    clock: Clock | None
    token: Token
    readers: int
    busy_seconds: float
    create_tables: bool | None


def where_of(name: str, url: URL) -> str:
    """Return which database this is, for messages: without user and password."""
    host = url.host or url.query.get("host") or "localhost"
    port = f":{url.port}" if url.port else ""
    return f"{name} database {url.database or url.username!r} at {host}{port}"
