"""The event types that a run's log consists of: each class is one row of the design's table.

All are frozen. ``private`` is stored beside an event and left out of every dump: what a provider wants back
on the next turn must not reach a client.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from streamchat.messages import ContentPart, Usage

__all__ = [
    "ApprovalRequested",
    "ApprovalResolved",
    "CallProblem",
    "Cancelled",
    "CustomEvent",
    "ErrorEvent",
    "ErrorPhase",
    "Event",
    "ExecutedBy",
    "FileEvent",
    "FinalStatus",
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
    "Suspended",
    "TextDelta",
    "ToolCallDelta",
    "ToolCallEvent",
    "ToolProgress",
    "ToolResult",
    "ToolStarted",
    "Wait",
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
    """First event of a holder that found more than ``run_started``; why it took the run over."""

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
    """A fragment that extends a call's arguments; only the ``tool_call`` that follows is the truth."""

    type: Literal["tool_call_delta"] = "tool_call_delta"
    step: int
    part: int
    call_id: str
    index: int = 0
    name: str | None = None
    arguments: str = ""


class ToolCallEvent(Event):
    """A complete tool call; ``arguments_text`` is the raw text where ``arguments`` could not be read."""

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
    reason: Literal["provider", "takeover", "guard"]
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
    """What a call came to, exactly one for each ``tool_call`` that stands. ``duration`` is seconds.

    ``job_id`` and ``expires_at`` (milliseconds since the epoch) are those of the job where ``outcome`` is
    ``deferred``, and ``output`` then is what the model is told meanwhile.
    """

    type: Literal["tool_result"] = "tool_result"
    step: int
    call_id: str
    outcome: Outcome
    output: Any = None
    error: str | None = None
    duration: float | None = None
    job_id: str | None = None
    expires_at: int | None = None


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
    """An attributed failure. ``message`` is safe for clients; ``correlation_id`` leads to the log."""

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
