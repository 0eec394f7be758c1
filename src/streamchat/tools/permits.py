"""Who of a run's calls may run now: at most so many at once, and within the slots of each tool."""

from __future__ import annotations

from collections import deque

import anyio

from streamchat.tools.definition import Tool
from streamchat.tools.slots import Slot

__all__ = ["RunPermits"]


class _RunWaiter:
    __slots__ = ("alone", "event", "granted")

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self.event = anyio.Event()
        self.granted = False


class RunPermits:
    """The permits of one run, used within its one event loop.

    A call needs two things, taken in this order: a place among the run's ``max_concurrent`` (None: no limit),
    which for a ``sequential`` tool means that no other call of the run is running; and one of the tool's
    process-wide slots, where it has ``concurrency``. Both are first come, first served, so a sequential call
    waits for those before it and holds up those after it. A call that waits for the tool's slot keeps its
    place, and only its own run is the poorer.
    """

    def __init__(self, max_concurrent: int | None = None) -> None:
        self._most = max_concurrent
        self._running = 0
        self._alone = False
        self._waiters: deque[_RunWaiter] = deque()
        self._slots: dict[Tool, list[Slot]] = {}

    @property
    def running(self) -> int:
        """How many places are taken."""
        return self._running

    def try_acquire(self, tool: Tool) -> bool:
        """Take the permit if that needs no waiting."""
        if self._waiters or not self._fits(tool.sequential):
            return False
        if tool.slots is not None:
            slot = tool.slots.try_acquire()
            if slot is None:
                return False
            self._slots.setdefault(tool, []).append(slot)
        self._enter(tool.sequential)
        return True

    async def acquire(self, tool: Tool) -> None:
        """Wait for the permit. Cancelled, it holds nothing."""
        await self._place(tool.sequential)
        if tool.slots is None:
            return
        try:
            slot = await tool.slots.acquire()
        except BaseException:
            self._leave()
            raise
        self._slots.setdefault(tool, []).append(slot)

    def release(self, tool: Tool) -> None:
        """Give the permit back, as soon as the attempt has come to an outcome.

        A call that was abandoned keeps a slot of its own until it really ends (`run_attempt` sees to that);
        its place in the run is given up, since the run must go on.
        """
        held = self._slots.get(tool)
        if held and tool.slots is not None:
            tool.slots.release(held.pop())
        self._leave()

    async def _place(self, alone: bool) -> None:
        if not self._waiters and self._fits(alone):
            self._enter(alone)
            return
        waiter = _RunWaiter(alone)
        self._waiters.append(waiter)
        try:
            await waiter.event.wait()
        except BaseException:
            if waiter.granted:
                self._leave()
            else:
                self._waiters.remove(waiter)
                self._grant()  # it may have been what the others waited behind
            raise

    def _fits(self, alone: bool) -> bool:
        if self._alone or (alone and self._running):
            return False
        return self._most is None or self._running < self._most

    def _enter(self, alone: bool) -> None:
        self._running += 1
        self._alone = alone

    def _leave(self) -> None:
        self._running -= 1
        self._alone = False  # whoever ran alone was the only one
        self._grant()

    def _grant(self) -> None:
        while self._waiters and self._fits(self._waiters[0].alone):
            waiter = self._waiters.popleft()
            waiter.granted = True
            self._enter(waiter.alone)
            waiter.event.set()
