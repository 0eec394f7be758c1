"""Folding a log into the state of its run: message parts, tool calls, status, waits, usage and timings.

`fold` is a pure function, and folding in pieces gives what folding at once gives: a snapshot plus the events
after it is as good as the whole log. `Folder` is the same thing kept open, at constant cost per event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from streamchat.core.state import RunState, StepState
from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    Cancelled,
    ErrorEvent,
    FileEvent,
    Finalized,
    JobResult,
    MessageCompleted,
    ModelCompleted,
    RunResumed,
    RunStarted,
    SourceEvent,
    StepFinished,
    StepReset,
    StepStarted,
    StoredEvent,
    StreamEvent,
    Suspended,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    ToolProgress,
    ToolResult,
    ToolStarted,
)
from streamchat.messages import (
    CallApproval,
    CallJob,
    ContentPart,
    FilePart,
    ReasoningPart,
    RefusalPart,
    SourcePart,
    TextPart,
    ToolCallPart,
)

__all__ = ["Folder", "RunState", "StepState", "fold"]


class _TextBuilder:
    """A text part that grows; fragments are joined when somebody looks."""

    __slots__ = ("fragments", "make", "part", "step")

    def __init__(self, make: Callable[..., ContentPart], part: int, step: int, text: str) -> None:
        self.make = make
        self.part = part
        self.step = step
        self.fragments = [text]

    def build(self) -> ContentPart:
        if len(self.fragments) > 1:
            self.fragments = ["".join(self.fragments)]
        return self.make(part=self.part, step=self.step, text=self.fragments[0])


class _CallBuilder:
    """A tool call whose fields change; ``fragments`` are its arguments while they stream."""

    __slots__ = ("fields", "fragments")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        text = fields.get("arguments_text") if fields.get("state") == "streaming" else None
        self.fragments = [text] if text else []

    def build(self) -> ToolCallPart:
        if self.fields["state"] == "streaming":
            self.fragments = ["".join(self.fragments)]
            self.fields["arguments_text"] = self.fragments[0]
        return ToolCallPart(**self.fields)


_Builder: TypeAlias = _TextBuilder | _CallBuilder | SourcePart | FilePart

_B = TypeVar("_B", bound=_Builder)
_TEXT_PARTS: dict[str, Callable[..., ContentPart]] = {
    "text_delta": TextPart,
    "reasoning_delta": ReasoningPart,
    "refusal_delta": RefusalPart,
}


class Folder:
    """A fold kept open: `add` events one by one, look at `state` whenever needed.

    ``extras`` holds what ``model_completed`` carried in private, by step: it is no part of the state, because
    the state is shown to clients.
    """

    def __init__(self, state: RunState | None = None) -> None:
        state = state or RunState()
        self._base: dict[str, Any] = {
            name: getattr(state, name)
            for name in RunState.model_fields
            if name not in ("parts", "steps", "events")
        }
        self.events = state.events
        self._steps: dict[int, dict[str, Any]] = {s.step: dict(s) for s in state.steps}
        self._parts: dict[int, _Builder] = {}
        self._calls: dict[str, _CallBuilder] = {}
        self._set_parts(state.parts)
        self.extras: dict[int, dict[str, Any]] = {}

    def _set_parts(self, parts: Iterable[ContentPart]) -> None:
        self._parts, self._calls = {}, {}
        for part in parts:
            if isinstance(part, ToolCallPart):
                self._calls[part.call_id] = self._take_part(part.part, _CallBuilder(dict(part)))
            elif isinstance(part, TextPart | ReasoningPart | RefusalPart):
                self._take_part(part.part, _TextBuilder(type(part), part.part, part.step, part.text))
            else:
                self._take_part(part.part, part)

    def add(self, event: StreamEvent | StoredEvent) -> None:
        """Fold one more event."""
        self.events += 1
        if isinstance(event, StoredEvent):
            self._note_time(event)
            event = event.event
        handler = _HANDLERS.get(event.type)
        if handler is not None:
            handler(self, event)

    def _note_time(self, stored: StoredEvent) -> None:
        base = self._base
        base["seq"] = stored.seq
        if stored.type == "run_started":
            base["started_at"] = stored.at
        elif stored.type == "finalized":
            base["ended_at"] = stored.at
        elif base["first_token_at"] is None and stored.type in _FIRST_TOKENS:
            base["first_token_at"] = stored.at

    @property
    def state(self) -> RunState:
        """The state so far; costs as much as the message is long."""
        parts = [self._parts[number] for number in sorted(self._parts)]
        return RunState(
            parts=tuple(p.build() if isinstance(p, _TextBuilder | _CallBuilder) else p for p in parts),
            steps=tuple(StepState(**fields) for fields in self._steps.values()),
            events=self.events,
            **self._base,
        )

    def content(self) -> tuple[ContentPart, ...]:
        """The parts that a ``message_completed`` would hold now: no calls that are known only from deltas."""
        parts = self.state.parts
        return tuple(p for p in parts if not (isinstance(p, ToolCallPart) and p.state == "streaming"))

    def call(self, call_id: str) -> ToolCallPart | None:
        """Return a call as it stands now; None where it is not known."""
        call = self._calls.get(call_id)
        return None if call is None else call.build()

    # One method per type of event; a type without one changes nothing.

    def _run_started(self, event: RunStarted) -> None:
        for name in ("run_id", "conversation_id", "message_id", "parent_run_id", "model"):
            self._base[name] = getattr(event, name)

    def _run_resumed(self, event: RunResumed) -> None:
        self._base["status"] = "running"
        self._base["waits"] = ()
        if event.reason == "takeover":
            self._base["takeovers"] += 1

    def _step_started(self, event: StepStarted) -> None:
        self._base["status"] = "running"
        self._steps[event.step] = {"step": event.step, "name": event.name, "kind": event.kind}

    def _step_finished(self, event: StepFinished) -> None:
        self._steps.setdefault(event.step, {"step": event.step}).update(
            finished=True, duration=event.duration, time_to_first_token=event.time_to_first_token
        )

    def _take_part(self, part: int, builder: _B) -> _B:
        self._parts[part] = builder
        self._base["last_part"] = max(self._base["last_part"], part)
        return builder

    def _text(self, event: TextDelta) -> None:
        builder = self._parts.get(event.part)
        if isinstance(builder, _TextBuilder):
            builder.fragments.append(event.text)
        else:
            make = _TEXT_PARTS[event.type]
            self._take_part(event.part, _TextBuilder(make, event.part, event.step, event.text))

    def _source(self, event: SourceEvent) -> None:
        self._take_part(event.part, SourcePart(**event.model_dump(exclude={"type"})))

    def _file(self, event: FileEvent) -> None:
        self._take_part(event.part, FilePart(**event.model_dump(exclude={"type"})))

    def _tool_call_delta(self, event: ToolCallDelta) -> None:
        call = self._calls.get(event.call_id)
        if call is None:
            fields = {"part": event.part, "step": event.step, "call_id": event.call_id, "state": "streaming"}
            call = self._calls[event.call_id] = self._take_part(event.part, _CallBuilder(fields))
        if event.name is not None:
            call.fields["name"] = event.name
        call.fragments.append(event.arguments)

    def _tool_call(self, event: ToolCallEvent) -> None:
        fields = {**event.model_dump(exclude={"type"}), "state": "called"}
        self._calls[event.call_id] = self._take_part(event.part, _CallBuilder(fields))

    def _model_completed(self, event: ModelCompleted) -> None:
        step = self._steps.setdefault(event.step, {"step": event.step})
        step.update(model_completed=True, finish_reason=event.finish_reason, usage=event.usage)
        self._base["finish_reason"] = event.finish_reason
        if event.usage is not None:
            total = self._base["usage"]
            self._base["usage"] = event.usage if total is None else total + event.usage
        for part in event.parts:
            builder = self._parts.get(part.part)
            if part.text is not None and isinstance(builder, _TextBuilder):
                builder.fragments = [part.text]
        if event.private is not None:
            self.extras[event.step] = event.private

    def _step_reset(self, event: StepReset) -> None:
        step = self._steps.setdefault(event.step, {"step": event.step})
        step["resets"] = step.get("resets", 0) + 1
        for number, builder in list(self._parts.items()):
            if _step_of(builder) == event.step:
                del self._parts[number]
        self._calls = {i: call for i, call in self._calls.items() if call.fields["step"] != event.step}

    def _call(self, call_id: str) -> dict[str, Any]:
        # A log whose beginning was trimmed may speak of calls that are only in the final message.
        call = self._calls.get(call_id)
        return call.fields if call is not None else {}

    def _approval_requested(self, event: ApprovalRequested) -> None:
        approval = CallApproval(
            approval_id=event.approval_id, message=event.message, expires_at=event.expires_at
        )
        self._call(event.call_id).update(state="approval", approval=approval)

    def _approval_resolved(self, event: ApprovalResolved) -> None:
        call = self._call(event.call_id)
        approval = call.get("approval") or CallApproval(approval_id=event.approval_id)
        decided = {"approved": event.approved, "reason": event.reason, "by": event.by}
        call.update(state="called", approval=approval.model_copy(update=decided))
        if event.arguments is not None:
            call["arguments"] = event.arguments

    def _tool_started(self, event: ToolStarted) -> None:
        self._call(event.call_id).update(state="running", attempts=event.attempt)

    def _tool_progress(self, event: ToolProgress) -> None:
        self._call(event.call_id)["progress"] = event.model_dump(
            include={"message", "fraction", "data"}, exclude_none=True
        )

    def _tool_result(self, event: ToolResult) -> None:
        deferred = event.outcome == "deferred"
        self._call(event.call_id).update(
            state="deferred" if deferred else "done",
            outcome=event.outcome,
            output=event.output,
            error=event.error,
            duration=event.duration,
            job_id=event.job_id,
            job=CallJob(message=event.output, expires_at=event.expires_at) if deferred else None,
        )

    def _job_result(self, event: JobResult) -> None:
        call = self._call(event.call_id)
        job: CallJob = call.get("job") or CallJob()
        call.update(
            state="done",
            outcome=event.outcome,
            output=event.output,
            error=event.error,
            job_id=event.job_id,
            job=job.model_copy(update={"ended_in": max(self._steps, default=0)}),
        )

    def _suspended(self, event: Suspended) -> None:
        self._base["status"] = "suspended"
        self._base["waits"] = event.waits

    def _error(self, event: ErrorEvent) -> None:
        self._base["error"] = event.model_copy(update={"private": None})

    def _cancelled(self, event: Cancelled) -> None:
        self._base["cancelled"] = event.model_copy(update={"private": None})

    def _message_completed(self, event: MessageCompleted) -> None:
        self._set_parts(event.content)
        self._base["finish_reason"] = event.finish_reason
        if event.usage is not None:
            self._base["usage"] = event.usage

    def _finalized(self, event: Finalized) -> None:
        self._base.update(status=event.status, duration=event.duration, waits=())
        if event.usage is not None:
            self._base["usage"] = event.usage


def _step_of(builder: _Builder) -> int:
    step: int = builder.fields["step"] if isinstance(builder, _CallBuilder) else builder.step
    return step


_FIRST_TOKENS = frozenset({*_TEXT_PARTS, "tool_call_delta", "tool_call"})
_HANDLERS: dict[str, Callable[[Folder, Any], None]] = {
    **dict.fromkeys(_TEXT_PARTS, Folder._text),
    "run_started": Folder._run_started,
    "run_resumed": Folder._run_resumed,
    "step_started": Folder._step_started,
    "step_finished": Folder._step_finished,
    "source": Folder._source,
    "file": Folder._file,
    "tool_call_delta": Folder._tool_call_delta,
    "tool_call": Folder._tool_call,
    "model_completed": Folder._model_completed,
    "step_reset": Folder._step_reset,
    "approval_requested": Folder._approval_requested,
    "approval_resolved": Folder._approval_resolved,
    "tool_started": Folder._tool_started,
    "tool_progress": Folder._tool_progress,
    "tool_result": Folder._tool_result,
    "job_result": Folder._job_result,
    "suspended": Folder._suspended,
    "error": Folder._error,
    "cancelled": Folder._cancelled,
    "message_completed": Folder._message_completed,
    "finalized": Folder._finalized,
}


def fold(events: Iterable[StreamEvent | StoredEvent], state: RunState | None = None) -> RunState:
    """Fold events, after those that ``state`` came from, into the run's state.

    ``fold(b, fold(a))`` equals ``fold(a + b)``. The order is taken as given: `streamchat.core.lifecycle`
    checks it.
    """
    folder = Folder(state)
    for event in events:
        folder.add(event)
    return folder.state
