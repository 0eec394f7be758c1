"""A step's tool calls at work: permits, attempts, progress and results, as batches of events.

Each call runs in a task of its own that is owned here: `StepCalls.next` hands out what they came to, `stop` ends
them and collects what is known. A call's attempt begins only when `next` is asked again after its ``tool_started``
was handed out: whoever took that event has then had the chance to make it durable.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import anyio

from streamchat.concurrency import Deadline, OwnedTask, Wakeup, spawn
from streamchat.events import CustomEvent, StreamEvent, ToolProgress, ToolResult, ToolStarted
from streamchat.messages import ToolCallPart
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Refuse, RunOptions, call_hook
from streamchat.tools import (
    RunPermits,
    Tool,
    ToolContext,
    ToolOutcome,
    ToolRegistry,
    run_attempt,
    run_reconcile,
)

__all__ = ["StepCalls"]

log = logging.getLogger("streamchat.tools")

_MAX_PENDING_PROGRESS = 256


@dataclass(slots=True, eq=False)
class _Work:
    """One call on its way to a result."""

    call: ToolCallPart
    tool: Tool
    attempt: int
    go: Wakeup = field(default_factory=Wakeup)
    handed_out: bool = False
    started: float | None = None
    stopped: bool = False
    task: OwnedTask | None = None
    outcome: ToolOutcome | None = None


class StepCalls:
    """The calls of one step that still need a result.

    A call that an earlier holder started (its ``state`` is ``running``) was cut off: an idempotent tool runs again,
    ``not_before`` so many seconds have passed, others are asked through their ``reconcile``.
    """

    def __init__(
        self,
        calls: Iterable[ToolCallPart],
        registry: ToolRegistry,
        context: RunContext,
        options: RunOptions,
        *,
        not_before: Callable[[ToolCallPart, Tool], float],
    ) -> None:
        self._registry = registry
        self._context = context
        self._options = options
        self._not_before = not_before
        self._permits = RunPermits(options.max_concurrent_tools)
        self._wakeup = Wakeup()
        self._inbox: deque[StreamEvent | _Work] = deque()
        self._progress: dict[str, int] = {}
        self._works: dict[str, _Work] = {}
        self._open = {call.call_id for call in calls}
        self._waiting = list(calls)
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether every call has its result."""
        return not self._open

    def begin(self) -> list[StreamEvent]:
        """Set the calls off; returns the results of those that need no run."""
        events: list[StreamEvent] = []
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            wrong = problem_text(call, self._registry)
            tool = self._registry.get(call.name)
            if wrong is not None or tool is None:
                events.append(self._result(call, ToolOutcome("error", error=wrong)))
            else:
                work = _Work(call, tool, call.attempts + 1)
                self._works[call.call_id] = work
                self._spawn(work)
        return events

    def _spawn(self, work: _Work) -> None:
        work.task = spawn(lambda: self._run(work), f"streamchat tool {work.call.name} {work.call.call_id}")

    async def next(self, deadline: Deadline) -> list[StreamEvent]:
        """Let the calls whose start was handed out begin, and wait for news; empty if ``deadline`` ended the wait."""
        for work in self._works.values():
            if work.handed_out and work.started is None:
                work.started = time.monotonic()
                work.go.set()
        if not self._inbox:
            async with deadline:
                await self._wakeup.wait()
        return self._collect()

    def _collect(self) -> list[StreamEvent]:
        if self._error is not None:
            raise self._error
        events: list[StreamEvent] = []
        starts: list[StreamEvent] = []
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, _Work):
                if item.outcome is not None:
                    events.append(self._finish(item))
                else:
                    item.handed_out = True
                    starts.append(self._start(item))
            else:
                if isinstance(item, ToolProgress):
                    self._progress[item.call_id] -= 1
                events.append(item)
        # Results first: what is known goes out even if making the starts durable takes its time.
        return [*events, *starts]

    def _start(self, work: _Work) -> ToolStarted:
        return ToolStarted(
            step=work.call.step,
            call_id=work.call.call_id,
            attempt=work.attempt,
            idempotency_key=self._idempotency_key(work.call),
        )

    def _idempotency_key(self, call: ToolCallPart) -> str:
        return f"{self._context.run_id}:{call.call_id}"

    def _finish(self, work: _Work) -> StreamEvent:
        assert work.outcome is not None
        del self._works[work.call.call_id]
        return self._result(work.call, work.outcome)

    def _result(self, call: ToolCallPart, outcome: ToolOutcome) -> ToolResult:
        self._open.discard(call.call_id)
        return ToolResult(
            step=call.step,
            call_id=call.call_id,
            outcome=outcome.outcome,
            output=outcome.output,
            error=outcome.error,
            duration=outcome.duration,
            job_id=self._job_id(call) if outcome.outcome == "deferred" else None,
        )

    def _job_id(self, call: ToolCallPart) -> str:
        return f"{self._context.run_id}:{call.call_id}"

    # What follows runs in the call's own task.

    async def _run(self, work: _Work) -> None:
        try:
            work.outcome = await self._attempts(work)
        except Exception as error:  # a hook's, or a bug of ours: the run must end with it
            self._error = error
        if work.outcome is not None:
            self._inbox.append(work)
        self._wakeup.set()

    async def _attempts(self, work: _Work) -> ToolOutcome:
        context = self._tool_context(work)
        if work.call.state == "running":
            settled = await self._settle_cut_off(work, context)
            if settled is not None:
                return settled
        refused = await call_hook(self._options.hooks.before_tool, context, work.call)
        if isinstance(refused, Refuse):
            return ToolOutcome("denied", error=refused.message)
        while True:
            outcome = await self._attempt(work, context)
            again = outcome.retryable and outcome.outcome in ("error", "timeout")
            if not again or work.attempt > work.tool.retries or work.stopped:
                break
            await anyio.sleep(work.tool.wait_before_retry(work.attempt))
            work.attempt += 1
        replaced = await call_hook(self._options.hooks.after_tool, context, work.call, outcome)
        return replaced if isinstance(replaced, ToolOutcome) else outcome

    async def _attempt(self, work: _Work, context: ToolContext) -> ToolOutcome:
        """One attempt: the permit, the start handed out and taken, then the tool."""
        await self._permits.acquire(work.tool)
        try:
            work.handed_out, work.started = False, None
            self._inbox.append(work)
            self._wakeup.set()
            await work.go.wait()
            context.attempt = work.attempt
            assert work.call.arguments is not None
            return await run_attempt(
                work.tool,
                work.call.arguments,
                context,
                default_timeout=self._options.tool_timeout,
                grace=self._options.grace,
                max_output_bytes=self._options.limits.max_tool_output_bytes,
            )
        finally:
            self._permits.release(work.tool)

    async def _settle_cut_off(self, work: _Work, context: ToolContext) -> ToolOutcome | None:
        """What became of a call that an earlier holder started; None where it may run again."""
        if work.tool.idempotent:
            await anyio.sleep(max(0.0, self._not_before(work.call, work.tool)))
            return None
        context.attempt = work.call.attempts
        return await run_reconcile(
            work.tool,
            work.call.arguments or {},
            context,
            default_timeout=self._options.tool_timeout,
            grace=self._options.grace,
            max_output_bytes=self._options.limits.max_tool_output_bytes,
        )

    def _tool_context(self, work: _Work) -> ToolContext:
        run, call = self._context, work.call
        return ToolContext(
            run_id=run.run_id,
            call_id=call.call_id,
            step=call.step,
            name=call.name,
            idempotency_key=self._idempotency_key(call),
            attempt=work.attempt,
            fence=run.fence,
            conversation_id=run.conversation_id,
            principal=run.principal,
            deps=run.deps,
            publish=self._publish,
            is_cancelled=lambda: work.stopped,
        )

    def _publish(self, event: StreamEvent) -> None:
        """Take a tool's event into the run. Called in the loop's thread: run_attempt brings threads' events there."""
        if isinstance(event, ToolProgress):
            if event.call_id not in self._works:
                return  # the call has its result; late words of an abandoned tool are dropped
            pending = self._progress.get(event.call_id, 0)
            if pending >= _MAX_PENDING_PROGRESS:
                return  # nobody reads so fast: a later one will tell more
            self._progress[event.call_id] = pending + 1
        elif isinstance(event, CustomEvent) and not self._open:
            return
        self._inbox.append(event)
        self._wakeup.set()

    # Ending them all.

    async def stop(self, reason: str | None) -> list[StreamEvent]:
        """Cancel what is at work, wait for it up to the grace time, and return one result for each open call."""
        await self.cancel()
        self._error = None
        events = [e for e in self._collect() if not isinstance(e, ToolStarted)]
        for work in list(self._works.values()):
            error = None
            if work.task is not None and not work.task.done:
                error = "It may still be at work."
            events.append(self._result(work.call, ToolOutcome("cancelled", error=error)))
        for call in self._waiting:
            events.append(self._result(call, ToolOutcome("cancelled")))
        self._works, self._waiting = {}, []
        return events

    async def cancel(self) -> None:
        """Cancel what is at work and wait for it; a tool that does not end within the grace time is abandoned."""
        tasks = [work.task for work in self._works.values() if work.task is not None]
        for work in self._works.values():
            work.stopped = True
            if work.task is not None:
                work.task.cancel()
        # Each attempt waits for its tool as long as the grace time lasts; the second more is for hooks.
        give_up = time.monotonic() + self._options.grace + 1.0
        for task in tasks:
            if not await task.wait(max(0.0, give_up - time.monotonic())):
                log.error("run %s: %s does not end; it is left to itself", self._context.run_id, task.name)


def problem_text(call: ToolCallPart, registry: ToolRegistry) -> str | None:
    """Say to the model what is wrong with a call, so that it can do better; None if nothing is.

    Arguments are checked here again, because the tool may have changed since the call was made.
    """
    if call.problem == "missing_name":
        return "The call named no tool."
    if call.problem == "truncated":
        return "The arguments were cut off before they were complete; the tool was not run."
    tool = registry.get(call.name)
    if tool is None:
        return f"There is no tool named {call.name!r}. Tools: {', '.join(sorted(registry.names)) or 'none'}."
    if call.arguments is None:
        return f"The arguments are not a JSON object: {(call.arguments_text or '')[:500]}"
    return tool.check(call.arguments)
