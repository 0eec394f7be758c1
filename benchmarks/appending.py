"""Appending to SQLite beside the bare driver doing the same, by the size of the batch."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.holders import BATCHES, Holders
from benchmarks.measure import Case, Clock, Row, Scale, in_turns
from benchmarks.subscribing import sqlite_buffer
from streamchat.buffers.base import NewEvent
from streamchat.events import TextDelta

__all__ = ["appending"]


class _Bare:
    """The standard library's driver on a thread, with the least that an appended batch takes: the rows, the
    run's head, a commit."""

    def __init__(self, path: Path) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, args=(path,))
        self._thread.start()
        self._head = 0

    def _live(self, path: Path) -> None:
        raw = self._raw = sqlite3.connect(path, isolation_level=None)
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute("PRAGMA synchronous = NORMAL")
        raw.execute("CREATE TABLE runs (run_id TEXT PRIMARY KEY, head_seq INTEGER) WITHOUT ROWID")
        raw.execute(
            "CREATE TABLE events (run_id TEXT, seq INTEGER, type TEXT, data BLOB, private BLOB, at INTEGER, "
            "PRIMARY KEY (run_id, seq)) WITHOUT ROWID"
        )
        raw.execute("INSERT INTO runs VALUES ('r', 0)")
        while (job := self._jobs.get()) is not None:
            job()
        raw.close()

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    async def append(self, events: list[NewEvent]) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def work() -> None:
            raw, head = self._raw, self._head
            raw.execute("BEGIN IMMEDIATE")
            rows = [("r", seq, e.type, e.data, e.private, 0) for seq, e in enumerate(events, head + 1)]
            raw.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._head = head + len(rows)
            raw.execute("UPDATE runs SET head_seq = ? WHERE run_id = 'r'", (self._head,))
            raw.execute("COMMIT")
            loop.call_soon_threadsafe(done.set_result, None)

        self._jobs.put(work)
        await done


def _through_bare(bare: _Bare, batch: list[NewEvent], times: int) -> Case:
    async def case(clock: Clock) -> float:
        with clock.running():
            for _ in range(times):
                await bare.append(batch)
        return times * len(batch)

    return case


async def appending(scale: Scale) -> list[Row]:
    """Deltas appended to one run by one holder, one batch after the other."""
    event = NewEvent.of(TextDelta(step=1, part=1, text=" word"))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        bare = _Bare(Path(directory) / "bare.db")
        try:
            async with sqlite_buffer() as buffer:
                holders = Holders(buffer)
                for size in BATCHES:
                    times = max(1, min(scale.events // 10, scale.events // size))
                    cases = {
                        "ours": holders.case([event] * size, times),
                        "bare": _through_bare(bare, [event] * size, times),
                    }
                    samples = await in_turns(cases, scale.rounds)
                    rows.append(
                        samples.row(f"append to SQLite, batches of {size}", "ours", "bare", 1.3, least="bare")
                    )
        finally:
            bare.close()
    return rows
