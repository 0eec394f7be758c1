"""A time limit for many short awaits in a row, at the cost of one timer for all of them.

A scope or a timer for each await costs more than reading a block does (10 µs of 90, live). So one timer stays
armed; when it fires too early, because awaits have ended since, it is armed again for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import Any, Self

from streamchat.concurrency import Deadline, on_asyncio

__all__ = ["Watch"]


class Watch:
    """Bounds the await in a ``with`` block, on the loop in which it was made; `close` it when there are no
    more.

    The block may last until ``until`` (as ``time.monotonic`` counts; None: no limit), which is set before it
    is entered. At the limit the await is cancelled, ``expired`` is set and ``TimeoutError`` raised. A
    cancellation from outside passes through as itself.
    """

    __slots__ = (
        "_before",
        "_deadline",
        "_fires_at",
        "_handle",
        "_loop",
        "_task",
        "_until",
        "expired",
        "until",
    )

    def __init__(self) -> None:
        self.expired = False
        self.until: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None  # the one that is in a block now
        self._until = 0.0
        self._fires_at = 0.0
        self._before = 0
        self._loop = asyncio.get_running_loop() if on_asyncio() else None
        self._deadline: Deadline | None = None  # on trio

    def __enter__(self) -> Self:
        until = self.until
        if until is None:
            return self
        if self._loop is None:
            self._deadline = Deadline(until - monotonic())
            self._deadline.__enter__()
            return self
        self._task = task = asyncio.current_task(self._loop)
        assert task is not None
        self._before = task.cancelling()
        self._until = until
        if self._handle is None or until < self._fires_at:
            self._arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is None:
            if self._deadline is not None:
                self._exit_on_trio(kind, error, trace)
        elif self.expired:
            # As asyncio.timeout does it: take back our own cancellation, and see whether there was another.
            others = task.uncancel() > self._before
            if error is None:
                self.expired = False  # it came to a result all the same
            elif not others:
                raise TimeoutError from error

    async def wait(self, start: Callable[[], Awaitable[Any]], until: float | None) -> Any:
        """Await what ``start`` gives, until ``until``."""
        self.until = until
        with self:
            return await start()

    def close(self) -> None:
        """Disarm the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        self.close()
        self._fires_at = self._until
        assert self._loop is not None
        self._handle = self._loop.call_later(max(0.0, self._until - monotonic()), self._fire)

    def _fire(self) -> None:
        self._handle = None
        if self._task is None:
            return  # the next await arms it again
        if monotonic() < self._until:
            self._arm()
        else:
            self.expired = True
            self._task.cancel()

    def _exit_on_trio(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        deadline, self._deadline = self._deadline, None
        assert deadline is not None
        deadline.__exit__(kind, error, trace)
        if deadline.expired:
            self.expired = True
            raise TimeoutError from error
