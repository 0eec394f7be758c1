"""New empty databases on a server that tests share."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

__all__ = ["create_database", "database", "drop_database", "execute"]


async def execute(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements outside of a transaction as the URL's user; returns the rows of the last one."""
    rows: list[tuple[Any, ...]] = []
    if url.startswith("postgresql"):
        import asyncpg  # type: ignore[import-untyped]

        postgres = await asyncpg.connect(url)
        try:
            for statement in statements:
                rows = [tuple(row) for row in await postgres.fetch(statement)]
        finally:
            await postgres.close()
        return rows
    import asyncmy

    parts = urlsplit(url)
    mysql = await asyncmy.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        db=parts.path.lstrip("/") or None,
        autocommit=True,
    )
    try:
        async with mysql.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
            rows = list(await cursor.fetchall())
    finally:
        await mysql.ensure_closed()
    return rows


async def create_database(url: str) -> str:
    """Make a database beside the one of the URL; returns its URL."""
    name = f"test_{secrets.token_hex(6)}"
    await execute(url, f"CREATE DATABASE {name}")
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def drop_database(url: str) -> None:
    """Remove a database that `create_database` made, also while others are connected."""
    parts = urlsplit(url)
    name = parts.path.lstrip("/")
    if url.startswith("postgresql"):
        other = urlunsplit(parts._replace(path="/postgres"))
        await execute(other, f"DROP DATABASE {name} WITH (FORCE)")
    else:
        await execute(urlunsplit(parts._replace(path="/")), f"DROP DATABASE {name}")


@asynccontextmanager
async def database(url: str) -> AsyncIterator[str]:
    """A new database for the length of a block."""
    new = await create_database(url)
    try:
        yield new
    finally:
        await drop_database(new)
