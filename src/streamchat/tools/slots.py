"""How many calls of a tool may run at once in the whole process."""

from __future__ import annotations

import threading
from collections import deque

import anyio

from streamchat.concurrency import LoopHandle

__all__ = ["Slot", "Slots"]


class Slot:
    """One holder's share. ``loop`` is None for work in a thread, which goes on when the loop has ended."""

    __slots__ = ("loop",)

    def __init__(self, loop: LoopHandle | None) -> None:
        self.loop = loop


class _SlotWaiter:
    __slots__ = ("event", "granted", "slot")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.granted = False
        self.slot = Slot(LoopHandle())


class Slots:
    """At most ``limit`` holders at once in this process, over all its event loops; first come, first served.

    It belongs to a tool, and a registry often outlives many event loops: what a loop held that has ended
    without giving it back is free again.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._held: set[Slot] = set()
        self._waiters: deque[_SlotWaiter] = deque()

    @property
    def in_use(self) -> int:
        """How many slots are held; over the limit for a moment while an abandoned call takes its own."""
        return len(self._held)

    def try_acquire(self) -> Slot | None:
        """Return a slot if one is free and nobody waits for it."""
        with self._lock:
            self._forget_ended_loops()
            if self._waiters or len(self._held) >= self.limit:
                return None
            slot = Slot(LoopHandle())
            self._held.add(slot)
            return slot

    async def acquire(self) -> Slot:
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

    def hold(self, *, in_thread: bool) -> Slot:
        """Take a slot at once, over the limit if need be: for a call that goes on without its run."""
        with self._lock:
            slot = Slot(None if in_thread else LoopHandle())
            self._held.add(slot)
            return slot

    def release(self, slot: Slot) -> None:
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
