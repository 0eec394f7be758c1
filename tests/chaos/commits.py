"""The kill points inside of SQLite's transactions: everything is written, and COMMIT is about to be executed.

SQLite's own trace tells each statement before it runs, so nothing of the buffer is replaced. A claim is told
by its new segment, a batch by the types of its events.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Engine, event

from tests.chaos.seams import BATCHES, KillPoints

__all__ = ["install_commit_points"]


def install_commit_points(points: KillPoints) -> None:
    """Watch every SQLite connection that SQLAlchemy opens from now on in this process."""

    def on_connect(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(_Trace(points))

    event.listen(Engine, "connect", on_connect)


class _Trace:
    """The statements of one connection; what the open transaction wrote is told at its COMMIT."""

    def __init__(self, points: KillPoints) -> None:
        self._points = points
        self._wrote: set[str] = set()

    def __call__(self, statement: str) -> None:
        if statement.startswith("BEGIN"):
            self._wrote.clear()
        elif statement.startswith("INSERT INTO"):
            table = statement.split(maxsplit=3)[2]
            if table.endswith("_runs"):
                self._wrote.add("create")
            elif table.endswith("_segments"):
                self._wrote.add("claim")
            elif table.endswith("_events"):
                self._wrote.update(kind for kind in BATCHES if f"'{kind}'" in statement)
        elif statement == "COMMIT":
            if "claim" in self._wrote and "create" not in self._wrote:
                self._points.hit("claim.commit")
            for kind in self._wrote.intersection(BATCHES):
                self._points.hit(f"append.commit:{kind}")
