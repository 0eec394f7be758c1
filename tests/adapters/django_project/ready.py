"""Django set up once for a test process, whichever tests come first, on databases that they name."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["add_database", "make_ready", "migrate"]

_SETTINGS = "tests.adapters.django_project.settings"


def make_ready() -> Path:
    """Set Django up; return the file of its default database, in which the caller makes the tables."""
    import django
    from django.apps import apps

    if not apps.ready:
        directory = tempfile.mkdtemp(prefix="streamchat-django-")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        os.environ["DJANGO_TEST_DB"] = str(Path(directory) / "db.sqlite3")
        os.environ["DJANGO_SETTINGS_MODULE"] = _SETTINGS
        django.setup()
    return Path(os.environ["DJANGO_TEST_DB"])


def add_database(alias: str, **settings: Any) -> None:
    """Let the project know one more database."""
    make_ready()
    from django.db import connections

    if settings["ENGINE"].endswith("mysql"):
        import pymysql  # type: ignore[import-untyped]

        pymysql.install_as_MySQLdb()
    known: Any = connections.settings
    known[alias] = settings
    connections.configure_settings(known)


def migrate(alias: str) -> None:
    """Make the tables of runs; leaves no connection open in this thread."""
    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", "streamchat", database=alias, verbosity=0)
    connections[alias].close()
