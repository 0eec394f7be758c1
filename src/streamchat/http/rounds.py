"""One timer for many streams: each is looked at every so often, without a timer of its own."""

from __future__ import annotations

import asyncio
from typing import Protocol
from weakref import WeakKeyDictionary

__all__ = ["Rounds", "Visited", "rounds"]

_EARLY = 1 / 64


class Visited(Protocol):
    """What is looked at."""

    def visit(self) -> None:
        """Be looked at; raises nothing. Members may come and go here."""
        ...


class Rounds:
    """Calls ``visit()`` of each member every ``seconds``, or a 64th earlier, from when it joined.

    So members that joined at different times stay apart, yet those that are close together wake the loop
    once. A timer of the loop's runs only while there are members; of one loop.
    """

    __slots__ = ("__weakref__", "_due", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # In the order in which they are due, as all wait equally long.
        self._due: dict[Visited, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def join(self, member: Visited) -> None:
        """Visit ``member`` from now on."""
        loop = asyncio.get_running_loop()
        self._due[member] = due = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(due, self._go)

    def leave(self, member: Visited) -> None:
        """Visit it no more; nothing where it is no member."""
        self._due.pop(member, None)
        if not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        until = now + self._seconds * _EARLY
        members: list[Visited] = []
        for member, due in self._due.items():
            if due > until:
                break
            members.append(member)
        again = now + self._seconds
        for member in members:
            del self._due[member]
            self._due[member] = again
        if self._due:
            self._timer = loop.call_at(next(iter(self._due.values())), self._go)
        for member in members:
            if member in self._due:
                member.visit()


_all: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, Rounds]] = WeakKeyDictionary()


def rounds(seconds: float) -> Rounds:
    """Return the running loop's rounds of so many seconds."""
    loop = asyncio.get_running_loop()
    of_loop = _all.get(loop)
    if of_loop is None:
        of_loop = _all[loop] = {}
    found = of_loop.get(seconds)
    if found is None:
        found = of_loop[seconds] = Rounds(seconds)
    return found
