"""The typed events that a run's log consists of, and their stored form.

Each class is one row of the table in the design: frozen, discriminated by ``type``. `parse_event` reads any of
them, ignores fields it does not know and keeps unknown types as `UnknownEvent`, so that an older reader survives a
newer writer. ``private`` is stored beside an event and left out of every dump: what a provider wants back on the
next turn must not reach a client.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import PydanticSerializationError

from streamchat.messages import ContentPart, Usage

__all__ = [
    "EVENT_TYPES",
    "TERMINAL",
    "ApprovalRequested",
    "ApprovalResolved",
    "Cancelled",
    "CustomEvent",
    "ErrorEvent",
    "ErrorPhase",
    "Event",
    "FileEvent",
    "Finalized",
    "FinishedPart",
    "JobOutcome",
    "JobResult",
    "MessageCompleted",
    "ModelCompleted",
    "Outcome",
    "ReasoningDelta",
    "RefusalDelta",
    "ResumeReason",
    "RunResumed",
    "RunStarted",
    "SourceEvent",
    "StatusEvent",
    "StepFinished",
    "StepReset",
    "StepStarted",
    "StoredEvent",
    "StreamEvent",
    "Suspended",
    "TextDelta",
    "ToolCallDelta",
    "ToolCallEvent",
    "ToolProgress",
    "ToolResult",
    "ToolStarted",
    "UnknownEvent",
    "Wait",
    "encode_event",
    "parse_event",
]

ResumeReason: TypeAlias = Literal[
    "takeover", "handover", "approval", "tool_result", "job", "cancel", "expired", "retry"
]
CallProblem: TypeAlias = Literal[
    "invalid_json", "truncated", "missing_name", "unknown_tool", "invalid_arguments"
]
Outcome: TypeAlias = Literal["ok", "error", "denied", "timeout", "cancelled", "unknown", "deferred"]
JobOutcome: TypeAlias = Literal["ok", "error", "timeout", "cancelled"]
ErrorPhase: TypeAlias = Literal["model", "tool", "buffer", "limit", "orchestration"]
FinalStatus: TypeAlias = Literal["success", "error", "cancelled"]
ExecutedBy: TypeAlias = Literal["server", "client", "provider"]


class Event(BaseModel):
    """What all events share: immutability, and private fields that no dump shows."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    private: dict[str, Any] | None = Field(default=None, exclude=True, repr=False)


class RunStarted(Event):
    """First of every log. In a service ``create`` writes it; a bare ``orchestrate()`` yields it."""

    type: Literal["run_started"] = "run_started"
    run_id: str
    conversation_id: str | None = None
    message_id: str | None = None
    parent_run_id: str | None = None
    model: str | None = None


class RunResumed(Event):
    """First event of a holder that found more than ``run_started``; only ``takeover`` counts for ``max_takeovers``."""

    type: Literal["run_resumed"] = "run_resumed"
    reason: ResumeReason
    worker: str | None = None


class StatusEvent(Event):
    """A word for people's eyes; the fold ignores it."""

    type: Literal["status"] = "status"
    step: int | None = None
    status: Literal["queued", "thinking", "tool_calling", "building", "waiting", "retrying"]
    detail: str | None = None


class StepStarted(Event):
    """A model call (or a workflow's node) begins; once per step, never again after a reset."""

    type: Literal["step_started"] = "step_started"
    step: int
    name: str | None = None
    kind: Literal["model", "workflow"] = "model"


class StepFinished(Event):
    """A step and its tools are done. ``duration`` and ``time_to_first_token`` are seconds."""

    type: Literal["step_finished"] = "step_finished"
    step: int
    name: str | None = None
    kind: Literal["model", "workflow"] = "model"
    duration: float | None = None
    time_to_first_token: float | None = None


class TextDelta(Event):
    """A piece of the answer's text."""

    type: Literal["text_delta"] = "text_delta"
    step: int
    part: int
    text: str


class ReasoningDelta(Event):
    """A piece of the model's visible reasoning."""

    type: Literal["reasoning_delta"] = "reasoning_delta"
    step: int
    part: int
    text: str


class RefusalDelta(Event):
    """A piece of a refusal."""

    type: Literal["refusal_delta"] = "refusal_delta"
    step: int
    part: int
    text: str


class SourceEvent(Event):
    """A citation."""

    type: Literal["source"] = "source"
    step: int
    part: int
    url: str | None = None
    title: str | None = None
    source_id: str | None = None
    data: dict[str, Any] | None = None


class FileEvent(Event):
    """A file that the model made."""

    type: Literal["file"] = "file"
    step: int
    part: int
    url: str | None = None
    media_type: str | None = None
    name: str | None = None
    data: dict[str, Any] | None = None


