"""One run in this process: its phases, from the first event to the last.

Side effects happen only between events: what `Run.advance` returns is handed out before anything else is
done, so whoever takes the events can make them durable first (write-ahead by back-pressure).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import anyio

from streamchat.concurrency import Deadline
from streamchat.core.conclude import ending
from streamchat.core.state import RunState
from streamchat.errors import ModelError
from streamchat.events import (
    Cancelled,
    ErrorEvent,
    RunResumed,
    RunStarted,
    StatusEvent,
    StepFinished,
    StepReset,
    StepStarted,
    StoredEvent,
    StreamEvent,
)
from streamchat.messages import ModelMessage
from streamchat.models.base import Model, ModelOutput, ModelRequest
from streamchat.orchestration.calls import StepCalls, open_results, with_open_results
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.failures import failure_event, limit_event, refusal_event
from streamchat.orchestration.limits import Reached
from streamchat.orchestration.model_step import ModelStep
from streamchat.orchestration.options import MaybeAwaitable, Refuse, RunOptions, call_hook
from streamchat.orchestration.run_log import RunLog
from streamchat.orchestration.waits import Waits, close_jobs
from streamchat.tools import ToolRegistry

__all__ = ["Phase", "Run"]

log = logging.getLogger("streamchat.run")

T = TypeVar("T")

_DRAIN_SECONDS = 1.0
_LONGEST_PAUSE = 60.0
"""Seconds. A provider that wants to be left alone for longer is not asked again."""


class Run:
    """The state of one run in this process: which phase comes next, and what the log amounts to so far.

    A phase is a coroutine method that returns the events to hand out and sets ``_phase`` to what comes after
    them.
    """

    def __init__(
        self,
        model: Model,
        messages: Sequence[ModelMessage],
        tools: ToolRegistry,
        context: RunContext,
        options: RunOptions,
        history: Iterable[StreamEvent | StoredEvent],
    ) -> None:
        self.model = model
        self.messages = messages
        self.tools = tools
        self.context = context
        self.options = options
        self._began = time.monotonic() - context.age
        self._log = RunLog(history, context, options, self._began)
        self._waits = Waits(context, self._log, tools, options)
        self._phase: Phase | None = Run._begin
        self._closing = False
        self._ending: ErrorEvent | Cancelled | None = None
        self._step = 0
        self._attempt = 0
        self._pause_seconds = 0.0
        self._step_began = self._began
        self._first_token_at: float | None = None
        self._asking: ModelStep | None = None
        self._deadline = Deadline()
        self._calls: StepCalls | None = None

    async def advance(self) -> list[StreamEvent] | None:
        """Do what comes next and return the events it gave (at least one), or None after the end."""
        while self._phase is not None:
            try:
                # By name: a workflow's run does some of them in its own way.
                events: list[StreamEvent] = await getattr(self, self._due(self._phase).__name__)()
                if events:
                    self._log.take(events)
                    return events
            except Exception as error:
                if self._phase is None:
                    raise  # the ending itself; there is nothing else to say
                run_id, step = self.context.run_id, self._step or None
                failure = failure_event(run_id, "orchestration", "internal_error", error, step=step)
                events = await self._end(failure)
                if events:
                    self._log.take(events)
                    return events
        return None

    def _due(self, phase: Phase) -> Phase:
        """The phase that comes now: the next one, unless the run was stopped or has reached a limit."""
        if self._closing or phase is Run._begin:
            return phase
        if self.context.stopping:
            self._ending = Cancelled(by=self.context.stopped_by, reason=self.context.stop_reason)
            return Run._settle
        if phase in _UNLIMITED:
            return phase
        reached = self._log.limits.reached()
        if reached is None and phase is Run._begin_step:
            reached = self._log.limits.reached_before_step(self._log.state)
        if reached is None:
            return phase
        self._ending = self._limit(reached)
        return Run._settle

    async def close(self) -> None:
        """Let go of the provider's response and of the tools, whatever state they are in; yields nothing."""
        if self._calls is not None:
            self._calls.cancel_now()
        # On trio a cancelled task could not await anything here without the shield.
        with anyio.CancelScope(shield=True):
            if self._asking is not None:
                await self._asking.close(self.options.grace)
            if self._calls is not None:
                await self._calls.cancel()

    def _interruptible(self) -> Deadline:
        """The run's deadline for the next await, which ``context.stop()`` ends; `_resume` comes after."""
        left = self._log.limits.seconds_left
        if left is not None:
            self._deadline = Deadline(left)
        self.context.interrupt = self._deadline.expire
        return self._deadline

    def _resume(self, deadline: Deadline) -> None:
        self.context.interrupt = None
        if deadline.expired and not self.context.stopping:
            self._log.limits.expire()

    async def _hook(self, hook: Callable[..., MaybeAwaitable[T]] | None, *arguments: object) -> T | None:
        """Call a hook of the run; None where the run was stopped, or ran out of time, before it answered."""
        if hook is None:
            return None
        answer: T | None = None
        with self._interruptible() as deadline:
            answer = await call_hook(hook, *arguments)
        self._resume(deadline)
        return answer

    # The beginning.

    async def _begin(self) -> list[StreamEvent]:
        state, context = self._log.state, self.context
        if state.over or self._log.rest:
            self._phase = None
            return self._log.rest
        self._phase = Run._find_place
        if state.events == 0:
            started = RunStarted(
                run_id=context.run_id,
                conversation_id=context.conversation_id,
                message_id=context.message_id,
                parent_run_id=context.parent_run_id,
                model=self.model.name,
            )
            return [started]
        reason = self._waits.reason(state) if state.status == "suspended" else context.resumed
        if reason is None or state.events == 1:
            return []
        return [RunResumed(reason=reason, worker=context.worker)]

    async def _find_place(self) -> list[StreamEvent]:
        """Go on where the log stopped: with a new step, the open step's tools, or that step's start."""
        state = self._log.state
        reached = self._log.limits.reached_by_takeovers(state)
        if reached is not None:
            return await self._end(self._limit(reached))
        refused = await self._hook(self.options.hooks.before_run, self.context)
        if isinstance(refused, Refuse):
            return await self._end(refusal_event(refused))
        last = state.steps[-1] if state.steps else None
        self._step = last.step if last else 0
        self._step_began = time.monotonic()
        if last is None:
            self._phase = Run._begin_step
            return []
        if last.finished:
            self._phase = Run._after_step
            return []
        if last.model_completed:
            self._phase = Run._begin_tools
            return []
        self._phase = Run._ask
        return [StepReset(step=last.step, attempt=last.resets + 2, reason="takeover")]

    async def _after_step(self) -> list[StreamEvent]:
        """Take what came of jobs; then ask the model again, wait for jobs that are at work, or end."""
        state, waits = self._log.state, self._waits
        answers = waits.take(state)
        if answers:
            return answers
        # The loop goes by calls, not by text or finish reason: providers say "stop" with calls, and write
        # before them.
        if waits.has_news(state) and not waits.holds_up(state):
            self._phase = Run._begin_step
        else:
            self._phase = Run._suspend if waits.has_jobs(state) else Run._succeed
        return []

    async def _suspend(self) -> list[StreamEvent]:
        """Pause: nothing goes on before something comes from outside. Nothing of the run is kept here."""
        self._phase, self._calls = None, None
        return self._waits.suspend(self._log.state, self._step)

    # The model's part of a step.

    async def _begin_step(self) -> list[StreamEvent]:
        self._step, self._attempt = self._step + 1, 0
        self._step_began, self._first_token_at = time.monotonic(), None
        self._phase = Run._ask
        return [StepStarted(step=self._step), StatusEvent(step=self._step, status="thinking")]

    async def _ask(self) -> list[StreamEvent]:
        return await self._open(self._step, then=Run._read)

    def _request(self, state: RunState, step: int) -> ModelRequest:
        return ModelRequest(
            messages=[*self.messages, *self._log.said_before(state, step)],
            tools=self.tools.schemas(),
            options=self.options.model_options,
            step=step,
            attempt=self._attempt,
            run_id=self.context.run_id,
            conversation_id=self.context.conversation_id,
        )

    async def _open(self, step: int, *, then: Phase) -> list[StreamEvent]:
        """Ask the model for ``step``, unless the hook refuses; ``then`` reads what it says."""
        state = self._log.state
        request = self._request(state, step)
        changed = await self._hook(self.options.hooks.before_step, self.context, request)
        if isinstance(changed, Refuse):
            return await self._end(refusal_event(changed, step=self._step or None))
        self._phase = then
        try:
            taken = [call.call_id for call in state.calls]
            first = state.last_part + 1
            self._asking = ModelStep(
                self.model, changed or request, step=step, first_part=first, taken=taken, tools=self.tools
            )
        except ModelError as error:
            return await self._model_failed(error)
        return []

    async def _read(self) -> list[StreamEvent]:
        asking = self._asking
        assert asking is not None
        deadline = self._deadline if self._log.limits.timeless else self._interruptible()
        self.context.interrupt = deadline.expire
        batch: Sequence[ModelOutput] = ()
        try:
            # All tokens come through here: no coroutine stands between this one and the model's stream.
            with deadline:
                batch = await asking.next()
            events = asking.translate(batch)
        except Exception as error:
            self._resume(deadline)
            if self.context.stopping or self._log.limits.reached() is not None:
                return []  # being ended is all that it complains of, and what it said so far stands
            return await self._model_failed(asking.failure(error))
        if deadline.expired:
            self._resume(deadline)
        self.context.interrupt = None
        if asking.first_token_at is not None and self._first_token_at is None:
            self._first_token_at = asking.first_token_at
        if asking.result is not None:
            self._phase = Run._drain
        return events

    async def _drain(self) -> list[StreamEvent]:
        asking = self._asking
        assert asking is not None
        # No deadline of the run's: this takes no time worth speaking of, and the answer is there.
        deadline = Deadline(_DRAIN_SECONDS)
        self.context.interrupt = deadline.expire
        await asking.drain(deadline)
        self.context.interrupt = None
        await self._close_response()
        self._phase = Run._begin_tools
        return []

    async def _close_response(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            await asking.close(self.options.grace)

    def _may_ask_again(self) -> bool:
        """Whether a failed step is asked again here: where nothing was seen of it, the model did so."""
        return self._asking is not None and self._asking.visible

    async def _model_failed(self, error: ModelError) -> list[StreamEvent]:
        """Withdraw what came and ask again, or let the partial text stand and end."""
        again = self._may_ask_again() and error.retryable
        await self._close_response()
        pause = max(error.retry_after or 0.0, self.options.restart_delay * 2**self._attempt)
        if not again or pause > _LONGEST_PAUSE or self._attempt >= self.options.max_step_restarts:
            run_id, step, retryable = self.context.run_id, self._step or None, error.retryable
            return await self._end(
                failure_event(run_id, "model", error.code, error, step=step, retryable=retryable)
            )
        self._attempt += 1
        self._phase, self._pause_seconds = Run._pause, pause
        log.warning("run %s: step %d is asked again: %s", self.context.run_id, self._step, error)
        retrying = StatusEvent(step=self._step or None, status="retrying", detail=error.code)
        return [*self._withdraw(pause), retrying]

    def _withdraw(self, pause: float) -> list[StreamEvent]:
        resets = self._log.state.steps[-1].resets
        return [StepReset(step=self._step, attempt=resets + 2, reason="provider", retry_in=pause)]

    async def _pause(self) -> list[StreamEvent]:
        with self._interruptible() as deadline:
            await anyio.sleep(self._pause_seconds)
        self._resume(deadline)
        self._phase = Run._ask
        return []

    # The tools' part of a step.

    async def _begin_tools(self) -> list[StreamEvent]:
        state = self._log.state
        calls = [
            call for call in state.calls if call.step == self._step and call.state not in ("done", "deferred")
        ]
        if not calls:
            self._phase = Run._finish_step
            return []
        reached = self._log.limits.reached_by_calls(len(calls), state)
        if reached is not None:
            return await self._end(self._limit(reached))
        self._calls = StepCalls(
            calls,
            self.tools,
            self.context,
            self.options,
            idempotency_key=self._log.idempotency_key,
            wait_before_rerun=self._log.wait_before_rerun,
            job_is_over=self._waits.job_is_over,
        )
        self._phase = Run._work
        return [StatusEvent(step=self._step, status="tool_calling"), *await self._calls.begin()]

    async def _work(self) -> list[StreamEvent]:
        calls = self._calls
        assert calls is not None
        if self.context.inputs or calls.blocked:
            answers = self._waits.take(self._log.state)
            if answers:
                calls.take(answers)
                return answers
        if calls.done:
            self._calls = None
            self._phase = Run._finish_step
            return []
        if calls.blocked:
            self._phase = Run._suspend
            return []
        deadline = self._interruptible()
        try:
            events = await calls.next(deadline)
        except Exception as error:
            run_id, step = self.context.run_id, self._step
            return await self._end(failure_event(run_id, "tool", "internal_error", error, step=step))
        self._resume(deadline)
        if calls.flooded:
            text = "A tool said more than can be passed on."
            self._ending = self._limit(Reached("max_emitted", text))
            self._phase = Run._settle
        return events

    async def _finish_step(self) -> list[StreamEvent]:
        last = self._log.state.steps[-1]
        duration = time.monotonic() - self._step_began
        await self._hook(self.options.hooks.after_step, self.context, last)
        self._phase = Run._after_step
        token_at = self._first_token_at
        finished = StepFinished(
            step=self._step,
            name=last.name,
            kind=last.kind,
            duration=round(duration, 4),
            time_to_first_token=None if token_at is None else round(token_at - self._step_began, 4),
        )
        return [finished]

    # The end.

    async def _succeed(self) -> list[StreamEvent]:
        return await self._end(None)

    async def _end(self, first: ErrorEvent | Cancelled | None) -> list[StreamEvent]:
        self._ending = first
        return await self._settle()

    async def _settle(self) -> list[StreamEvent]:
        """Close what is open and give every call its result; the ending comes after these are handed out."""
        self._closing = True
        self._phase = Run._last
        self.context.interrupt = None
        await self._close_response()
        state = self._log.state
        if self._calls is None:
            results = open_results(state.calls)
        else:
            results = with_open_results(await self._calls.stop(), state.calls)
            self._calls = None
        return [*results, *close_jobs(state, results)]

    async def _last(self) -> list[StreamEvent]:
        self._phase = None
        events = ending(self._log.folder, self._ending, duration=round(time.monotonic() - self._began, 4))
        try:
            with Deadline(self.options.grace) as deadline:
                await call_hook(self.options.hooks.after_run, self.context, self._log.state)
            if deadline.expired:
                log.error("run %s: after_run did not end within the grace time", self.context.run_id)
        except Exception:
            log.exception("run %s: after_run raised", self.context.run_id)
        return events

    def _limit(self, reached: Reached) -> ErrorEvent:
        return limit_event(self.context.run_id, reached, step=self._step or None)


Phase: TypeAlias = Callable[[Any], Awaitable[list[StreamEvent]]]

_UNLIMITED = frozenset({Run._drain, Run._begin_tools, Run._finish_step, Run._after_step, Run._succeed})
"""Phases that a limit does not keep from being entered: all that is left of a complete answer is in them."""
