"""The conductor of an attack: it starts runs at a steady rate, reads each of them twice, and ends workers.

Workers die by SIGKILL at random moments, by their own hand at a named point (`tests.chaos.seams`), or are
frozen for longer than their lease lasts. When the time is up all runs are waited for, and everything that was
written down is compared (`tests.chaos.checks`).
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.checks import Findings, take_over_times
from tests.chaos.fleet import Worker
from tests.chaos.provider import Plan
from tests.chaos.scene import Cast, Scene
from tests.chaos.seams import POINTS
from tests.chaos.stores import Store

__all__ = ["Attack", "Options", "Outcome"]

_PLANS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (),
    (),
    (("charge",),),
    (("book",),),
    (("pay",),),
    (("report",),),
    (("charge", "book", "pay", "report"),),
    (("charge", "charge"), ("book",), ("pay", "charge")),
)


_LONGEST = 3.0


@dataclass(frozen=True, slots=True)
class Options:
    """How hard to attack: ``seconds`` long, ``kills`` workers ended in that time, ``rate`` runs a second.

    Where the machine is too slow for so many kills, it goes on until there are, up to three times as long.

    ``freezes`` is the share of the kills that are SIGSTOP for longer than the lease, ``points`` that of the
    workers which are to die at a named point, ``cancels`` that of the runs which somebody cancels.
    ``patience`` is how long the runs are waited for at the end.
    """

    backend: str = "sqlite"
    seconds: float = 20.0
    seed: int = 1
    workers: int = 2
    kills: int = 20
    ttl: float = 1.0
    rate: float = 3.0
    freezes: float = 0.1
    points: float = 0.5
    cancels: float = 0.05
    patience: float = 90.0


@dataclass(slots=True)
class Outcome:
    """What an attack came to."""

    options: Options
    findings: Findings = field(default_factory=Findings)
    runs: int = 0
    kills: int = 0
    freezes: int = 0
    at_points: int = 0
    workers: int = 0
    connections: int = 0
    seconds: float = 0.0
    take_overs: list[float] = field(default_factory=list)


class Attack:
    """One attack on a store; its files are kept in ``folder``. ``outcome`` grows while it lasts."""

    def __init__(self, options: Options, store: Store, folder: Path) -> None:
        self.options = options
        self._store = store
        self._folder = folder
        self._random = random.Random(options.seed)
        self._scene: Scene = None  # type: ignore[assignment]
        self.outcome = Outcome(options)
        self._deaths: dict[int, list[float]] = defaultdict(list)
        self._shot: set[Worker] = set()
        self._users: set[asyncio.Task[None]] = set()
        self._calm = self._over = False

    async def run(self) -> Outcome:
        """Attack, wait, and check."""
        began = time.monotonic()
        outcome = self.outcome
        async with (
            Cast.gathered() as cast,
            Scene(cast, self._store, self._folder, self.options.ttl) as self._scene,
        ):
            async with asyncio.TaskGroup() as group:
                for _ in range(self.options.workers):
                    group.create_task(self._keep_a_worker())
                killing = group.create_task(self._kill())
                await self._start_users(group, killing)
                self._calm = True
                await self._wait_for_users()
                self._over = True
                await self._scene.stop_workers()
            logs = await self._scene.check(outcome.findings)
            outcome.take_overs = take_over_times(logs, self._scene.acknowledged(), self._deaths)
        outcome.runs = len(self._scene.runs)
        outcome.connections = sum(r.connections for run in self._scene.runs for r in run.readings)
        outcome.seconds = time.monotonic() - began
        return outcome

    # ------------------------------------------------------------------------------------------- the workers

    async def _keep_a_worker(self) -> None:
        """Have one worker at all times: where it ends, another begins."""
        while not self._over:
            self.outcome.workers += 1
            worker = await self._scene.start(f"w{self.outcome.workers}", kill=self._next_point())
            await worker.exited.wait()
            if worker.status == -signal.SIGKILL:
                self.outcome.kills += 1
                if worker not in self._shot:
                    self.outcome.at_points += 1
                    self._deaths[worker.pid].append(worker.exited_at)
            elif not self._over:
                self.outcome.findings.wrong("", f"worker {worker.name} ended with {worker.status}")

    def _next_point(self) -> str | None:
        if self._calm or self._random.random() >= self.options.points:
            return None
        return f"{self._random.choice(POINTS)}@{self._random.choice((1, 1, 2, 3, 5))}"

    async def _kill(self) -> None:
        """End so many workers in the time that there is, at random moments."""
        options = self.options
        began = time.monotonic()
        while (now := time.monotonic() - began) < options.seconds * _LONGEST:
            # Some have ended themselves meanwhile.
            left = options.kills - self.outcome.kills
            if left <= 0 and now >= options.seconds:
                return
            # Late, it does not slow down with what is left.
            rate = max(1, left, options.kills / 4) / max(options.seconds - now, options.seconds / _LONGEST)
            await asyncio.sleep(self._random.expovariate(rate))
            serving = self._scene.serving()
            if not serving or self.outcome.kills >= options.kills:
                continue
            worker = self._random.choice(serving)
            self._deaths[worker.pid].append(time.time())
            if self._random.random() < options.freezes:
                self.outcome.freezes += 1
                worker.freeze()
                seconds = options.ttl * (1.2 + self._random.random())
                asyncio.get_running_loop().call_later(seconds, worker.thaw)
            else:
                self._shot.add(worker)
                worker.kill()
                await worker.exited.wait()

    # --------------------------------------------------------------------------------------------- the users

    async def _start_users(self, group: asyncio.TaskGroup, killing: asyncio.Task[None]) -> None:
        number = 0
        while not killing.done():
            number += 1
            self._users.add(group.create_task(self._use(number, random.Random(self._random.random()))))
            await asyncio.sleep(self._random.expovariate(self.options.rate))

    async def _use(self, number: int, random: random.Random) -> None:
        """Be a user: ask, read the answer in two windows, sometimes cancel; then ask again, sometimes."""
        plan = Plan(f"r{number}", random.choice(_PLANS), random.randrange(10, 50), random.random() * 0.02)
        for turn in range(2 if random.random() < 0.3 else 1):
            run = await self._scene.post(plan, f"c{self.options.seed}-{number}:{turn}", random)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._scene.read(run, random))
                if random.random() < self.options.cancels:
                    await asyncio.sleep(random.random())
                    await self._scene.cancel(run, random)

    async def _wait_for_users(self) -> None:
        _, waiting = await asyncio.wait(self._users, timeout=self.options.patience)
        for user in waiting:
            user.cancel()
        if waiting:
            self.outcome.findings.wrong("", f"{len(waiting)} users still wait")
