"""How an AG-UI run ends: outcomes, interrupts for what a person must decide, and failures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from streamchat.core.state import RunState
from streamchat.events import ErrorEvent, Wait
from streamchat.messages import ToolCallPart, Usage
from streamchat.wire.ag_ui.messages import NAMESPACE, Ids

__all__ = ["end_of", "outcome_of", "understood"]

_MOST = 2**53 - 1

_ANSWER: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "reason": {"type": "string", "description": "Told to the model when the call is not approved."},
        "editedArgs": {
            "type": "object",
            "description": "Full replacement of the tool's arguments. Not merged.",
        },
    },
    "required": ["approved"],
}


def outcome_of(waits: Iterable[Wait], state: RunState, ids: Ids) -> dict[str, Any] | None:
    """Return the outcome of a run that waits for people or for the page; None where for jobs alone."""
    waits = list(waits)
    interrupts = _interrupts(waits, {call.call_id: call for call in state.calls}, ids)
    if interrupts:
        return {"type": "interrupt", "interrupts": interrupts}
    pending = [ids.call(wait.call_id) for wait in waits if wait.kind == "tool_result"]
    return {"type": "success", "pendingToolCallIds": pending} if pending else None


def understood(outcome: Mapping[str, Any]) -> bool:
    """Say whether clients before 1.0 know an outcome: any other is an error to them."""
    return outcome["type"] != "cancelled" and "pendingToolCallIds" not in outcome


def end_of(state: RunState) -> dict[str, Any]:
    """Return what tells the end of a run that is over: ``RUN_FINISHED`` without its ids, or ``RUN_ERROR``."""
    usage = _usage(state.usage)
    if state.status == "error":
        return {"type": "RUN_ERROR", **_failure(state.error), **usage}
    if state.status == "cancelled":
        return {"type": "RUN_FINISHED", "outcome": {"type": "cancelled"}, **usage}
    about = {"metadata": {NAMESPACE: {"finishReason": state.finish_reason}}} if state.finish_reason else {}
    return {"type": "RUN_FINISHED", "outcome": {"type": "success"}, **about, **usage}


def _interrupts(waits: Iterable[Wait], calls: Mapping[str, ToolCallPart], ids: Ids) -> list[dict[str, Any]]:
    """An interrupt for each approval, whose id is the approval's."""
    found: list[dict[str, Any]] = []
    for wait in waits:
        if wait.kind != "approval":
            continue
        call = calls.get(wait.call_id)
        approval = call.approval if call is not None else None
        interrupt: dict[str, Any] = {
            "id": wait.approval_id or wait.call_id,
            "reason": "tool_call",
            "toolCallId": ids.call(wait.call_id),
            "responseSchema": _ANSWER,
        }
        if approval is not None and approval.message:
            interrupt["message"] = approval.message
        expires_at = wait.expires_at or (approval.expires_at if approval is not None else None)
        when = _date(expires_at)
        if when is not None:
            interrupt["expiresAt"] = when
        found.append(interrupt)
    return found


def _date(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None  # beyond the calendar: as good as never
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _usage(usage: Usage | None) -> dict[str, Any]:
    """The ``usage`` of an ending, to be spread; what is no count is left out."""
    if usage is None:
        return {}
    counts = {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens,
        "reasoningTokens": usage.reasoning_tokens,
        "cachedInputTokens": usage.cached_input_tokens,
    }
    entry: dict[str, Any] = {name: count for name, count in counts.items() if 0 <= count <= _MOST}
    if usage.provider is not None:
        entry["provider"] = usage.provider
    if usage.model is not None:
        entry["model"] = usage.model
    return {"usage": [entry]}


def _failure(error: ErrorEvent | None) -> dict[str, Any]:
    """The fields of ``RUN_ERROR``; an error whose event was trimmed is told in general words."""
    if error is None:
        return {"message": "The answer could not be finished.", "code": "error"}
    about: dict[str, Any] = {"phase": error.phase, "retryable": error.retryable}
    if error.correlation_id is not None:
        about["correlationId"] = error.correlation_id
    return {"message": error.message, "code": error.code, "metadata": {NAMESPACE: about}}
