"""What happened outside of the store: append-only files that survive the death of whoever writes them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Ledger", "digest", "read_ledger"]


class Ledger:
    """A file of JSON lines, each written by one call to a file opened for appending: lines never mix.

    What is written survives a SIGKILL of the writer; with ``sync`` it is on the disk before `write` returns.
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._sync = sync

    def write(self, kind: str, **fields: Any) -> None:
        """Append one line; the time (seconds since the epoch) and the process go with it."""
        line = json.dumps({"kind": kind, "time": time.time(), "pid": os.getpid(), **fields}) + "\n"
        os.write(self._file, line.encode())
        if self._sync:
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return all lines of a ledger, in the order in which they were written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def digest(events: Iterable[tuple[str, bytes]]) -> str:
    """Identify a stretch of a log by its events' types and public data."""
    hashed = hashlib.sha256()
    for kind, data in events:
        hashed.update(b"%b %d\n" % (kind.encode(), len(data)))
        hashed.update(data)
    return hashed.hexdigest()[:24]
