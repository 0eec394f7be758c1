"""One attempt of one tool call: run, watched, ended in time, and turned into an outcome that is safe to tell.

A coroutine function or an async generator runs in a task of its own, anything else in a thread. What is
yielded:

- `Progress`, text, and a dict of nothing but ``message``, ``fraction`` and ``data`` are shown as progress at
  once;
- `Return` is the result, and the generator is closed;
- any other value is the result so far: the last one counts.

Where none of these was a result, it is what a plain generator returned, else the last text or dict that was
yielded (shown as progress too), else None.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

from streamchat.concurrency import LoopHandle, OwnedTask, spawn
from streamchat.events import Outcome, StreamEvent
from streamchat.tools.abandoned import AbandonedCall, Ending, abandon, abandoned, settle
from streamchat.tools.arguments import ArgumentsInvalid
from streamchat.tools.context import ToolContext
from streamchat.tools.deferred import Deferred
from streamchat.tools.definition import Kind, Tool, kind_of
from streamchat.tools.output import OutputUnusable, json_value, limit_output
from streamchat.tools.signature import BoundArguments, positional_count
from streamchat.tools.values import CANCELLED, NOT_BEGUN, STILL_RUNNING, OutcomeUnknown, ToolError
from streamchat.tools.yielded import Yielded

__all__ = ["MOST_THREADS", "ToolOutcome", "abandoned", "run_attempt", "run_reconcile", "settle"]

logger = logging.getLogger("streamchat.tools")

MOST_THREADS = 40
"""How many tools may be in threads at once in one event loop; a further one waits while its time runs."""


@dataclass(slots=True)
class ToolOutcome:
    """What one attempt came to.

    ``output`` is a JSON value, ``error`` safe for the model and for clients, ``duration`` seconds.
    ``retryable`` says whether the same call may fare better; whether it may be repeated at all is the tool's
    to say. ``exception`` and ``correlation_id`` are for the server's log. ``abandoned``: it still runs, as
    ``work``. ``deferred`` is what the tool returned where ``outcome`` is that.
    """

    outcome: Outcome
    output: Any = None
    error: str | None = None
    retryable: bool = False
    duration: float = 0.0
    exception: BaseException | None = None
    correlation_id: str | None = None
    abandoned: bool = False
    work: OwnedTask | None = None
    deferred: Deferred | None = None


async def run_attempt(
    tool: Tool,
    arguments: Mapping[str, Any],
    context: ToolContext[Any],
    *,
    default_timeout: float | None = None,
    grace: float = 5.0,
    max_output_bytes: int | None = None,
    late: Callable[[ToolOutcome], None] | None = None,
) -> ToolOutcome:
    """Run the tool once and return what came of it; nothing that a tool does raises from here.

    ``default_timeout`` (seconds) and ``max_output_bytes`` hold where the tool has none of its own. Out of
    time, the tool is cancelled (a function in a thread sees ``ctx.cancelled``) and has ``grace`` seconds to
    end; then it is abandoned: it keeps a slot of its tool until it really ends, and what it publishes goes
    nowhere.

    Cancelled, this cancels the tool in the same way, waits as long for it, and re-raises; a second
    cancellation ends the waiting. If the tool had begun, ``late`` is given what it came to nevertheless (it
    was about to return, or is in a thread and did not look), else an outcome ``cancelled`` whose error says
    whether it may still be at work, before the cancellation is re-raised.

    Context variables are copied: what the tool sets, it sets for itself. ``context.publish`` is called in the
    loop's thread only, and nothing is published after the return.
    """
    attempt = _Attempt(tool, tool.function, tool.kind, context, max_output_bytes, late)
    try:
        bound = tool.validate(arguments, attempt.context)
    except ArgumentsInvalid as problem:
        return ToolOutcome("error", error=str(problem), exception=problem)
    return await attempt.run(bound, tool.time_limit(default_timeout), grace)


async def run_reconcile(
    tool: Tool,
    arguments: Mapping[str, Any],
    context: ToolContext[Any],
    *,
    default_timeout: float | None = None,
    grace: float = 5.0,
    max_output_bytes: int | None = None,
) -> ToolOutcome:
    """Ask the tool's ``reconcile`` hook what came of a call that was cut off.

    What it returns is the call's output, a `ToolError` that it raises is the call's error; if it raises
    anything else (`OutcomeUnknown` says so on purpose), takes too long, or there is no hook, the outcome is
    ``unknown``. Cancellation is as in `run_attempt`.
    """
    hook = tool.reconcile
    if hook is None:
        return ToolOutcome("unknown")
    given = (context, dict(arguments))[: positional_count(hook)]
    attempt = _Attempt(tool, hook, kind_of(hook), context, max_output_bytes)
    bound = BoundArguments((attempt.context, *given[1:]), {})
    outcome = await attempt.run(bound, tool.time_limit(default_timeout), grace)
    if outcome.outcome in ("ok", "deferred") or isinstance(outcome.exception, ToolError):
        return outcome
    return replace(outcome, outcome="unknown", output=None, error=None, retryable=False)


class _Attempt:
    """The state of one attempt. Its flags are set in the loop's thread and read from any."""

    def __init__(
        self,
        tool: Tool,
        function: Callable[..., Any],
        kind: Kind,
        context: ToolContext[Any],
        max_output_bytes: int | None,
        late: Callable[[ToolOutcome], None] | None = None,
    ) -> None:
        self.tool = tool
        self._late = late
        self._function = function
        self._kind = kind
        self._outer = context
        self._most = max_output_bytes if tool.max_output_bytes is None else tool.max_output_bytes
        self.context = replace(context, is_cancelled=self._is_cancelled, publish=self._publish)
        self._loop = LoopHandle()
        self._thread = threading.get_ident()
        self._events: deque[StreamEvent] = deque()
        self._waking = False
        self._outcome: ToolOutcome | None = None
        self._ending = Ending("task")
        self._entered = False
        self._in_thread = False
        self._called = False
        self._stopping = False
        self._over = False

    def _is_cancelled(self) -> bool:
        return self._stopping or self._outer.is_cancelled()

    def _publish(self, event: StreamEvent) -> None:
        # A thread's events come into the loop in their order, before its outcome, and many at one waking.
        self._events.append(event)
        if threading.get_ident() == self._thread:
            self._deliver()
        elif not self._waking:
            self._waking = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._waking = False  # first: what comes from now on wakes the loop again
        for _ in range(len(self._events)):
            event = self._events.popleft()
            if not self._over:  # an abandoned call may not speak after its result
                self._outer.publish(event)

    async def run(self, bound: BoundArguments, limit: float | None, grace: float) -> ToolOutcome:
        began = time.perf_counter()
        work = spawn(lambda: self._body(bound), f"tool {self.tool.name} {self._outer.call_id}")
        try:
            ended = await work.wait(limit)
            if not ended:
                await self._stop(work, grace)
        except GeneratorExit:
            # The loop is gone, or whoever awaited this is: nothing can be awaited any more.
            with suppress(RuntimeError):
                self._ask_to_stop(work)
            raise
        except BaseException:
            try:
                await self._stop(work, grace)
            finally:
                if self._late is not None and self._begun:
                    self._late(self._cancelled(work))
            raise
        finally:
            self._over = True
        if ended:
            outcome = self._outcome or ToolOutcome("cancelled", error=CANCELLED if self._begun else NOT_BEGUN)
        else:
            outcome = self._timed_out(limit or 0.0, work)
        outcome.duration = time.perf_counter() - began
        return outcome

    def _timed_out(self, limit: float, work: OwnedTask) -> ToolOutcome:
        left = not work.done
        return ToolOutcome(
            "timeout",
            error=f"{self.tool.name} did not finish within {limit:g} s; whether it took effect is not known.",
            # What still runs would meet its own repetition.
            retryable=not left,
            abandoned=left,
            work=work if left else None,
        )

    @property
    def _begun(self) -> bool:
        """Whether the tool's own code may have run."""
        return self._called if self._kind == "thread" else self._entered

    def _cancelled(self, work: OwnedTask) -> ToolOutcome:
        if not work.done:
            return ToolOutcome("cancelled", error=STILL_RUNNING, abandoned=True, work=work)
        return self._outcome if _stands(self._outcome) else ToolOutcome("cancelled", error=CANCELLED)

    def _ask_to_stop(self, work: OwnedTask) -> None:
        self._stopping = True
        if (
            not self._in_thread
        ):  # a thread is told by ctx.cancelled; cancelling its waiter would only lose sight of it
            work.cancel()

    async def _stop(self, work: OwnedTask, grace: float) -> None:
        if self._stopping:
            return  # cancelled while it was being stopped: the wait is over
        self._ask_to_stop(work)
        try:
            # The shield is around this wait only, not around the tool: a scope of the caller's would cut it
            # short.
            with anyio.CancelScope(shield=True):
                await work.wait(grace)
        finally:
            if not work.done and self._entered:
                call = AbandonedCall(
                    self.tool.name, self._outer.run_id, self._outer.call_id, time.monotonic(),
                    self._in_thread, self._loop, work,
                )  # fmt: skip
                abandon(call, self._ending, self.tool.slots)

    async def _body(self, bound: BoundArguments) -> None:
        self._entered = True
        try:
            self._outcome = await self._work(bound)
        except (Exception, SystemExit) as error:  # a tool may not end the server
            self._outcome = self._failed(error)
        except BaseExceptionGroup as group:  # failures beside a cancellation, from a task group of the tool's
            if group.subgroup(KeyboardInterrupt):
                raise
            self._outcome = self._failed(group)
        finally:
            self._ending.end("task")

    async def _work(self, bound: BoundArguments) -> ToolOutcome:
        if self._kind == "coroutine":
            return self._finished(await self._function(*bound.args, **bound.kwargs))
        if self._kind == "async_generator":
            return self._finished(await self._drain(self._function(*bound.args, **bound.kwargs)))
        came = await self._threaded(bound)
        if isinstance(came, ToolOutcome):
            return came
        # A plain wrapper around an async function: only making the coroutine was done in the thread.
        if self._stopping:
            if inspect.iscoroutine(came):
                came.close()
            return ToolOutcome("cancelled", error=CANCELLED)
        return self._finished(await (self._drain(came) if inspect.isasyncgen(came) else came))

    async def _threaded(self, bound: BoundArguments) -> Any:
        limited, unlimited = _thread_limiters()
        await limited.acquire_on_behalf_of(self)
        try:
            self._ending.begin("thread")
            self._in_thread = True
            # The token is ours and is given back when the thread has ended, whatever becomes of who waits for
            # it.
            (came,) = await to_thread.run_sync(self._call, bound, limiter=unlimited)
            return came
        except BaseException:
            # A loop that is torn down cancels even this; the function then still runs, and ends by itself.
            if not self._called:
                self._ending.end("thread")
            raise
        finally:
            self._in_thread = False
            limited.release_on_behalf_of(self)

    def _call(self, bound: BoundArguments) -> tuple[Any]:
        """In the thread: call the function and see it through to its outcome. Never raises.

        An awaitable or async generator that it returns is returned as it is: the loop goes on with it. In a
        tuple, because trio refuses a coroutine as the result of a thread.
        """
        self._called = True
        try:
            value = self._function(*bound.args, **bound.kwargs)
            if inspect.isgenerator(value):
                value = self._drain_here(value)
            elif inspect.isawaitable(value) or inspect.isasyncgen(value):
                return (value,)
            return (self._finished(value),)
        except BaseException as error:
            return (self._failed(error),)
        finally:
            self._ending.end("thread")

    async def _drain(self, generator: AsyncGenerator[Any, Any]) -> Any:
        yielded = Yielded(self.context)
        async with aclosing(generator):
            async for value in generator:
                if yielded.take(value):
                    break
        return yielded.result()

    def _drain_here(self, generator: Generator[Any, Any, Any]) -> Any:
        yielded = Yielded(self.context)
        with closing(generator):
            while not self._stopping:
                try:
                    value = next(generator)
                except StopIteration as end:
                    return yielded.result(end.value)
                if yielded.take(value):
                    return yielded.result()
        raise asyncio.CancelledError  # half of it is no result

    def _finished(self, value: Any) -> ToolOutcome:
        if isinstance(value, Deferred):
            return self._deferred(value)
        try:
            return ToolOutcome("ok", output=limit_output(json_value(value), self._most))
        except OutputUnusable as problem:
            logger.warning(
                "the result of tool %s cannot be passed on: %s", self.tool.name, problem,
                exc_info=problem.__cause__, extra=self._ids(),
            )  # fmt: skip
            text = f"{self.tool.name} was carried out, but its result cannot be passed on: {problem}."
            return ToolOutcome("error", error=text, exception=problem)

    def _deferred(self, value: Deferred) -> ToolOutcome:
        if self.tool.deferred:
            return ToolOutcome("deferred", output=value.message, deferred=value)
        logger.error(
            "tool %s returned Deferred: declare it with deferred=True", self.tool.name, extra=self._ids()
        )
        return ToolOutcome(
            "error", error=f"{self.tool.name} failed (it started a job that nobody waits for)."
        )

    def _failed(self, error: BaseException) -> ToolOutcome:
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, ToolError | OutcomeUnknown):
            logger.info("tool %s: %s", self.tool.name, error, extra=self._ids())
            retry = isinstance(error, ToolError) and error.retry
            return ToolOutcome(
                "error", error=json_value(str(error)) or None, retryable=retry, exception=error
            )
        if isinstance(error, asyncio.CancelledError) or type(error).__name__ == "Cancelled":  # trio's
            return ToolOutcome("cancelled", error=CANCELLED, exception=error)
        correlation_id = uuid.uuid4().hex[:16]
        logger.error(
            "tool %s failed in attempt %d (run %s, call %s, correlation id %s)",
            self.tool.name, self._outer.attempt, self._outer.run_id, self._outer.call_id, correlation_id,
            exc_info=error, extra={**self._ids(), "correlation_id": correlation_id},
        )  # fmt: skip
        text = f"{self.tool.name} failed ({type(error).__name__})."
        return ToolOutcome(
            "error", error=text, retryable=True, exception=error, correlation_id=correlation_id
        )

    def _ids(self) -> dict[str, Any]:
        return {"run_id": self._outer.run_id, "call_id": self._outer.call_id, "tool": self.tool.name}


def _stands(outcome: ToolOutcome | None) -> TypeGuard[ToolOutcome]:
    """Whether a cancelled tool said what it came to; any other exception is one of being cancelled."""
    return outcome is not None and (
        outcome.outcome in ("ok", "deferred") or isinstance(outcome.exception, ToolError)
    )


_LIMITERS: RunVar[tuple[anyio.CapacityLimiter, anyio.CapacityLimiter]] = RunVar("streamchat_tool_threads")


def _thread_limiters() -> tuple[anyio.CapacityLimiter, anyio.CapacityLimiter]:
    """Ours, and one without limit for anyio's own accounting (its default one is the application's)."""
    try:
        return _LIMITERS.get()
    except LookupError:
        made = anyio.CapacityLimiter(MOST_THREADS), anyio.CapacityLimiter(float("inf"))
        _LIMITERS.set(made)
        return made
