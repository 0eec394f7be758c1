"""The one place that knows which async library runs: owned tasks, deadlines and wake-ups on asyncio and trio.

`orchestrate()` must run on both. On asyncio, plain tasks and their one-time cancellation stand in for anyio's
scopes: level cancellation cuts a tool's own ``finally: await`` short and spins on a tool that swallows it.
Everything else in the package is written once, over what stands here.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

if TYPE_CHECKING:
    import trio

__all__ = ["Deadline", "LoopHandle", "OwnedTask", "Wakeup", "on_asyncio", "spawn"]


def on_asyncio() -> bool:
    """Say whether an asyncio loop runs here; False means trio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Deadline:
    """Bounds the awaits inside a ``with`` block in time, and lets others end it early with `expire`.

    ``seconds`` is counted from entry; None is no limit. When time runs out the block is left at its current
    await and ``expired`` is True; nothing is raised. A cancellation from outside passes through as itself.
    Never yield inside. It may be entered again afterwards; once it was told to expire outside of a block,
    every later block ends at once. It does what ``asyncio.timeout`` does, at a third of the cost: there is
    one around every read of a provider.
    """

    __slots__ = (
        "_cancelling",
        "_expire_at_entry",
        "_fired",
        "_seconds",
        "_task",
        "_timer",
        "_trio",
        "expired",
    )

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.Handle | None = None
        self._trio: trio.CancelScope | None = None
        self._expire_at_entry = False
        self._fired = False
        self._cancelling = 0
        self.expired = False

    def expire(self) -> None:
        """End the block now (or at its entry, if that is still to come). Call it from the loop's own
        thread."""
        if self._task is not None:
            if not self._fired:
                self._set_timer(self._task, 0.0)
        elif self._trio is not None:
            self._trio.cancel()
        else:
            self._expire_at_entry = True

    def _set_timer(self, task: asyncio.Task[Any], seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = task.get_loop()
        # Always from the loop: a task that cancels itself would carry the cancellation out of the block.
        self._timer = loop.call_later(seconds, self._fire) if seconds > 0 else loop.call_soon(self._fire)

    def _fire(self) -> None:
        if self._task is not None:
            self._fired = True
            self._task.cancel()

    def __enter__(self) -> Self:
        seconds = 0.0 if self._expire_at_entry else self._seconds
        try:
            task = asyncio.current_task()
        except RuntimeError:
            self._enter_on_trio(seconds)
            return self
        if task is None:
            raise RuntimeError("a Deadline needs a task around it")
        self._task, self._fired, self._cancelling = task, False, task.cancelling()
        self.expired = False
        if seconds is not None:
            self._set_timer(task, seconds)
        return self

    def _enter_on_trio(self, seconds: float | None) -> None:
        import trio

        self._trio = trio.CancelScope(
            deadline=trio.current_time() + (math.inf if seconds is None else seconds)
        )
        self._trio.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if task is None:
            scope, self._trio = self._trio, None
            assert scope is not None
            suppressed = scope.__exit__(kind, error, trace)
            self.expired = scope.cancelled_caught
            return bool(suppressed)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Beside ours there may be a cancellation from outside, which counts for itself.
        if self._fired and task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            self.expired = True
            return True
        return False

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, error, trace)


class Wakeup:
    """Wakes one waiter, however often it was set in between; `wait` returns at once if it was set since the
    last.

    It belongs to the loop that it is first waited on. A driver has one for each chunk that arrives, and an
    event made anew each time costs three times as much.
    """

    __slots__ = ("_event", "_news", "_waiter")

    def __init__(self) -> None:
        self._news = False
        self._waiter: asyncio.Future[None] | None = None
        self._event: anyio.Event | None = None  # on trio

    def set(self) -> None:
        """Wake the waiter, or the next one. Call it from the loop's own thread."""
        self._news = True
        waiter = self._waiter
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(None)
        elif self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Wait until set, and clear."""
        while not self._news:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self._event = anyio.Event()
                await self._event.wait()
                continue
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._news = False


class LoopHandle:
    """The loop that it was made in, for use from other threads and loops, and after that loop has ended."""

    __slots__ = ("_asyncio", "_trio")

    def __init__(self) -> None:
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self._trio: trio.lowlevel.TrioToken | None = None
        if on_asyncio():
            self._asyncio = asyncio.get_running_loop()
        else:
            import trio

            self._trio = trio.lowlevel.current_trio_token()

    def call_soon(self, function: Callable[[], Any]) -> bool:
        """Have ``function`` called in the loop; False if the loop has ended, and nothing will be called."""
        try:
            if self._asyncio is not None:
                self._asyncio.call_soon_threadsafe(function)
            elif self._trio is not None:
                self._trio.run_sync_soon(function)
        except RuntimeError:  # asyncio's "closed"; trio's RunFinishedError is one too
            return False
        return True

    @property
    def alive(self) -> bool:
        """Whether the loop can still run anything."""
        if self._asyncio is not None:
            return not self._asyncio.is_closed()
        return self.call_soon(_nothing)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LoopHandle):
            return NotImplemented
        return self._asyncio is other._asyncio and self._trio is other._trio

    def __hash__(self) -> int:
        return hash((id(self._asyncio), id(self._trio)))


def _nothing() -> None:
    """What a loop is asked to do to see whether it still can."""


class OwnedTask:
    """A task that outlives the await it was started from, and whose owner waits for it.

    ``error`` is what it raised, once ``done``; cancellation is not an error.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: BaseException | None = None
        self.cancelled = False
        self._finished = anyio.Event()
        self._cancel: Callable[[], Any] = lambda: None
        self._keep: object = None  # asyncio holds tasks weakly

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._finished.is_set()

    def cancel(self) -> None:
        """Ask it to end; it may take its time, or refuse."""
        if not self.done:
            self._cancel()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until it has ended, at most ``seconds``; say whether it has. Cancelling the wait leaves it
        running."""
        if not self.done:
            async with Deadline(seconds):
                await self._finished.wait()
        return self.done


def spawn(function: Callable[[], Awaitable[None]], name: str) -> OwnedTask:
    """Start ``function`` in a task of its own, with a copy of the caller's context variables."""
    task = OwnedTask(name)

    async def body() -> None:
        try:
            await function()
        except Exception as error:
            task.error = error
        except asyncio.CancelledError:
            task.cancelled = True
            raise
        finally:
            task._finished.set()

    if on_asyncio():
        native = asyncio.get_running_loop().create_task(body(), name=name)
        task._cancel = native.cancel
        task._keep = native
        # A task that is cancelled before its first step never enters the body.
        native.add_done_callback(lambda _: task._finished.set())
    else:
        _spawn_on_trio(task, body)
    return task


def _spawn_on_trio(task: OwnedTask, body: Callable[[], Awaitable[None]]) -> None:
    import trio

    scope = trio.CancelScope()

    async def scoped() -> None:
        with scope:
            await body()
        task.cancelled = scope.cancelled_caught

    task._cancel = scope.cancel
    trio.lowlevel.spawn_system_task(scoped, name=task.name, context=contextvars.copy_context())
