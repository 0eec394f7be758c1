"""The processes of an attack, as the conductor holds them: the zygote, the workers, the provider."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.chaos.worker import WorkerSpec

__all__ = ["Fleet", "Worker"]

ROOT = Path(__file__).parents[2]


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process. ``status`` is its exit status, negative for a signal, None while it lives."""

    spec: WorkerSpec
    pid: int = 0
    port: int = 0
    frozen: bool = False
    status: int | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it serves, or has ended before it could."""
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    exited_at: float = 0.0

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def serves(self) -> bool:
        """Whether a client may try it."""
        return self.port != 0 and self.status is None and not self.frozen

    def send(self, sent: signal.Signals) -> None:
        """Send a signal; one that has ended gets none."""
        if self.pid and self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sent)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def freeze(self) -> None:
        self.frozen = True
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen = False
        self.send(signal.SIGCONT)

    async def stop(self) -> None:
        """Have it end in order: it hands over what it has."""
        self.thaw()
        self.send(signal.SIGTERM)
        await self.exited.wait()


_PATIENCE = 10.0
"""Seconds for the zygote to end in order."""


class Fleet:
    """Workers forked from one zygote; ``async with`` starts it and ends all of them."""

    def __init__(self, *, env: Mapping[str, str] | None = None) -> None:
        self._env = env or {}
        self._zygote: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self.provider = ""
        """The base URL of the model provider."""
        self.workers: dict[str, Worker] = {}
        """All that were ever started, by name."""

    async def __aenter__(self) -> Fleet:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONASYNCIODEBUG"}
        self._zygote = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.zygote"),
            cwd=ROOT,
            env={**env, **self._env},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._listening = asyncio.create_task(self._listen(), name="chaos fleet")
        await self._up.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        zygote, listening = self._zygote, self._listening
        assert zygote is not None
        assert zygote.stdin is not None
        assert listening is not None
        zygote.stdin.close()
        try:
            async with asyncio.timeout(_PATIENCE):
                await zygote.wait()
        except TimeoutError:  # so that nobody waits for ever; what it has forked dies with it
            zygote.kill()
            await zygote.wait()
        await listening

    async def start(self, base: WorkerSpec, name: str, **changes: Any) -> Worker:
        """Fork a worker that is told ``base`` with changes; await its ``ready`` to talk to it."""
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        assert name not in self.workers, f"there was a worker {name!r} already"
        spec = replace(base, name=name, **changes)
        worker = self.workers[name] = Worker(spec)
        self._zygote.stdin.write((json.dumps({"fork": asdict(spec)}) + "\n").encode())
        await worker.started.wait()
        return worker

    async def _listen(self) -> None:
        assert self._zygote is not None
        assert self._zygote.stdout is not None
        while line := await self._zygote.stdout.readline():
            message = json.loads(line)
            if "up" in message:
                self.provider = message["up"]
                self._up.set()
            elif "forked" in message:
                worker = self.workers[message["forked"]]
                worker.pid = message["pid"]
                worker.started.set()
            elif "ready" in message:
                worker = self.workers[message["ready"]]
                worker.port = message["port"]
                worker.ready.set()
            elif message["exited"]:
                worker = self.workers[message["exited"]]
                worker.status, worker.exited_at = message["status"], time.time()
                worker.ready.set()
                worker.exited.set()
        for worker in self.workers.values():
            if worker.status is None:
                worker.status = -signal.SIGKILL
            worker.started.set()
            worker.ready.set()
            worker.exited.set()
        self._up.set()
