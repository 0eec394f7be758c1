"""One server for all processes of a test run: the first to need it starts it, the last to leave ends it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

from tests.services.process import Held, Server, started

__all__ = ["Shared"]


class Shared:
    """A hold on the server that all processes with the same ``folder`` and ``name`` share."""

    def __init__(self, folder: Path, name: str, make: Callable[[], Server]) -> None:
        """``make`` makes the server, not started, in a directory of its own."""
        self._server: Server | None = None
        self._held: Held | None = None
        record = folder / f"{name}.json"
        # The guardian counts its holders, so nobody who is killed leaves a wrong count.
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._join(record):
                self._server = started(make())
                self.url = self._server.url
                record.write_text(json.dumps({"url": self.url, "control": self._server.control}))

    def _join(self, record: Path) -> bool:
        try:
            shared = json.loads(record.read_text())
            held = Held(shared["control"])
        except OSError:
            return False
        if held.ask("hold") is None:  # its guardian was just leaving
            held.forget()
            return False
        self._held = held
        self.url = shared["url"]
        return True

    def close(self) -> None:
        """Let go of it; the last one to do so waits until the server is gone."""
        if self._held is not None:
            self._held.leave()
        if self._server is not None:
            self._server.leave()
