"""Notices what other processes wrote: a look at the database every 50 to 200 ms, only while somebody waits.

SQLite tells nobody of a commit in another process, but its ``data_version`` changes with each, and asking for
that costs microseconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from threading import Event, Lock, Thread

from streamchat.buffers.following import Followers
from streamchat.buffers.sql.sqlite_store import SQLiteSession, SQLiteStore

__all__ = ["Poller"]

_SOONEST, _LATEST = 0.05, 0.2
_log = logging.getLogger("streamchat.buffers")


class Poller:
    """A thread that hints to followers when a run's head or number of inputs has changed."""

    def __init__(self, store: SQLiteStore, followers: Followers, prefix: str, name: str) -> None:
        self._store = store
        self._followers = followers
        self._query = (
            f"SELECT json_group_array(json_array(run_id, head_seq, posted)) FROM {prefix}runs "
            f"WHERE run_id IN (SELECT value FROM json_each(?))"
        )
        self._name = name
        self._known: dict[str, tuple[int, int]] = {}
        self._stop = Event()
        self._lock = Lock()
        self._thread: Thread | None = None

    def ensure(self) -> None:
        """Start looking, if that is not so yet."""
        with self._lock:
            if self._thread is None:
                self._stop.clear()
                self._thread = Thread(target=self._live, name=self._name, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread; takes as long as one look."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join()

    def _live(self) -> None:
        session: SQLiteSession | None = None
        version, pause = None, _SOONEST
        while not self._stop.wait(pause):
            if not self._followers.anybody_waits:
                pause, version = _LATEST, None
                continue
            try:
                session = session or self._store.session()
                found = session.raw.execute("PRAGMA data_version").fetchone()
                changed = found != version and self._look(session.raw)
                version = found
            except Exception as error:
                _log.warning("looking for news failed, trying on: %s", error)
                changed = False
                if session is not None:
                    with contextlib.suppress(Exception):
                        session.close()
                session = None
            pause = _SOONEST if changed else min(pause * 1.5, _LATEST)
        if session is not None:
            session.close()

    def _look(self, raw: sqlite3.Connection) -> bool:
        """Hint at the followed runs that have changed since the last look; say whether there were any."""
        followed = self._followers.followed()
        (rows,) = raw.execute(self._query, (json.dumps(followed),)).fetchone()
        heads = {run_id: (head_seq, posted) for run_id, head_seq, posted in json.loads(rows)}
        # A run that is gone, or that was not followed at the last look, counts as changed.
        changed = [run_id for run_id in followed if self._known.get(run_id) != heads.get(run_id, (-1, 0))]
        self._known = {run_id: heads.get(run_id, (-1, 0)) for run_id in followed}
        self._followers.notify(changed)
        return bool(changed)