class ToolCallDelta(Event):
    """A fragment that purely extends a call's arguments; where text was replaced, the ``tool_call`` is the truth."""

    type: Literal["tool_call_delta"] = "tool_call_delta"
    step: int
    part: int
    call_id: str
    index: int = 0
    name: str | None = None
    arguments: str = ""


class ToolCallEvent(Event):
    """A complete tool call. With a ``problem``, ``arguments`` may be None and ``arguments_text`` is the raw text."""

    type: Literal["tool_call"] = "tool_call"
    step: int
    part: int
    call_id: str
    provider_call_id: str | None = None
    name: str
    arguments: dict[str, Any] | None = None
    arguments_text: str | None = None
    problem: CallProblem | None = None
    executed_by: ExecutedBy = "server"


class FinishedPart(BaseModel):
    """A content part that stands; ``text`` replaces what the deltas made, where that differs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    part: int
    text: str | None = None


class ModelCompleted(Event):
    """The model's share of the step stands; stored in one batch with, and after, the step's tool calls."""

    type: Literal["model_completed"] = "model_completed"
    step: int
    finish_reason: str | None = None
    parts: tuple[FinishedPart, ...] = ()
    call_ids: tuple[str, ...] = ()
    usage: Usage | None = None


class StepReset(Event):
    """Withdraws the step's parts and calls so far and frees their call ids; ``retry_in`` is seconds."""

    type: Literal["step_reset"] = "step_reset"
    step: int
    attempt: int
    reason: Literal["provider", "takeover"]
    retry_in: float | None = None


class ApprovalRequested(Event):
    """A person must decide on a call; ``expires_at`` is milliseconds since the epoch."""

    type: Literal["approval_requested"] = "approval_requested"
    step: int
    approval_id: str
    call_id: str
    name: str | None = None
    arguments: dict[str, Any] | None = None
    message: str | None = None
    expires_at: int | None = None


class ApprovalResolved(Event):
    """A person decided; ``arguments`` are the edited ones, if they were."""

    type: Literal["approval_resolved"] = "approval_resolved"
    step: int
    approval_id: str
    call_id: str
    approved: bool
    reason: str | None = None
    arguments: dict[str, Any] | None = None
    by: str | None = None


class ToolStarted(Event):
    """The claim of one attempt of one call: durable before the tool runs."""

    type: Literal["tool_started"] = "tool_started"
    step: int
    call_id: str
    attempt: int = 1
    idempotency_key: str


class ToolProgress(Event):
    """A long tool speaks while it works; ``fraction`` is 0 to 1."""

    type: Literal["tool_progress"] = "tool_progress"
    step: int
    call_id: str
    message: str | None = None
    fraction: float | None = None
    data: Any = None


class ToolResult(Event):
    """What a call came to: exactly one for each ``tool_call`` of a run that is over. ``duration`` is seconds."""

    type: Literal["tool_result"] = "tool_result"
    step: int
    call_id: str
    outcome: Outcome
    output: Any = None
    error: str | None = None
    duration: float | None = None
    job_id: str | None = None


class JobResult(Event):
    """What a deferred call came to."""

    type: Literal["job_result"] = "job_result"
    step: int | None = None
    job_id: str
    call_id: str
    outcome: JobOutcome
    output: Any = None
    error: str | None = None


class Wait(BaseModel):
    """What a suspended run needs before it goes on; ``expires_at`` is milliseconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["approval", "tool_result", "job"]
    call_id: str
    approval_id: str | None = None
    job_id: str | None = None
    expires_at: int | None = None


class Suspended(Event):
    """The run pauses and its lease is given up; not an end."""

    type: Literal["suspended"] = "suspended"
    waits: tuple[Wait, ...]


class CustomEvent(Event):
    """The application's own."""

    type: Literal["custom"] = "custom"
    step: int | None = None
    name: str
    data: Any = None


class ErrorEvent(Event):
    """An attributed failure. ``message`` is safe for clients; ``correlation_id`` leads to the server's log."""

    type: Literal["error"] = "error"
    step: int | None = None
    phase: ErrorPhase
    code: str
    message: str
    retryable: bool = False
    correlation_id: str | None = None


class Cancelled(Event):
    """Somebody stopped the run."""

    type: Literal["cancelled"] = "cancelled"
    by: str | None = None
    reason: str | None = None


