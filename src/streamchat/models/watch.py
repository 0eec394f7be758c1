"""A time limit for many short awaits in a row, at the cost of one timer for all of them.

A scope or a timer for each await costs more than reading a block does (10 µs of 90, live). So one timer stays
armed; when it fires too early, because awaits have ended since, it is armed again for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from streamchat.concurrency import Deadline, on_asyncio

__all__ = ["Watch"]


class Watch:
    """Bounds one await at a time, on the loop in which it was made; `close` it when there are no more."""

    __slots__ = ("_asyncio", "_fires_at", "_handle", "_task", "_until", "expired")

    def __init__(self) -> None:
        self.expired = False
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None  # the one that is in an await now
        self._until = 0.0
        self._fires_at = 0.0  # as `time.monotonic` counts
        self._asyncio = on_asyncio()

    async def wait(self, start: Callable[[], Awaitable[Any]], until: float | None) -> Any:
        """Await what ``start`` gives, until ``until`` (as ``time.monotonic`` counts; None: no limit).

        At the limit the await is cancelled, ``expired`` is set and ``TimeoutError`` raised. A cancellation
        from outside passes through as itself.
        """
        if until is None:
            return await start()
        if not self._asyncio:
            return await self._wait_in_scope(start, until)
        task = asyncio.current_task()
        assert task is not None
        self._until = until
        if self._handle is None or until < self._fires_at:
            self._arm()
        before = task.cancelling()
        self._task = task
        try:
            result = await start()
        except BaseException as error:
            # As asyncio.timeout does it: take back our own cancellation, and see whether there was another.
            if self.expired and task.uncancel() <= before:
                raise TimeoutError from error
            raise
        finally:
            self._task = None
        if self.expired:  # it came to a result all the same
            self.expired = False
            task.uncancel()
        return result

    def close(self) -> None:
        """Disarm the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        self.close()
        self._fires_at = self._until
        delay = max(0.0, self._until - monotonic())
        self._handle = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._handle = None
        if self._task is None:
            return  # the next await arms it again
        if monotonic() < self._until:
            self._arm()
        else:
            self.expired = True
            self._task.cancel()

    async def _wait_in_scope(self, start: Callable[[], Awaitable[Any]], until: float) -> Any:
        async with Deadline(until - monotonic()):
            return await start()
        self.expired = True
        raise TimeoutError
