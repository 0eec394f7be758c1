"""`orchestrate()`: the loop model → tools → model, as an async generator of typed events.

It knows no storage and no HTTP. Side effects happen only between events: what `advance` returns is handed out before
anything else is done, so whoever takes the events can make them durable first (write-ahead by back-pressure).
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence

import anyio

from streamchat.concurrency import Deadline
from streamchat.core.accumulator import ToolCall
from streamchat.core.conclude import ending
from streamchat.core.fold import Folder, RunState
from streamchat.core.history import messages_of_content, private_of
from streamchat.errors import InvalidInput, ModelError
from streamchat.events import (
    Cancelled,
    ErrorEvent,
    ErrorPhase,
    RunResumed,
    RunStarted,
    StatusEvent,
    StepFinished,
    StepReset,
    StepStarted,
    StoredEvent,
    StreamEvent,
    ToolResult,
    encode_event,
)
from streamchat.messages import ContentPart, ModelMessage, ToolCallPart, model_messages
from streamchat.models.base import Model, ModelRequest
from streamchat.orchestration.calls import StepCalls
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.model_step import ModelStep
from streamchat.orchestration.options import Refuse, RunOptions, call_hook
from streamchat.tools import Tool, ToolRegistry

__all__ = ["orchestrate"]

log = logging.getLogger("streamchat.run")

_SAFE_MESSAGES = {
    "rate_limited": "The model is busy; please try again in a moment.",
    "timeout": "The model did not answer in time.",
    "first_token_timeout": "The model did not answer in time.",
    "idle_timeout": "The model stopped answering.",
    "incomplete_stream": "The model's answer broke off.",
    "stream_error": "The model's answer broke off.",
    "connection": "The model could not be reached.",
}
_DELTA_COST = 64
_DELTAS = frozenset({"text_delta", "reasoning_delta", "refusal_delta"})


async def orchestrate(
    model: Model,
    messages: str | Sequence[ModelMessage | Mapping[str, object]],
    *,
    tools: ToolRegistry | None = None,
    context: RunContext | None = None,
    history: Iterable[StreamEvent | StoredEvent] = (),
    options: RunOptions | None = None,
) -> AsyncGenerator[StreamEvent, None]:
    """Run ``model`` on ``messages``, run the tools it calls, and so on until it stops; yield the run's events.

    ``messages`` is text (one user message), Chat Completions messages or `ModelMessage`s. ``history`` is what the
    run's log already holds: the generator folds it and goes on from there, without yielding it again. The first event
    is ``run_started`` (``run_resumed`` when there is a history of more than that), the last ``finalized``.

    A tool runs only when the event after its ``tool_started`` is asked for. Failures of the model, of tools and of
    limits are events, not exceptions. Raises `InvalidInput` at the first event for messages or tools that cannot be
    used. ``context.stop()`` ends the run cleanly. A hard end (cancellation, ``aclose``, an exception in the consumer)
    cannot yield: tools are cancelled and awaited for at most ``options.grace`` seconds, the provider's response is
    closed, and whoever keeps the log appends what `streamchat.core.conclude` says. Use ``contextlib.aclosing``;
    after a bare ``break`` the same happens, a little later.
    """
    run = _Run(model, model_messages(messages), tools or ToolRegistry(), context or RunContext(), options or RunOptions())
    run.recall(history)
    context = run.context
    try:
        while (batch := await run.advance()) is not None:
            left = len(batch)
            for event in batch:
                left -= 1
                context.more = left > 0
                yield event
    finally:
        await run.close()


class _Run:
    """The state of one run in this process: which phase comes next, and what the log amounts to so far.

    A phase is a coroutine method that returns the events to hand out and sets ``_phase`` to what comes after them.
    """

    def __init__(
        self,
        model: Model,
        messages: list[ModelMessage],
        tools: ToolRegistry,
        context: RunContext,
        options: RunOptions,
    ) -> None:
        for tool in tools:
            _refuse_unbuilt(tool)
        self.model = model
        self.messages = messages
        self.tools = tools
        self.context = context
        self.options = options
        self.folder = Folder()
        self._began = time.monotonic() - context.age
        self._phase: Callable[[], Awaitable[list[StreamEvent]]] | None = self._begin
        self._ending: ErrorEvent | Cancelled | None = None
        self._closing = False
        self._events = 0
        self._bytes = 0
        self._step = 0
        self._attempt = 0
        self._restarts = 0
        self._pause_seconds = 0.0
        self._step_began = self._began
        self._first_token_at: float | None = None
        self._asking: ModelStep | None = None
        self._calls: StepCalls | None = None
        self._started_at: dict[str, int] = {}

    def recall(self, history: Iterable[StreamEvent | StoredEvent]) -> None:
        """Fold what the log already holds."""
        for event in history:
            self.folder.add(event)
            if isinstance(event, StoredEvent) and event.type == "tool_started":
                self._started_at[event.event.call_id] = event.at  # type: ignore[union-attr]
        self._events = self.folder.events

    async def advance(self) -> list[StreamEvent] | None:
        """Do what comes next and return the events it gave (at least one), or None after the end."""
        while self._phase is not None:
            try:
                events = await self._next_phase()()
            except ModelError as error:
                events = await self._model_failed(error)
            except Exception as error:
                events = await self._end(self._failure("orchestration", "internal_error", error))
            if events:
                self._take(events)
                return events
        return None

    def _next_phase(self) -> Callable[[], Awaitable[list[StreamEvent]]]:
        assert self._phase is not None
        if self._closing or self._phase == self._begin:
            return self._phase
        if self.context.stopping:
            self._ending = Cancelled(by=self.context.stopped_by, reason=self.context.stop_reason)
            return self._settle
        reached = self._limit_reached()
        if reached is not None:
            self._ending = self._limit(*reached)
            return self._settle
        return self._phase

    def _take(self, events: list[StreamEvent]) -> None:
        add = self.folder.add
        size = 0
        for event in events:
            add(event)
            if event.type in _DELTAS:
                size += _DELTA_COST + len(event.text)  # type: ignore[union-attr]
            else:
                size += len(encode_event(event)[0])
        self._events += len(events)
        self._bytes += size

    async def close(self) -> None:
        """Let go of the provider's response and of the tools, whatever state they are in; yields nothing."""
        # On trio a cancelled task could not await anything here without the shield.
        with anyio.CancelScope(shield=True):
            if self._asking is not None:
                await self._asking.close()
            if self._calls is not None:
                await self._calls.cancel()

    # The beginning.

    async def _begin(self) -> list[StreamEvent]:
        state, context = self.folder.state, self.context
        self._phase = None if state.over else self._find_place
        if state.over:
            return []
        if state.events == 0:
            started = RunStarted(
                run_id=context.run_id,
                conversation_id=context.conversation_id,
                message_id=context.message_id,
                parent_run_id=context.parent_run_id,
                model=self.model.name,
            )
            return [started]
        return [RunResumed(reason=context.resumed, worker=context.worker)] if state.events > 1 else []

    async def _find_place(self) -> list[StreamEvent]:
        """Go on where the log stopped: with a new step, with the open step's tools, or with the step from its start."""
        state, limits = self.folder.state, self.options.limits
        if limits.max_takeovers is not None and state.takeovers > limits.max_takeovers:
            return await self._end(self._limit("max_takeovers", "The answer broke off too often."))
        refused = await call_hook(self.options.hooks.before_run, self.context)
        if isinstance(refused, Refuse):
            return await self._end(_refusal(refused))
        last = state.steps[-1] if state.steps else None
        self._step = last.step if last else 0
        self._step_began = time.monotonic()
        if last is None or last.finished:
            self._go_on_after_step(state)
            return []
        if last.model_completed:
            self._phase = self._begin_tools
            return []
        self._phase = self._ask
        return [StepReset(step=last.step, attempt=last.resets + 2, reason="takeover")]

    def _go_on_after_step(self, state: RunState) -> None:
        # The loop goes by calls, not by text or finish reason: providers say "stop" with calls, and write before them.
        called = any(call.step == self._step and call.executed_by != "provider" for call in state.calls)
        self._phase = self._begin_step if called or not self._step else self._succeed

    # The model's part of a step.

    async def _begin_step(self) -> list[StreamEvent]:
        self._step += 1
        self._attempt = self._restarts = 0
        self._step_began, self._first_token_at = time.monotonic(), None
        self._phase = self._ask
        return [StepStarted(step=self._step), StatusEvent(step=self._step, status="thinking")]

    async def _ask(self) -> list[StreamEvent]:
        state = self.folder.state
        request = ModelRequest(
            messages=[*self.messages, *messages_of_content(self._said(state), self._private())],
            tools=self.tools.schemas(),
            options=self.options.model_options,
            step=self._step,
            attempt=self._attempt,
            run_id=self.context.run_id,
            conversation_id=self.context.conversation_id,
        )
        changed = await call_hook(self.options.hooks.before_step, self.context, request)
        if isinstance(changed, Refuse):
            return await self._end(_refusal(changed))
        self._asking = ModelStep(
            self.model,
            changed or request,
            first_part=state.last_part + 1,
            taken=[call.call_id for call in state.calls],
            check_call=self._check_call,
            executed_by=self._executed_by,
        )
        self._phase = self._read
        return []

    def _said(self, state: RunState) -> Iterable[ContentPart]:
        return (part for part in state.parts if part.step < self._step)

    def _private(self) -> dict[str, object] | None:
        return private_of(self.folder.extras)

    def _check_call(self, call: ToolCall) -> str | None:
        if call.problem is not None:
            return call.problem
        tool = self.tools.get(call.name or "")
        if tool is None:
            return "unknown_tool"
        return "invalid_arguments" if tool.check(call.arguments or {}) is not None else None

    def _executed_by(self, name: str) -> str:
        tool = self.tools.get(name)
        return "client" if tool is not None and tool.client_side else "server"

    async def _read(self) -> list[StreamEvent]:
        asking = self._asking
        assert asking is not None
        events = await asking.read(self._interruptible())
        self.context.interrupt = None
        if events is None:
            return []  # stopped, or out of time: the next phase sees to it
        if self._first_token_at is None:
            self._first_token_at = asking.first_token_at
        if asking.result is not None:
            self._phase = self._drain
        return events

    def _interruptible(self) -> Deadline:
        """A deadline for the next await: the run's own, and ended by ``context.stop()``."""
        limit = self.options.limits.deadline
        deadline = Deadline(None if limit is None else max(0.0, self._began + limit - time.monotonic()))
        self.context.interrupt = deadline.expire
        return deadline

    async def _drain(self) -> list[StreamEvent]:
        assert self._asking is not None
        await self._asking.drain()
        self._phase = self._begin_tools
        return []

    async def _model_failed(self, error: ModelError) -> list[StreamEvent]:
        """Withdraw what came and ask again, or let the partial text stand and end."""
        asking, self._asking = self._asking, None
        self.context.interrupt = None
        visible = asking is not None and asking.visible
        if asking is not None:
            await asking.close()
        if not (visible and error.retryable and self._restarts < self.options.max_step_restarts):
            return await self._end(self._failure("model", error.code, error, retryable=error.retryable))
        self._pause_seconds = max(error.retry_after or 0.0, self.options.restart_delay * 2**self._restarts)
        self._restarts += 1
        self._attempt += 1
        self._phase = self._pause
        log.warning("run %s: step %d is asked again: %s", self.context.run_id, self._step, error)
        resets = self.folder.state.steps[-1].resets
        reset = StepReset(
            step=self._step, attempt=resets + 2, reason="provider", retry_in=self._pause_seconds
        )
        return [reset, StatusEvent(step=self._step, status="retrying", detail=error.code)]

    async def _pause(self) -> list[StreamEvent]:
        async with self._interruptible():
            await anyio.sleep(self._pause_seconds)
        self.context.interrupt = None
        self._phase = self._ask
        return []

    # The tools' part of a step.

    async def _begin_tools(self) -> list[StreamEvent]:
        state, limit = self.folder.state, self.options.limits.max_tool_calls_per_step
        calls = [call for call in state.calls if call.step == self._step and call.state not in ("done", "deferred")]
        if not calls:
            self._phase = self._finish_step
            return []
        self._calls = StepCalls(calls, self.tools, self.context, self.options, not_before=self._not_before)
        if limit is not None and len(calls) > limit:
            text = f"The model asked for {len(calls)} tools at once; {limit} are allowed."
            return await self._end(self._limit("max_tool_calls_per_step", text))
        self._phase = self._work
        return [StatusEvent(step=self._step, status="tool_calling"), *self._calls.begin()]

    def _not_before(self, call: ToolCallPart, tool: Tool) -> float:
        """Seconds until an attempt that was cut off must have ended: its timeout and the grace time."""
        started = self._started_at.get(call.call_id)
        timeout = tool.time_limit(self.options.tool_timeout)
        if started is None or timeout is None:
            return 0.0
        return started / 1000 + timeout + self.options.grace - time.time()

    async def _work(self) -> list[StreamEvent]:
        assert self._calls is not None
        if self._calls.done:
            self._calls = None
            self._phase = self._finish_step
            return []
        events = await self._calls.next(self._interruptible())
        self.context.interrupt = None
        return events

    async def _finish_step(self) -> list[StreamEvent]:
        state = self.folder.state
        duration = time.monotonic() - self._step_began
        token_at = self._first_token_at
        await call_hook(self.options.hooks.after_step, self.context, state.steps[-1])
        self._go_on_after_step(state)
        finished = StepFinished(
            step=self._step,
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
        self._phase = self._last
        asking, self._asking = self._asking, None
        if asking is not None:
            await asking.close()
        calls, self._calls = self._calls, None
        if calls is not None:
            return await calls.stop()
        # Calls that nobody set off yet, when the run ends between model_completed and its tools.
        return [
            ToolResult(step=call.step, call_id=call.call_id, outcome="cancelled")
            for call in self.folder.state.calls
            if call.state not in ("done", "deferred")
        ]

    async def _last(self) -> list[StreamEvent]:
        self._phase = None
        duration = round(time.monotonic() - self._began, 4)
        events = ending(self.folder, self._ending, duration=duration)
        try:
            await call_hook(self.options.hooks.after_run, self.context, self.folder.state)
        except Exception:
            log.exception("run %s: the after_run hook raised", self.context.run_id)
        return events

    def _limit_reached(self) -> tuple[str, str] | None:
        limits = self.options.limits
        if limits.max_events is not None and self._events >= limits.max_events:
            return "max_events", "The answer has grown too long."
        if limits.max_log_bytes is not None and self._bytes >= limits.max_log_bytes:
            return "max_log_bytes", "The answer has grown too long."
        if limits.deadline is not None and time.monotonic() - self._began >= limits.deadline:
            return "deadline", "The answer took too long."
        if self._phase != self._begin_step:
            return None
        if limits.max_steps is not None and self._step >= limits.max_steps:
            return "max_steps", "The answer took too many steps."
        usage = self.folder.state.usage
        if limits.max_tokens_total is not None and usage and usage.total_tokens >= limits.max_tokens_total:
            return "max_tokens_total", "The answer took too many tokens."
        return None

    def _limit(self, code: str, message: str) -> ErrorEvent:
        log.warning("run %s: limit %s reached in step %d", self.context.run_id, code, self._step)
        return ErrorEvent(phase="limit", code=code, message=message)

    def _failure(
        self, phase: ErrorPhase, code: str, error: Exception, *, retryable: bool = False
    ) -> ErrorEvent:
        correlation_id = uuid.uuid4().hex
        log.error("run %s: %s (%s)", self.context.run_id, code, correlation_id, exc_info=error)
        return ErrorEvent(
            phase=phase,
            code=code,
            message=_SAFE_MESSAGES.get(code, "The answer could not be finished."),
            retryable=retryable,
            correlation_id=correlation_id,
        )


def _refusal(refused: Refuse) -> ErrorEvent:
    return ErrorEvent(phase="orchestration", code=refused.code, message=refused.message)


def _refuse_unbuilt(tool: Tool) -> None:
    """Never run without asking what its author wanted asked for."""
    for name in ("requires_approval", "client_side", "deferred"):
        if getattr(tool, name):
            raise InvalidInput(f"tool {tool.name!r}: {name} is not supported by this version yet", field="tools")
