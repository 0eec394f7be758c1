"""`buffer_for`: the buffer that a URL names, with nothing imported but what that one needs."""

from __future__ import annotations

from typing import Any

from streamchat.buffers.base import EventBuffer
from streamchat.errors import InvalidInput, MissingDependency

__all__ = ["buffer_for", "need_sql"]

_SQL = {
    "sqlite": ("SQLite", "sqlite"),
    "postgresql": ("PostgreSQL", "postgres"),
    "postgres": ("PostgreSQL", "postgres"),
    "mysql": ("MySQL", "mysql"),
    "mariadb": ("MariaDB", "mysql"),
}
"""By the URL's scheme, what people call the database, and the extra that it needs."""
_REDIS = ("redis", "rediss", "valkey", "valkeys", "unix")
_FORMS = (
    "memory:, sqlite:///chat.db, postgresql://user:password@host/database, "
    "mysql://user:password@host/database or redis://host"
)


def buffer_for(
    url: str, *, prefix: str | None = None, create_tables: bool | None = None, **options: Any
) -> EventBuffer:
    """Return the buffer for ``url``, not open yet.

    ``memory:`` is a `MemoryEventBuffer`; ``sqlite:``, ``postgresql:``, ``mysql:`` and ``mariadb:`` (also with
    a driver, as in ``postgresql+asyncpg:``) an `SQLEventBuffer`; ``redis:``, ``rediss:``, ``valkey:``,
    ``valkeys:`` and ``unix:`` a `RedisEventBuffer`. ``prefix`` begins the names of tables or keys (default:
    ``streamchat_`` for tables, ``streamchat`` for keys), ``create_tables`` is `SQLEventBuffer`'s; both are
    ignored where there is nothing of the kind. ``options`` go to the buffer.

    Raises `InvalidInput` for a URL of another kind, `MissingDependency` when the extra is not installed.
    """
    if not isinstance(url, str):  # told without its content, which could be a password
        raise InvalidInput(
            f"the URL is of type {type(url).__name__}: give text like {_FORMS} (where it comes from an "
            f"environment variable, see that this is set)",
            field="url",
        )
    scheme = _scheme(url)
    kind = scheme.partition("+")[0]
    if kind == "memory" or url == "memory":
        from streamchat.buffers.memory import MemoryEventBuffer

        return MemoryEventBuffer(**options)
    if kind in _SQL:
        need_sql(url)
        from streamchat.buffers.sql import SQLEventBuffer

        if prefix is not None:
            options["prefix"] = prefix
        return SQLEventBuffer(url, create_tables=create_tables, **options)
    if kind in _REDIS:
        from streamchat.buffers.redis import RedisEventBuffer

        return RedisEventBuffer(url, prefix="streamchat" if prefix is None else prefix, **options)
    # What stands before an @ may be a password.
    shown = url if "@" not in url else f"{scheme}://…@{url.rpartition('@')[2]}"
    raise InvalidInput(f"{shown!r} names no buffer: it must be like {_FORMS}", field="url")


def need_sql(url: str) -> None:
    """Raise `MissingDependency`, which names the extra for the URL's database, where `streamchat.buffers.sql`
    cannot be imported."""
    name, extra = _SQL.get(_scheme(url).partition("+")[0], _SQL["sqlite"])
    try:
        import streamchat.buffers.sql  # noqa: F401
    except MissingDependency as error:
        raise MissingDependency(f"SQLEventBuffer on {name}", extra, "sqlalchemy") from error


def _scheme(url: str) -> str:
    return url.partition(":")[0].strip().lower() if ":" in url else ""
