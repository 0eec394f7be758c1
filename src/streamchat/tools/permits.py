"""Who may run now: how many calls of a run at once, and how many of a tool in the whole process."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import anyio

from streamchat.concurrency import LoopHandle

if TYPE_CHECKING:
    from streamchat.tools.definition import Tool

__all__ = ["RunPermits", "Slots"]


class _Slot:
    """One holder's share. ``loop`` is None for work in a thread, which goes on when the loop has ended."""

    __slots__ = ("loop",)

    def __init__(self, loop: LoopHandle | None) -> None:
        self.loop = loop


class _SlotWaiter:
    __slots__ = ("event", "granted", "slot")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.granted = False
        self.slot = _Slot(LoopHandle())


class Slots:
    """At most ``limit`` holders at once in this process, over all its event loops; first come, first served.

    It belongs to a tool, and a registry often outlives many event loops: what a loop held that has ended
    without giving it back is free again.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._held: set[_Slot] = set()
        self._waiters: deque[_SlotWaiter] = deque()

    @property
    def in_use(self) -> int:
        """How many slots are held; over the limit for a moment while an abandoned call takes its own."""
        return len(self._held)

    def try_acquire(self) -> _Slot | None:
        """Return a slot if one is free and nobody waits for it."""
        with self._lock:
            self._forget_ended_loops()
            if self._waiters or len(self._held) >= self.limit:
                return None
            slot = _Slot(LoopHandle())
            self._held.add(slot)
            return slot

    async def acquire(self) -> _Slot:
        """Wait for a slot. Cancelled, it holds none and has lost none."""
        slot = self.try_acquire()
        if slot is not None:
            return slot
        waiter = _SlotWaiter()
        with self._lock:
            self._waiters.append(waiter)
            self._grant()  # one may have become free since
        try:
            await waiter.event.wait()
        except BaseException:
            with self._lock:
                if waiter.granted:
                    self._held.discard(waiter.slot)
                    self._grant()
                elif waiter in self._waiters:
                    self._waiters.remove(waiter)
            raise
        return waiter.slot

    def hold(self, *, in_thread: bool) -> _Slot:
        """Take a slot at once, over the limit if need be: for a call that goes on without its run."""
        with self._lock:
            slot = _Slot(None if in_thread else LoopHandle())
            self._held.add(slot)
            return slot

    def release(self, slot: _Slot) -> None:
        """Give a slot back; giving it twice does nothing. Works from any thread."""
        with self._lock:
            self._held.discard(slot)
            self._grant()

    def _grant(self) -> None:
        while self._waiters and len(self._held) < self.limit:
            waiter = self._waiters.popleft()
            loop = waiter.slot.loop
            if loop is not None and loop.call_soon(waiter.event.set):
                waiter.granted = True
                self._held.add(waiter.slot)

    def _forget_ended_loops(self) -> None:
        if len(self._held) >= self.limit:
            self._held = {slot for slot in self._held if slot.loop is None or slot.loop.alive}
            self._waiters = deque(
                waiter for waiter in self._waiters if waiter.slot.loop and waiter.slot.loop.alive
            )
            self._grant()


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
        self._slots: dict[Tool, list[_Slot]] = {}

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
