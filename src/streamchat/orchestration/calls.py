"""A step's tool calls at work: approvals, starts, progress and results, as batches of events.

Each call has a `CallTask`, owned here: `StepCalls.next` hands out what they came to, `stop` ends them and
collects what is known. An attempt begins only when `next` is called again after its ``tool_started`` was
handed out: whoever took that event has then had the chance to make it durable. Calls that wait for somebody
outside are kept here as names only, so that nothing is lost when the run is suspended.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

import anyio.lowlevel

from streamchat.concurrency import Deadline, Wakeup, on_asyncio
from streamchat.core.answers import awaited
from streamchat.core.next_move import next_move
from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    StatusEvent,
    StreamEvent,
    ToolProgress,
    ToolResult,
)
from streamchat.messages import CallApproval, ToolCallPart
from streamchat.orchestration.call_task import CallTask
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.tools import RunPermits, Tool, ToolOutcome, ToolRegistry
from streamchat.tools.values import STILL_RUNNING

__all__ = ["StepCalls", "open_results", "with_open_results"]

log = logging.getLogger("streamchat.tools")

_MAX_PENDING_PROGRESS = 256
_MAX_PENDING_EMITTED = 10_000
_MOST_AT_ONCE = 8
_FOR_HOOKS = 1.0
"""Seconds beyond the grace time (which each attempt gives to its tool) that ending a call may take."""


class StepCalls:
    """The calls of one step that still need a result.

    A call that an earlier holder started (its ``state`` is ``running``) was cut off: an idempotent tool runs
    again, once the seconds that ``wait_before_rerun`` gives have passed, others are asked through their
    ``reconcile``; unless ``job_is_over`` says that the job which it had begun has brought its result.
    """

    def __init__(
        self,
        calls: Iterable[ToolCallPart],
        registry: ToolRegistry,
        context: RunContext,
        options: RunOptions,
        *,
        idempotency_key: Callable[[str], str],
        wait_before_rerun: Callable[[ToolCallPart, Tool], float],
        job_is_over: Callable[[ToolCallPart], bool],
    ) -> None:
        self._job_is_over = job_is_over
        self._registry = registry
        self._context = context
        self._options = options
        self._idempotency_key = idempotency_key
        self._wait_before_rerun = wait_before_rerun
        self._permits = RunPermits(options.max_concurrent_tools)
        self._wakeup = Wakeup()
        self._inbox: deque[StreamEvent | CallTask] = deque()
        self._progress: dict[str, int] = {}
        self._tasks: dict[str, CallTask] = {}
        self._waiting = list(calls)
        self._held: dict[str, ToolCallPart] = {}
        self._error: Exception | None = None
        self._emitted = 0
        self.flooded = False
        """Whether tools emitted more than anybody takes: what came after is lost, the run must end."""
        context.wake = self._wakeup.set

    @property
    def done(self) -> bool:
        """Whether every call has its result."""
        return not (self._tasks or self._waiting or self._held)

    @property
    def blocked(self) -> bool:
        """Whether all that is open waits for somebody outside."""
        return bool(self._held) and not (self._tasks or self._waiting or self._inbox)

    async def begin(self) -> list[StreamEvent]:
        """Set the calls off, in their order; returns the results of those that need no run."""
        events: list[StreamEvent] = []
        while self._waiting:
            call = self._waiting.pop(0)
            tool = self._registry.get(call.name)
            if self._comes_before_judgement(call, tool):
                self._held[call.call_id] = call
                continue
            settled = _settled(call, self._registry)
            if settled is None and call.state == "running" and self._job_is_over(call):
                settled = ToolOutcome("deferred")
            if settled is not None or tool is None:
                events.append(self._result(call, settled or ToolOutcome("unknown")))
            elif awaited(call) is not None:
                self._held[call.call_id] = call
            else:
                self._tasks[call.call_id] = self._task(call, tool)
                await _begun()
        return events

    def _comes_before_judgement(self, call: ToolCallPart, tool: Tool | None) -> bool:
        """Say whether an answer is to be taken before the call is looked at: the tool may have changed since
        the call was made, and who decides on it may have edited the arguments."""
        kind = awaited(call)
        if kind == "approval" and tool is not None:
            return True
        return any((a.kind, a.call_id) == (kind, call.call_id) for a in self._context.inputs)

    def _task(self, call: ToolCallPart, tool: Tool) -> CallTask:
        return CallTask(
            call,
            tool,
            self._context,
            self._options,
            self._permits,
            idempotency_key=self._idempotency_key(call.call_id),
            post=self._post,
            publish=self._publish,
            wait_before_rerun=self._wait_before_rerun(call, tool),
        )

    def take(self, answers: Iterable[StreamEvent]) -> None:
        """Note what answers from outside have led to: these events are about to be handed out.

        A call that was agreed to is set off by the next `next`.
        """
        for event in answers:
            if isinstance(event, ToolResult):
                self._held.pop(event.call_id, None)
            elif isinstance(event, ApprovalResolved) and event.approved:
                call = self._held.pop(event.call_id)
                approval = call.approval and call.approval.model_copy(update={"approved": True})
                arguments = call.arguments if event.arguments is None else event.arguments
                agreed = {"state": "called", "approval": approval, "arguments": arguments}
                self._waiting.append(call.model_copy(update=agreed))

    async def next(self, deadline: Deadline) -> list[StreamEvent]:
        """Let the calls whose start was handed out begin, and wait for news; empty if ``deadline``, or an
        answer from outside, ended the wait.

        Raises what a hook of a call raised.
        """
        if self._waiting and (events := await self.begin()):
            return events
        for task in self._tasks.values():
            task.go()
        if not self._inbox:
            with deadline:
                await self._wakeup.wait()
        if self._error is not None:
            raise self._error
        return self._collect(starts=True)

    def _collect(self, *, starts: bool) -> list[StreamEvent]:
        said: list[StreamEvent] = []
        results: list[StreamEvent] = []
        started: list[StreamEvent] = []
        asked: list[StreamEvent] = []
        # What is handed out together is stored together, so much of what tools emit goes out in shares.
        while self._inbox and len(said) < _MOST_AT_ONCE:
            item = self._inbox.popleft()
            if not isinstance(item, CallTask):
                if isinstance(item, ToolProgress):
                    self._progress[item.call_id] -= 1
                else:
                    self._emitted -= 1
                said.append(item)
            elif item.outcome is not None:
                if self._tasks.pop(item.call.call_id, None) is not None:
                    result = self._outcome_of(item, item.outcome)
                    results.append(result)
                    if result.outcome == "deferred":
                        said.append(
                            StatusEvent(step=item.call.step, status="building", detail=item.call.name)
                        )
            elif item.asks:
                if self._tasks.pop(item.call.call_id, None) is not None:
                    asked += self._ask(item) if starts else open_results([item.call])
            elif item.wants_start and starts:
                started.append(item.hand_out_start())
        # Barriers last: whoever looks at a batch's last event only still sees that there is one.
        return [*said, *results, *asked, *started]

    def _outcome_of(self, task: CallTask, outcome: ToolOutcome) -> ToolResult:
        """The result of a call that has ended. One that cannot be told ends the run, but takes no other
        call's result with it, and leaves no call without one."""
        failed = outcome.outcome in ("error", "timeout", "unknown")
        if failed and task.tool.deferred and self._job_is_over(task.call):
            outcome = ToolOutcome("deferred")  # it had begun its job, whose result was accepted
        try:
            return self._result(task.call, outcome)
        except Exception as error:
            self._error = self._error or error
            lost = f"{task.tool.name} ran, but its result was lost."
            return self._result(task.call, ToolOutcome("error", error=lost))

    def _ask(self, task: CallTask) -> list[StreamEvent]:
        """Ask a person about a call, which is held until they have decided."""
        call = task.call
        seconds = task.tool.time_to_decide(self._options.approval_timeout)
        approval = CallApproval(
            approval_id=f"{self._context.run_id}:{call.call_id}",
            message=task.asks if isinstance(task.asks, str) else None,
            expires_at=None if seconds is None else self._context.clock() + round(seconds * 1000),
        )
        self._held[call.call_id] = call.model_copy(update={"state": "approval", "approval": approval})
        asked = ApprovalRequested(
            step=call.step,
            approval_id=approval.approval_id,
            call_id=call.call_id,
            name=call.name,
            arguments=call.arguments,
            message=approval.message,
            expires_at=approval.expires_at,
        )
        return [asked]

    def _result(self, call: ToolCallPart, outcome: ToolOutcome) -> ToolResult:
        job_id = expires_at = None
        if outcome.outcome == "deferred":
            job_id = f"{self._context.run_id}:{call.call_id}"
            seconds = outcome.deferred.expires_in if outcome.deferred else None
            seconds = self._options.job_timeout if seconds is None else seconds
            expires_at = None if seconds is None else self._context.clock() + round(seconds * 1000)
        return ToolResult(
            step=call.step,
            call_id=call.call_id,
            outcome=outcome.outcome,
            output=outcome.output,
            error=outcome.error,
            duration=round(outcome.duration, 4) if outcome.duration else None,
            job_id=job_id,
            expires_at=expires_at,
        )

    def _post(self, task: CallTask) -> None:
        if task.error is not None and self._error is None:
            self._error = task.error
        self._inbox.append(task)
        self._wakeup.set()

    def _publish(self, event: StreamEvent) -> None:
        """Take a tool's event into the run; called in the loop's thread, also for tools in others."""
        if isinstance(event, ToolProgress):
            task = self._tasks.get(event.call_id)
            if task is None or task.ended or not task.started:
                return  # it has not begun, or has its result: the log knows no progress there
            pending = self._progress.get(event.call_id, 0)
            if pending >= _MAX_PENDING_PROGRESS:
                return  # nobody reads so fast: a later one will tell more
            self._progress[event.call_id] = pending + 1
        elif self.done or self.flooded:
            return
        else:
            self._emitted += 1
            self.flooded = self._emitted > _MAX_PENDING_EMITTED
        self._inbox.append(event)
        self._wakeup.set()

    # Ending them all.

    async def stop(self) -> list[StreamEvent]:
        """End what is at work within the grace time and return one result for each open call."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.stop()
        await self._wait_for(tasks)
        events: list[StreamEvent] = []
        while self._inbox:
            events += self._collect(starts=False)
        for task in self._tasks.values():
            outcome = ToolOutcome("cancelled", error=STILL_RUNNING if task.started else None)
            events.append(self._result(task.call, outcome))
        self._tasks = {}
        open_calls = [*self._waiting, *self._held.values()]
        self._waiting, self._held = [], {}
        return [*events, *open_results(open_calls)]

    def cancel_now(self) -> None:
        """Tell all that is at work to end, and do not wait."""
        for task in self._tasks.values():
            if not task.stopping:
                task.cancel()

    async def cancel(self) -> None:
        """Cancel what is at work and wait for it; a tool that does not end within the grace time is
        abandoned.
        """
        self.cancel_now()
        await self._wait_for(list(self._tasks.values()))

    async def _wait_for(self, tasks: list[CallTask]) -> None:
        """Wait for tasks that were told to end. Each gives its tool the grace time; what takes longer is a
        hook.
        """
        if await _wait(tasks, self._options.grace + _FOR_HOOKS):
            return
        for task in tasks:
            task.cancel()
        if not await _wait(tasks, _FOR_HOOKS):
            names = [task.task.name for task in tasks if not task.task.done]
            log.error("run %s: %s do not end; left to themselves", self._context.run_id, names)


async def _begun() -> None:
    """On trio, which runs tasks in any order, let the one that was just spawned run to its first wait."""
    if not on_asyncio():
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()


async def _wait(tasks: Iterable[CallTask], seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    return all([await task.task.wait(max(0.0, give_up - time.monotonic())) for task in tasks])


def open_results(calls: Iterable[ToolCallPart]) -> list[StreamEvent]:
    """Return the results of calls that nobody will run: ``unknown`` for what an earlier holder started."""
    return [
        ToolResult(
            step=call.step,
            call_id=call.call_id,
            outcome="unknown" if call.state == "running" else "cancelled",
        )
        for call in calls
        if call.state not in ("done", "deferred")
    ]


def with_open_results(results: list[StreamEvent], calls: Iterable[ToolCallPart]) -> list[StreamEvent]:
    """Return ``results`` with those of calls that have none: whatever went wrong, no log ends over an open
    call."""
    told = {event.call_id for event in results if isinstance(event, ToolResult)}
    return [*results, *open_results(call for call in calls if call.call_id not in told)]


def _settled(call: ToolCallPart, registry: ToolRegistry) -> ToolOutcome | None:
    """The outcome of a call that cannot run (again); None for one that can."""
    tool = registry.get(call.name)
    if call.executed_by == "provider":
        return ToolOutcome("unknown")  # its result was cut off, and only the provider has it
    if call.approval is not None and call.approval.approved is False:
        return ToolOutcome("denied", error=call.approval.reason)
    wrong = _problem_text(call, registry)
    move = next_move(
        started=call.state == "running",
        known=tool is not None,
        fits=wrong is None,
        idempotent=tool is not None and tool.idempotent,
    )
    if move == "refuse":
        return ToolOutcome("error", error=wrong)
    return ToolOutcome("unknown") if move == "unknown" else None


def _problem_text(call: ToolCallPart, registry: ToolRegistry) -> str | None:
    """Say to the model what is wrong with a call, so that it can do better; None if nothing is.

    Arguments are checked here again, because the tool may have changed since the call was made. A problem
    that the log names stays one, even if the tool is there by now: the call was shown as one that does not
    run.
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
    if tool.client_side and call.executed_by != "client":
        return "The tool is run elsewhere by now; make the call again."
    wrong = tool.check(call.arguments)
    return wrong or ("The call could not be made; make it again." if call.problem is not None else None)
