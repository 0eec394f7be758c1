"""The demo as people start it: a process of its own, with a real client on the other side."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Demo:
    """A running ``streamchat demo``; ``port`` is where it listens, ``output`` what it has printed."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        # As people start it: no key by chance, and not in debug mode.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "PYTHONASYNCIO"))}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "streamchat.cli", "demo", "--port", "0", *arguments],
            env={**inherited, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.output = ""
        found = None
        while found is None:
            line = self.process.stdout.readline()
            if not line:
                self.process.wait()
                raise AssertionError(f"the demo did not start: {self.output}")
            self.output += line
            found = re.search(r"(http://\S+:(\d+))/", line)
        self.url, self.port = found[1], int(found[2])
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        self.end()

    def interrupt(self) -> None:
        """As Ctrl+C does."""
        self.process.send_signal(2)

    def stop(self) -> int:
        """Interrupt it, and return the exit status."""
        self.interrupt()
        return self.end()

    def end(self) -> int:
        status = self.process.wait(timeout=20)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Start demos over one database file; all are ended with the test."""
    demos: list[Demo] = []

    def start(*arguments: str, **environment: str) -> Demo:
        where = () if "--db" in arguments else ("--db", f"sqlite:///{tmp_path / 'demo.db'}")
        demo = Demo([*where, *arguments], environment)
        demos.append(demo)
        return demo

    yield start
    for demo in demos:
        if demo.process.poll() is None:
            demo.kill()
