"""`DjangoEventBuffer` as the tests open it: on a file of its own, or a database of its own on a server."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pytest

from streamchat.buffers.base import EventBuffer
from streamchat.testing.buffers import BufferSuite
from tests.adapters.django_project.ready import add_database, make_ready, migrate
from tests.buffers.backends import Backend
from tests.services.databases import create_database, execute

__all__ = ["DjangoMariaDB", "DjangoPostgreSQL", "DjangoSQLite", "OnServer"]


class OnDjango(Backend):
    """Any of them; ``alias`` is its name among the project's databases."""

    shares = True
    alias = ""

    def make(self) -> EventBuffer:
        from streamchat.adapters.django import DjangoEventBuffer

        return DjangoEventBuffer(self.alias, clock=self.clock, token=self.token)


class DjangoSQLite(OnDjango):
    share = 1 / 3

    def __init__(self, directory: Path, server: str = "") -> None:
        super().__init__(directory, server)
        self.file = directory / "django.db"
        self.alias = f"chat-{self.file}"
        options = {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"}
        add_database(self.alias, ENGINE="django.db.backends.sqlite3", NAME=self.file, OPTIONS=options)
        if not self.file.exists():
            template = make_ready().with_name("template.db")
            if not template.exists():
                add_database("template", ENGINE="django.db.backends.sqlite3", NAME=template)
                migrate("template")
            shutil.copy(template, self.file)

    def save(self, buffer: Any) -> sqlite3.Connection:
        saved = sqlite3.connect(":memory:")
        with contextlib.closing(sqlite3.connect(self.file)) as source:
            source.backup(saved)
        return saved

    def restore(self, buffer: Any, saved: sqlite3.Connection) -> None:
        with contextlib.closing(sqlite3.connect(self.file, timeout=30)) as target:
            saved.backup(target)

    def forget(self, saved: sqlite3.Connection) -> None:
        saved.close()

    def check(self) -> None:
        with contextlib.closing(sqlite3.connect(self.file)) as checked:
            assert checked.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


class OnServer(OnDjango):
    """A database that this process makes once; ``prefix`` is its URL, for other processes too."""

    share = 0.0
    engine = ""
    _made: ClassVar[dict[str, str]] = {}

    @contextlib.asynccontextmanager
    async def open(self, _: EventBuffer | None = None) -> AsyncIterator[EventBuffer]:
        if not self.prefix:
            made = self._made.get(self.server)
            self.prefix = made or await create_database(self.server)
            self._know()
            if made:
                await execute(made, *self.emptying())
            else:
                await asyncio.to_thread(migrate, self.alias)
                self._made[self.server] = self.prefix
        async with super().open() as buffer:
            yield buffer

    def make(self) -> EventBuffer:
        self._know()  # in another process it is not known yet
        return super().make()

    def _know(self) -> None:
        url = urlsplit(self.prefix)
        self.alias = f"chat-{url.scheme}{url.path}"
        add_database(
            self.alias,
            ENGINE=self.engine,
            NAME=url.path.lstrip("/"),
            USER=unquote(url.username or ""),
            PASSWORD=unquote(url.password or ""),
            HOST=url.hostname,
            PORT=url.port or "",
        )

    def emptying(self) -> list[str]:
        """Return the statements that empty all tables."""
        return [f"DELETE FROM {name}" for name in self.tables()]

    def tables(self) -> list[str]:
        from django.apps import apps

        return [model._meta.db_table for model in apps.get_app_config("streamchat").get_models()]


class DjangoPostgreSQL(OnServer):
    service = "postgres_url"
    engine = "django.db.backends.postgresql"

    def emptying(self) -> list[str]:
        return [f"TRUNCATE {', '.join(self.tables())}"]


class _WithoutLargeRows(BufferSuite):
    async def run(self, name: str) -> None:
        if name == "eight_megabytes_survive_among_small_events":
            pytest.skip("PyMySQL writes bytes as twice as many digits: more than the server's packet holds")
        await super().run(name)


class DjangoMariaDB(OnServer):
    service = "mariadb_url"
    engine = "django.db.backends.mysql"

    def suite(self) -> BufferSuite:
        return _WithoutLargeRows(self.open, another=self.open, advance=self.advance)