class MessageCompleted(Event):
    """The assistant's whole message; on every ending, a partial one included."""

    type: Literal["message_completed"] = "message_completed"
    content: tuple[ContentPart, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None


class Finalized(Event):
    """Exactly once and last. ``duration`` is seconds since the run was created."""

    type: Literal["finalized"] = "finalized"
    status: FinalStatus
    usage: Usage | None = None
    duration: float | None = None


_Known: TypeAlias = (
    RunStarted
    | RunResumed
    | StatusEvent
    | StepStarted
    | StepFinished
    | TextDelta
    | ReasoningDelta
    | RefusalDelta
    | SourceEvent
    | FileEvent
    | ToolCallDelta
    | ToolCallEvent
    | ModelCompleted
    | StepReset
    | ApprovalRequested
    | ApprovalResolved
    | ToolStarted
    | ToolProgress
    | ToolResult
    | JobResult
    | Suspended
    | CustomEvent
    | ErrorEvent
    | Cancelled
    | MessageCompleted
    | Finalized
)

EVENT_TYPES: Mapping[str, type[Event]] = {cls.model_fields["type"].default: cls for cls in get_args(_Known)}
"""Every event class by its ``type``, in the order of the design's table."""

TERMINAL = "finalized"
"""The type of the event after which a log is over."""


class UnknownEvent(Event):
    """An event of a type that this version does not know, with all its fields."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str

    @model_validator(mode="after")
    def _refuse_known_types(self) -> UnknownEvent:
        # Without this, a malformed known event would pass as an unknown one.
        if self.type in EVENT_TYPES:
            raise ValueError(f"type {self.type!r} is known: use {EVENT_TYPES[self.type].__name__}")
        return self


StreamEvent: TypeAlias = Annotated[
    Annotated[_Known, Field(discriminator="type")] | UnknownEvent, Field(union_mode="left_to_right")
]
"""Any event: a union discriminated by ``type``."""

_KNOWN: TypeAdapter[_Known] = TypeAdapter(Annotated[_Known, Field(discriminator="type")])


def parse_event(data: bytes | str | Mapping[str, Any], private: bytes | str | None = None) -> StreamEvent:
    """Read one event from its JSON (or the mapping that this decodes to), and its private fields from theirs.

    Raises pydantic's ``ValidationError`` when a known type's fields do not fit, or there is no ``type``.
    """
    fields: Any = json.loads(data) if isinstance(data, bytes | str) else dict(data)
    if isinstance(fields, dict):
        # Only what was stored as private may come back as private.
        fields["private"] = None if private is None else json.loads(private)
        if fields.get("type") not in EVENT_TYPES:
            return UnknownEvent.model_validate(fields)
    return _KNOWN.validate_python(fields)


def encode_event(event: StreamEvent) -> tuple[bytes, bytes | None]:
    """Return the JSON of an event's public fields (``type`` among them, None left out) and that of its private ones.

    A lone surrogate in a text, which UTF-8 cannot carry, becomes U+FFFD.
    """
    try:
        data = event.__pydantic_serializer__.to_json(event, exclude_none=True)
    except PydanticSerializationError:
        data = _dump(event.model_dump(exclude_none=True))
    return data, None if event.private is None else _dump(event.private)


def _dump(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


class StoredEvent:
    """One entry of a run's log: an event with its place ``seq`` (1, 2, 3, …), time and generation.

    ``at`` is milliseconds since the epoch, ``generation`` the random token of the holder that wrote it; the id on the
    wire is ``generation.seq``. The event's public JSON is kept as ``data`` (bytes, without ``seq`` and ``at``), so
    that a reader who only passes bytes on never pays for decoding; ``event`` decodes on first use.
    """

    __slots__ = ("_event", "at", "data", "generation", "private", "seq", "type")

    def __init__(
        self,
        seq: int,
        at: int,
        event: StreamEvent | None = None,
        generation: str = "",
        *,
        type: str = "",  # noqa: A002 - the field's name on the wire
        data: bytes = b"",
        private: bytes | None = None,
    ) -> None:
        self.seq = seq
        self.at = at
        self.generation = generation
        self._event = event
        if event is not None and not data:
            data, private = encode_event(event)
        self.type = type or (event.type if event is not None else "")
        self.data = data
        self.private = private

    @property
    def event(self) -> StreamEvent:
        """The typed event, private fields included."""
        if self._event is None:
            self._event = parse_event(self.data, self.private)
        return self._event

    @property
    def id(self) -> str:
        """The id on the wire, ``generation.seq``: a cursor for whoever has read this far."""
        return f"{self.generation}.{self.seq}"

    def public_json(self) -> bytes:
        """Return what goes on the wire: the public fields, ``type``, ``seq`` and ``at`` as one JSON object."""
        return b'%b,"seq":%d,"at":%d}' % (self.data[:-1], self.seq, self.at)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredEvent):
            return NotImplemented
        return (self.seq, self.at, self.generation, self.data, self.private) == (
            other.seq,
            other.at,
            other.generation,
            other.data,
            other.private,
        )

    def __hash__(self) -> int:
        return hash((self.generation, self.seq))

    def __repr__(self) -> str:
        return f"StoredEvent({self.id}, at={self.at}, {self.data[:200]!r})"
