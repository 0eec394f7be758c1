"""One tool call on its way to a result, in a task of its own: permit, start, attempts, hooks.

The task itself decides nothing that the log must know first. It posts itself when it holds its permit, waits
until its ``tool_started`` was handed out and the next event asked for (`CallTask.go`), and posts itself again
with its outcome. A call that a person must agree to ends at once, asking for that; once they have agreed, it
has a new task.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, get_args

import anyio

from streamchat.concurrency import Deadline, OwnedTask, Wakeup, spawn
from streamchat.core.given import check_instance
from streamchat.core.next_move import next_move
from streamchat.errors import InvalidInput
from streamchat.events import Outcome, StreamEvent, ToolStarted
from streamchat.messages import ToolCallPart
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Refuse, RunOptions, call_hook
from streamchat.tools import (
    OutputUnusable,
    RunPermits,
    Tool,
    ToolContext,
    ToolOutcome,
    run_attempt,
    run_reconcile,
)
from streamchat.tools.output import json_value, limit_output
from streamchat.tools.values import CANCELLED, NOT_BEGUN

__all__ = ["CallTask"]

log = logging.getLogger("streamchat.tools")

_OUTCOMES = get_args(Outcome)


class CallTask:
    """A call whose arguments fit its tool.

    ``post`` is called in the loop's thread when the call wants its start handed out (``wants_start``), and
    once more when its task has ended. ``wait_before_rerun`` gives the seconds until an attempt that an
    earlier holder began must have ended.
    """

    def __init__(
        self,
        call: ToolCallPart,
        tool: Tool,
        context: RunContext,
        options: RunOptions,
        permits: RunPermits,
        *,
        idempotency_key: str,
        post: Callable[[CallTask], None],
        publish: Callable[[StreamEvent], None],
        wait_before_rerun: float,
    ) -> None:
        self.call = call
        self.tool = tool
        self.idempotency_key = idempotency_key
        self.attempt = call.attempts + 1
        self.wants_start = False
        self.started = call.state == "running"
        """Whether a ``tool_started`` stands in the log, so that the call may speak."""
        self.ended = False
        self.outcome: ToolOutcome | None = None
        """Set once the task has ended."""
        self.asks: bool | str = False
        """Whether a person must agree first; text is the question. The task has ended then."""
        self.error: Exception | None = None
        """What a hook raised, or a bug of ours: the run ends with it."""
        self._cut_off = self.started
        self._handed_out = False
        self._context = context
        self._options = options
        self._permits = permits
        self._post = post
        self._publish = publish
        self._wait_before_rerun = wait_before_rerun
        self._go = Wakeup()
        self._stop = Deadline()
        self.stopping = False
        """Whether it was told to end."""
        self._late: ToolOutcome | None = None
        self._acted = self.started
        """Whether an attempt before the present one may have taken effect."""
        self.task: OwnedTask = spawn(self._run, f"streamchat tool {call.name} {call.call_id}")

    def hand_out_start(self) -> ToolStarted:
        """Return the event that claims the attempt; it begins with `go`."""
        self.wants_start, self._handed_out = False, True
        return ToolStarted(
            step=self.call.step,
            call_id=self.call.call_id,
            attempt=self.attempt,
            idempotency_key=self.idempotency_key,
        )

    def go(self) -> None:
        """Let the attempt begin if its start was handed out."""
        if self._handed_out:
            self._handed_out, self.started = False, True
            self._go.set()

    def stop(self) -> None:
        """End the call cleanly: the tool is cancelled; what it came to all the same is the outcome."""
        self.stopping = True
        self._stop.expire()

    def cancel(self) -> None:
        """End the task at its next await."""
        self.stopping = True
        self.task.cancel()

    async def _run(self) -> None:
        context = self._tool_context()
        try:
            outcome: ToolOutcome | None = None
            with self._stop:
                self.asks = await self._must_ask(context)
                if not self.asks:
                    outcome = await self._work(context)
            if not self.asks:
                self.outcome = await self._reviewed(outcome or self._late or self._unfinished(), context)
        except Exception as error:
            self.error = error
        finally:
            if self.outcome is None and not self.asks:
                self.outcome = self._unfinished()
            self.ended = True
            self._post(self)

    def _unfinished(self) -> ToolOutcome:
        """What is known of a call that was ended before its outcome was."""
        if self._late is not None and self._late.outcome == "cancelled":
            return self._late
        if self._late is not None:
            return ToolOutcome("error", error=f"{self.tool.name} ran, but its result was lost.")
        if self._cut_off:
            return ToolOutcome("unknown")
        if not self.started:
            return ToolOutcome("cancelled")
        return ToolOutcome("cancelled", error=CANCELLED if self._acted else NOT_BEGUN)

    async def _must_ask(self, context: ToolContext) -> bool | str:
        """Whether a person must agree first. In doubt, yes."""
        rule = self.tool.requires_approval
        if self._cut_off or self.call.approval is not None:
            return False
        if not callable(rule):
            return rule
        try:
            answer: object = rule(context, dict(self.call.arguments or {}))
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception:
            log.exception("requires_approval of tool %s raised: a person is asked", self.tool.name)
            return True
        if isinstance(answer, bool) or (isinstance(answer, str) and answer):
            return answer
        # None is a forgotten return; nothing but a clear no may let a call run that somebody is to guard.
        log.error(
            "requires_approval of tool %s returned %.80r, neither a bool nor text: a person is asked",
            self.tool.name,
            answer,
        )
        return True

    async def _work(self, context: ToolContext) -> ToolOutcome:
        if self._cut_off:
            settled = await self._settle_cut_off(context)
            if settled is not None:
                return settled
        refused = await call_hook(self._options.hooks.before_tool, context, self.call)
        if isinstance(refused, Refuse):
            return ToolOutcome("denied", error=refused.message)
        while True:
            outcome = await self._attempt(context)
            self._acted = True
            again = outcome.retryable and outcome.outcome in ("error", "timeout")
            if not again or self.attempt > self.tool.retries:
                return outcome
            await anyio.sleep(self.tool.wait_before_retry(self.attempt))
            self.attempt += 1

    async def _attempt(self, context: ToolContext) -> ToolOutcome:
        """One attempt: the permit, the start handed out and taken, then the tool."""
        await self._permits.acquire(self.tool)
        try:
            self.wants_start = True
            self._post(self)
            await self._go.wait()
            self._cut_off = False
            context.attempt = self.attempt
            return await run_attempt(
                self.tool,
                self.call.arguments or {},
                context,
                default_timeout=self._options.tool_timeout,
                grace=self._options.grace,
                max_output_bytes=self._options.limits.max_tool_output_bytes,
                late=self._take_late,
            )
        finally:
            self.wants_start = False
            self._permits.release(self.tool)

    def _take_late(self, outcome: ToolOutcome) -> None:
        self._late = outcome

    async def _settle_cut_off(self, context: ToolContext) -> ToolOutcome | None:
        """What became of a call that an earlier holder started; None where it may run again."""
        move = next_move(started=True, known=True, fits=True, idempotent=self.tool.idempotent)
        if move == "start_again":
            await anyio.sleep(self._wait_before_rerun)
            return None
        context.attempt = self.call.attempts
        return await run_reconcile(
            self.tool,
            self.call.arguments or {},
            context,
            default_timeout=self._options.tool_timeout,
            grace=self._options.grace,
            max_output_bytes=self._options.limits.max_tool_output_bytes,
        )

    async def _reviewed(self, outcome: ToolOutcome, context: ToolContext) -> ToolOutcome:
        """What the ``after_tool`` hook makes of what a tool came to."""
        hook = self._options.hooks.after_tool
        if hook is None or not self.started:
            return outcome
        # Until the hook has agreed, what the tool returned is not shown.
        self._late = outcome
        changed = await call_hook(hook, context, self.call, outcome)
        if not isinstance(changed, ToolOutcome):
            return outcome
        if changed.outcome not in _OUTCOMES:
            raise InvalidInput(
                f"after_tool returned the outcome {changed.outcome!r:.100}: give {', '.join(_OUTCOMES)}"
            )
        check_instance("error", changed.error, str, "text, or None", none=True)
        most = self.tool.max_output_bytes or self._options.limits.max_tool_output_bytes
        try:
            changed.output = limit_output(json_value(changed.output), most)
        except OutputUnusable as problem:
            return ToolOutcome(
                "error", error=f"The result of {self.tool.name} cannot be passed on: {problem}."
            )
        return changed

    def _tool_context(self) -> ToolContext[Any]:
        run, call = self._context, self.call
        return ToolContext(
            run_id=run.run_id,
            call_id=call.call_id,
            step=call.step,
            name=call.name,
            idempotency_key=self.idempotency_key,
            attempt=self.attempt,
            fence=run.fence,
            conversation_id=run.conversation_id,
            principal=run.principal,
            deps=run.deps,
            publish=self._publish,
            is_cancelled=lambda: self.stopping,
        )
