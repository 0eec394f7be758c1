"""What an attack takes place in: the provider, workers, a service that only reads, clients, and the ledgers.

A scene is one store with its folder of ledgers. Several of them may share the processes, `Cast`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

from streamchat import StoredEvent, StreamChat
from streamchat.errors import BufferUnavailable, RunNotFound
from streamchat.service.log import read_log
from streamchat.testing import ScriptedModel
from tests.chaos.checks import (
    Findings,
    check_acknowledged,
    check_effects,
    check_log_of,
    check_readings,
)
from tests.chaos.fleet import Fleet, Worker
from tests.chaos.ledger import read_ledger
from tests.chaos.provider import Plan
from tests.chaos.readers import Reading, read_by_attaching, read_over_http
from tests.chaos.stores import Store
from tests.chaos.worker import WorkerSpec

__all__ = ["Cast", "Scene", "StartedRun"]

_AWAY = (aiohttp.ClientError, TimeoutError, ConnectionError)


@dataclass(slots=True)
class Cast:
    """The processes and the client that scenes share."""

    fleet: Fleet
    session: aiohttp.ClientSession

    @property
    def provider(self) -> str:
        """The base URL of the model provider."""
        return self.fleet.provider

    @classmethod
    @contextlib.asynccontextmanager
    async def gathered(cls, env: Mapping[str, str] | None = None) -> AsyncIterator[Self]:
        """Start them; ``env`` is for the workers."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=2.0, sock_read=5.0)
        async with Fleet(env=env) as fleet, aiohttp.ClientSession(timeout=timeout) as session:
            yield cls(fleet, session)


@dataclass(slots=True, eq=False)
class StartedRun:
    """A run that a client was promised."""

    run_id: str
    conversation_id: str
    plan: Plan
    cancelled: bool = False
    readings: list[Reading] = field(default_factory=list)
    read: bool = False
    """Whether its readers have seen the end."""


