"""Which runs this process works on: bounded, claimed one by one, and let go in order when it shuts down.

A run that was created here is claimed as soon as there is room; besides, the supervisor looks every few
seconds for runs that nobody holds (queued in the store, or whose worker died). Leases make it harmless that
many processes look.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from streamchat.buffers.base import Claim, EventBuffer
from streamchat.errors import BufferUnavailable, Busy, StreamChatError
from streamchat.principal import Principal
from streamchat.service.driver import Driver
from streamchat.service.shares import FairQueue

__all__ = ["Supervisor"]

log = logging.getLogger("streamchat.service")

_PAUSE_AFTER_FAILURE = 0.5


class Supervisor:
    """Claims runs and drives them, at most ``max_runs`` at once; at most ``max_queue`` wait in this process.

    ``work(claim, register)`` drives one claimed run to its end; it calls ``register`` with the driver, so
    that a cancel in this process is noticed at once. ``look_every`` is seconds. Where it is not ``working``,
    runs stay in the store for other processes.
    """

    def __init__(
        self,
        buffer: EventBuffer,
        worker: str,
        work: Callable[[Claim, Callable[[Driver], None]], Awaitable[None]],
        *,
        lease_ttl: float,
        max_runs: int,
        max_queue: int,
        look_every: float,
        working: bool = True,
    ) -> None:
        self._buffer = buffer
        self._worker = worker
        self._work = work
        self._lease_ttl = lease_ttl
        self._max_runs = max_runs
        self._max_queue = max_queue
        self._look_every = look_every
        self._working = working
        self._queue = FairQueue()
        self._active: Counter[str] = Counter()
        self._being_created = 0
        self._drained: asyncio.Task[None] | None = None
        self._drain_until = math.inf
        self._patience: asyncio.Timeout | None = None
        self._drivers: dict[str, Driver] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wakeup = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop: asyncio.Task[None] | None = None
        self.draining = False

    @property
    def active(self) -> int:
        """How many runs are at work here."""
        return len(self._tasks)

    @contextmanager
    def room(self) -> Iterator[None]:
        """Keep a place in the queue for a run that is being created. Raises `Busy` where there is none."""
        if self.draining:
            raise Busy("the server is shutting down; start the run elsewhere", retry_after=1.0)
        waiting = len(self._queue) + self._being_created
        if waiting >= self._max_queue:
            raise Busy(
                f"{waiting} runs wait already (max_queue={self._max_queue}); try again later", retry_after=2.0
            )
        self._being_created += 1
        try:
            yield
        finally:
            self._being_created -= 1

    def submit(self, run_id: str, principal: Principal | None = None) -> None:
        """Work on a run that was just created, as soon as there is room; principals take turns."""
        if (
            self._working and run_id not in self._active
        ):  # looking around may have found it before its creator told of it
            self._queue.add(run_id, principal)
            self._wakeup.set()

    def driven(self, run_id: str) -> bool:
        """Whether the run is at work here."""
        return run_id in self._drivers

    def poke(self, run_id: str, principal: Principal | None = None) -> None:
        """Something was posted to the run: if it is driven here, its driver looks now; if not, it may be
        claimable."""
        driver = self._drivers.get(run_id)
        if driver is not None:
            driver.poke()
        elif not self.draining:
            self.submit(run_id, principal)

    def look(self) -> None:
        """Look for runs that can be claimed now, rather than when it is time."""
        self._wakeup.set()

    def start(self) -> None:
        """Begin to claim runs."""
        if self._working:
            self._loop = asyncio.create_task(self._claim_runs(), name="streamchat supervisor")

    async def drain(self, seconds: float) -> None:
        """Take nothing more, let what runs finish for at most ``seconds``, then hand the rest over.

        Called again while it is under way, it waits for the first, which ends sooner where less time is
        given; cancelled, it finishes all the same.
        """
        self.draining = True
        self._drain_until = min(self._drain_until, asyncio.get_running_loop().time() + seconds)
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(self._drain_until)
        if self._drained is None:
            self._drained = asyncio.create_task(self._drain(), name="streamchat drain")
        await asyncio.shield(self._drained)

    async def _drain(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            # Not cancelled: a claim that the store grants at this moment must be begun, and so handed over.
            self._wakeup.set()
            await asyncio.wait({loop})
        try:
            async with asyncio.timeout_at(self._drain_until) as self._patience:
                await self._idle.wait()
                self._patience = None
        except TimeoutError:
            self._patience = None
            log.info("%d runs are handed over to other workers", len(self._tasks))
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _claim_runs(self) -> None:
        while not self.draining:
            self._wakeup.clear()
            wait = self._look_every
            try:
                await self._claim_what_there_is()
            except StreamChatError as error:
                log.warning("no runs can be claimed at the moment: %s", error)
                wait = min(wait, _PAUSE_AFTER_FAILURE)
            except Exception:
                log.exception("claiming runs failed; it is tried again")
                wait = min(wait, _PAUSE_AFTER_FAILURE)
            if self._late():
                wait = min(wait, self._lease_ttl / 3)
            try:
                async with asyncio.timeout(wait):
                    await self._wakeup.wait()
            except TimeoutError:
                pass

    async def _claim_what_there_is(self) -> None:
        while len(self._tasks) < self._max_runs and not self.draining and not self._late():
            run_id = self._queue.first()
            try:
                claim = await self._buffer.claim(self._worker, self._lease_ttl, run_id)
            except BufferUnavailable:
                raise
            except Exception:
                if run_id is None:
                    raise
                log.exception("run %s cannot be claimed; others go on", run_id)
                claim = None
            if run_id is not None:
                # Not there any more: somebody else took it, or it is over.
                self._queue.remove(run_id)
            elif claim is None:
                return
            if claim is not None:
                self._begin(claim)

    def _late(self) -> bool:
        # A process that cannot renew what it has in time would lose every run that it takes besides, and so
        # would the next one that takes them all: everybody would claim, and nobody finish.
        return any(driver.late for driver in self._drivers.values())

    def _begin(self, claim: Claim) -> None:
        run_id = claim.run.run_id
        self._active[run_id] += 1
        self._queue.remove(run_id)
        task = asyncio.create_task(self._drive(claim), name=f"streamchat run {run_id}")
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._ended)

    async def _drive(self, claim: Claim) -> None:
        run_id = claim.run.run_id
        mine: list[Driver] = []

        def register(driver: Driver) -> None:
            mine.append(driver)
            self._drivers[run_id] = driver

        try:
            await self._work(claim, register)
        except Exception:
            log.exception("run %s: driving it failed; its lease will expire", run_id)
        finally:
            # A run whose lease was lost here may have been claimed again, and be driven by another by now.
            if self._drivers.get(run_id) in mine:
                del self._drivers[run_id]
            self._active[run_id] -= 1
            if not self._active[run_id]:
                del self._active[run_id]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wakeup.set()
        if not self._tasks:
            self._idle.set()
