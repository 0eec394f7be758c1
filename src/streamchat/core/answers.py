"""Answers to what a run waits for: whose they are, which event uses one up, and which come too late.

A run waits for a person's decision (``approval``), for what a client's tool came to (``tool_result``) and for
background jobs (``job_result``). Whoever keeps the answers needs no more than this to know which of them the
log has taken in: an answer is used up by an event of its call, or it never will be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from streamchat.events import ApprovalResolved, JobResult, StreamEvent, ToolResult
from streamchat.messages import ToolCallPart

__all__ = ["Answer", "AnswerKind", "awaited", "may_be_used", "used_by"]

AnswerKind: TypeAlias = Literal["approval", "tool_result", "job_result"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody said to a wait of a run; there is one at most for each kind and call.

    ``body`` holds JSON values. An approval's: ``approved`` (bool), and where given ``reason`` (text) and
    ``arguments`` (the edited ones, an object). The others': ``output`` (any value), or ``error`` (text for
    the model). ``by`` is who said so. ``at`` is when, in milliseconds since the epoch by the same clock as
    ``expires_at``; None stands for the moment at which the run takes it.
    """

    kind: AnswerKind
    call_id: str
    body: Mapping[str, Any] = field(default_factory=dict)
    by: str | None = None
    at: int | None = None


def awaited(call: ToolCallPart) -> AnswerKind | None:
    """Return the kind of answer that a call of a step whose model has completed waits for; None for none."""
    if call.state == "approval":
        return "approval"
    if call.state == "deferred":
        return "job_result"
    if call.state == "called" and call.executed_by == "client" and call.problem is None:
        return "tool_result"
    return None


def may_be_used(kind: AnswerKind, call: ToolCallPart | None) -> bool:
    """Say whether an answer of that kind to this call is of use, now or later.

    A job may be over before the tool that began it has returned.
    """
    if call is None:
        return False
    return awaited(call) == kind or (kind == "job_result" and call.state == "running")


def used_by(event: StreamEvent) -> tuple[tuple[AnswerKind, str], ...]:
    """Return the answers, by kind and ``call_id``, that are of no use any more once this event is stored."""
    if isinstance(event, ApprovalResolved):
        return (("approval", event.call_id),)
    if isinstance(event, ToolResult) and event.outcome != "deferred":
        return (("approval", event.call_id), ("tool_result", event.call_id), ("job_result", event.call_id))
    if isinstance(event, JobResult):
        return (("job_result", event.call_id),)
    return ()
