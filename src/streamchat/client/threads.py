"""What a loop does for the threads that wait for it, what they do for it, and how all of it is ended."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future
from functools import wraps
from typing import Any, Generic, TypeVar

import anyio

from streamchat.errors import StreamChatError

__all__ = ["Reading", "Works", "in_thread"]

R = TypeVar("R")


class _Work:
    """One piece of work, which can be stopped."""

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()

    async def run(self, function: Callable[[], Awaitable[R]]) -> R:
        """Do it; raises `StreamChatError` when it is stopped."""
        try:
            with self._scope:
                return await function()
        finally:
            self._done.set()
        raise StreamChatError("the client was closed meanwhile; what was asked for may still be done")

    async def stop(self) -> None:
        """Stop it, and wait until it has ended."""
        self._scope.cancel()
        await self._done.wait()


class Works:
    """All that is being done on one loop, for whichever thread."""

    def __init__(self) -> None:
        self._running: set[_Work] = set()
        self.readings: set[Reading[object]] = set()

    async def run(self, function: Callable[[], Awaitable[R]], work: _Work | None = None) -> R:
        """Do a piece of work; raises `StreamChatError` when it is stopped."""
        work = work or _Work()
        self._running.add(work)
        try:
            return await work.run(function)
        finally:
            self._running.discard(work)

    async def stop(self) -> None:
        """End all of it, and close what is being read."""
        for work in set(self._running):
            await work.stop()
        for reading in set(self.readings):
            await reading.close()


class Reading(Generic[R]):
    """Events that are taken one by one, each in a task of its own; a step that runs is ended first."""

    def __init__(self, works: Works, events: AsyncGenerator[R, None]) -> None:
        self._works = works
        self._events = events
        self._work: _Work | None = None
        self._closed = False

    async def next(self) -> R | None:
        """Return the next one; None at the end."""
        if self._closed:
            raise StreamChatError("the client was closed")
        if self._work is not None:
            raise StreamChatError("another thread reads this iterator: make one for each")
        self._works.readings.add(self)  # type: ignore[arg-type]
        self._work = _Work()
        try:
            return await self._works.run(self._next, self._work)
        finally:
            self._work = None

    async def _next(self) -> R | None:
        return await anext(self._events, None)

    async def close(self) -> None:
        """Close them, having ended the step that runs."""
        self._closed = True
        if self._work is not None:
            # `aclose` is refused while a step runs.
            await self._work.stop()
        await self._events.aclose()
        self._works.readings.discard(self)


def in_thread(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Return ``function`` as one that the loop awaits while a thread of its own runs it.

    What is awaitable of what it returns is awaited on the loop. A thread that nobody waits for any more runs
    on, and keeps no program from ending: it may be waiting for a person.
    """

    @wraps(function)
    async def call(*args: Any, **options: Any) -> Any:
        outcome: Future[tuple[Any, BaseException | None]] = Future()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                outcome.set_result((context.run(function, *args, **options), None))
            except BaseException as error:
                outcome.set_result((None, error))

        outcome.set_running_or_notify_cancel()
        threading.Thread(target=run, name=f"streamchat {call.__name__}", daemon=True).start()
        result, error = await asyncio.wrap_future(outcome)
        if error is not None:
            raise error
        return await result if inspect.isawaitable(result) else result

    return call