class Scene:
    """One store under attack."""

    def __init__(self, cast: Cast, store: Store, folder: Path, ttl: float = 1.0, **spec: Any) -> None:
        self.cast = cast
        self.store = store
        self.folder = folder
        self.runs: list[StartedRun] = []
        self.workers: list[Worker] = []
        self.chat = StreamChat(
            model=ScriptedModel(()),
            buffer=store.make(),
            allow_anonymous=True,
            work=False,
            worker="conductor",
        )
        self._spec = WorkerSpec("", store.url, store.prefix, str(folder), cast.provider, ttl=ttl, **spec)

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        await self.chat.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
            await worker.exited.wait()
        await self.chat.close()

    # ------------------------------------------------------------------------------------------- the workers

    async def start(
        self, name: str, *, kill: str | None = None, fleet: Fleet | None = None, **changes: Any
    ) -> Worker:
        """Start a worker; names are shared with all scenes of the cast."""
        worker = await (fleet or self.cast.fleet).start(self._spec, name, kill=kill, **changes)
        self.workers.append(worker)
        return worker

    async def start_ready(self, name: str, **more: Any) -> Worker:
        """Start a worker and wait until it serves."""
        worker = await self.start(name, **more)
        await worker.ready.wait()
        assert worker.port, f"worker {name} ended before it served ({worker.status}): see {self.folder}"
        return worker

    def serving(self) -> list[Worker]:
        """The workers that a client may try."""
        return [worker for worker in self.workers if worker.serves]

    async def some_port(self, random: random.Random) -> int:
        """The port of any worker that serves, once there is one."""
        while not (serving := self.serving()):
            await asyncio.sleep(0.02)
        return random.choice(serving).port

    async def stop_workers(self) -> None:
        """Have all workers end in order."""
        for worker in self.workers:
            await worker.stop()

    # ------------------------------------------------------------------------------------------- the clients

    async def post(self, plan: Plan, key: str, random: random.Random, to: Worker | None = None) -> StartedRun:
        """Ask for a run, again and again under one key until it is acknowledged, first of ``to``."""
        conversation_id = key.rpartition(":")[0]
        body = {"conversation_id": conversation_id, "message": plan.encode()}
        while True:
            port = to.port if to is not None and to.serves else await self.some_port(random)
            url = f"http://127.0.0.1:{port}/runs"
            with contextlib.suppress(*_AWAY):
                async with self.cast.session.post(
                    url, json=body, headers={"Idempotency-Key": key}
                ) as response:
                    if response.status in (200, 201):
                        run = StartedRun((await response.json())["run_id"], conversation_id, plan)
                        self.runs.append(run)
                        return run
                    assert response.status in (429, 503), f"{response.status} {await response.text()}"
            await asyncio.sleep(0.05)

    async def read(self, run: StartedRun, random: random.Random) -> None:
        """Read a run to its end, as two clients."""
        attached = read_by_attaching(self.chat, run.run_id, random)
        over_http = read_over_http(self.cast.session, self.some_port, run.run_id, random)
        run.readings += await asyncio.gather(attached, over_http)
        run.read = True

    async def cancel(self, run: StartedRun, random: random.Random) -> None:
        """Cancel a run, at any worker."""
        run.cancelled = True
        while True:
            url = f"http://127.0.0.1:{await self.some_port(random)}/runs/{run.run_id}/cancel"
            with contextlib.suppress(*_AWAY):
                async with self.cast.session.post(url, json={"reason": "chaos"}) as response:
                    if response.status == 202:
                        return
                    assert response.status in (429, 503), f"{response.status} {await response.text()}"
            await asyncio.sleep(0.05)

    # ------------------------------------------------------------------------------------------ what is true

    async def log(self, run: StartedRun) -> list[StoredEvent]:
        """Return what is stored of a run."""
        return await read_log(self.chat.buffer, run.run_id)

    def appended(self) -> list[dict[str, Any]]:
        """The batches of events that were acknowledged."""
        return [e for e in self.acknowledged() if e["kind"] == "appended" and e["count"]]

    async def until_appended(self, more: int) -> None:
        """Wait until so many more batches were acknowledged."""
        before = len(self.appended())
        while len(self.appended()) < before + more:
            await asyncio.sleep(0.01)

    async def until_logged(self, words: str) -> None:
        """Wait until a worker has logged that."""
        while words not in (self.folder / "workers.log").read_text():
            await asyncio.sleep(0.05)

    def acknowledged(self) -> list[dict[str, Any]]:
        """What the workers were told."""
        return read_ledger(self.folder / "acknowledged.jsonl")

    def effects(self) -> list[dict[str, Any]]:
        """What the tools did."""
        return read_ledger(self.folder / "effects.jsonl")

    async def check(self, findings: Findings) -> dict[str, list[StoredEvent]]:
        """Compare all that was written down with what is stored, and return the logs."""
        logs = {}
        for run in self.runs:
            if not run.read:
                findings.wrong(run.run_id, "not over, or not read to the end")
            try:
                logs[run.run_id] = events = await self.log(run)
            except (RunNotFound, BufferUnavailable) as error:
                findings.wrong(run.run_id, f"an acknowledged run cannot be read: {error}")
                continue
            check_log_of(run.run_id, events, run.cancelled, findings)
            check_readings(run.run_id, events, run.readings, findings)
        await self._check_conversations(findings)
        acknowledged = self.acknowledged()
        for unheard in {entry["run"] for entry in acknowledged} - logs.keys():
            # One whose client was never answered is acknowledged to its workers all the same.
            with contextlib.suppress(RunNotFound):
                logs[unheard] = await read_log(self.chat.buffer, unheard)
        check_acknowledged(logs, acknowledged, findings)
        check_effects(logs, self.effects(), findings)
        return logs

    async def _check_conversations(self, findings: Findings) -> None:
        """Each question stands once, each answer is there whole, and nobody holds the conversation."""
        turns: dict[str, list[StartedRun]] = defaultdict(list)
        for run in self.runs:
            turns[run.conversation_id].append(run)
        for conversation_id, runs in turns.items():
            messages = await self.chat.buffer.messages(conversation_id)
            found = [(message.role, message.run_id) for message in messages]
            wanted = [(role, run.run_id) for run in runs for role in ("user", "assistant")]
            if found != wanted or any(message.status == "pending" for message in messages):
                stored = [(message.role, message.run_id, message.status) for message in messages]
                findings.wrong(runs[0].run_id, f"messages of {conversation_id}: {stored}")
            if (await self.chat.buffer.conversation(conversation_id)).active_run_id is not None:
                findings.wrong(runs[0].run_id, f"{conversation_id} is held for ever")
