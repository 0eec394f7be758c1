"""Short ways to write a log by hand: one function for each event that tests keep needing."""

from __future__ import annotations

from typing import Any

from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    Cancelled,
    ErrorEvent,
    JobResult,
    ModelCompleted,
    Outcome,
    RunResumed,
    RunStarted,
    StepFinished,
    StepReset,
    StepStarted,
    StreamEvent,
    Suspended,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    ToolProgress,
    ToolResult,
    ToolStarted,
    Wait,
)

STARTED = RunStarted(run_id="r")
RESUMED = RunResumed(reason="takeover")
ERROR = ErrorEvent(phase="model", code="timeout", message="It took too long.")
CANCELLED = Cancelled(by="u")


def step(number: int = 1) -> StepStarted:
    return StepStarted(step=number)


def finished(number: int = 1) -> StepFinished:
    return StepFinished(step=number)


def text(part: int = 0, words: str = "Hi", number: int = 1) -> TextDelta:
    return TextDelta(step=number, part=part, text=words)


def call_delta(call_id: str = "a", part: int = 1, arguments: str = "{", number: int = 1) -> ToolCallDelta:
    return ToolCallDelta(step=number, part=part, call_id=call_id, name="tool", arguments=arguments)


def call(call_id: str = "a", part: int = 1, number: int = 1, **fields: Any) -> ToolCallEvent:
    return ToolCallEvent(
        **{"step": number, "part": part, "call_id": call_id, "name": "tool", "arguments": {}, **fields}
    )


def completed(*call_ids: str, number: int = 1, **fields: Any) -> ModelCompleted:
    return ModelCompleted(step=number, call_ids=call_ids, **fields)


def reset(number: int = 1) -> StepReset:
    return StepReset(step=number, attempt=1, reason="provider")


def asked(call_id: str = "a", number: int = 1) -> ApprovalRequested:
    return ApprovalRequested(step=number, approval_id=f"ok-{call_id}", call_id=call_id)


def decided(approved: bool, call_id: str = "a", number: int = 1, **fields: Any) -> ApprovalResolved:
    return ApprovalResolved(
        step=number, approval_id=f"ok-{call_id}", call_id=call_id, approved=approved, **fields
    )


def begun(call_id: str = "a", number: int = 1, attempt: int = 1) -> ToolStarted:
    return ToolStarted(step=number, call_id=call_id, attempt=attempt, idempotency_key=f"r:{call_id}")


def progress(call_id: str = "a", number: int = 1) -> ToolProgress:
    return ToolProgress(step=number, call_id=call_id, fraction=0.5)


def result(call_id: str = "a", outcome: Outcome = "ok", number: int = 1, **fields: Any) -> ToolResult:
    if outcome == "deferred":
        fields["job_id"] = f"r:{call_id}"
    return ToolResult(step=number, call_id=call_id, outcome=outcome, **fields)


def job(call_id: str = "a", **fields: Any) -> JobResult:
    return JobResult(**{"job_id": f"r:{call_id}", "call_id": call_id, "outcome": "ok", **fields})


def suspended(kind: Any = "job", call_id: str = "a") -> Suspended:
    return Suspended(waits=(Wait(kind=kind, call_id=call_id),))


def with_job(call_id: str = "a", part: int = 0) -> list[StreamEvent]:
    """A log of one finished step whose call is a job that still runs."""
    return [
        STARTED,
        step(),
        call(call_id, part),
        completed(call_id),
        begun(call_id),
        result(call_id, "deferred"),
        finished(),
    ]


def with_call(*events: StreamEvent, **fields: Any) -> list[StreamEvent]:
    """A log in which step 1 has called ``a``, the model has completed, and ``events`` came after it."""
    return [STARTED, step(), call("a", **fields), completed("a"), *events]
