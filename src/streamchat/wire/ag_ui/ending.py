"""How an AG-UI run ends: outcomes, interrupts for what a person must decide, and failures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from streamchat.events import ErrorEvent, Wait
from streamchat.messages import ToolCallPart, Usage
from streamchat.wire.ag_ui.messages import NAMESPACE, Ids

__all__ = ["failure_of", "interrupts_of", "usage_of"]

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


def interrupts_of(waits: Iterable[Wait], calls: Mapping[str, ToolCallPart], ids: Ids) -> list[dict[str, Any]]:
    """Return an interrupt for each approval in ``waits``, whose id is the approval's."""
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


def usage_of(usage: Usage | None) -> dict[str, Any]:
    """Return the ``usage`` of an ending, to be spread; what is no count is left out."""
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


def failure_of(error: ErrorEvent | None) -> dict[str, Any]:
    """Return the fields of ``RUN_ERROR``; an error whose event was trimmed is told in general words."""
    if error is None:
        return {"message": "The answer could not be finished.", "code": "error"}
    about: dict[str, Any] = {"phase": error.phase, "retryable": error.retryable}
    if error.correlation_id is not None:
        about["correlationId"] = error.correlation_id
    return {"message": error.message, "code": error.code, "metadata": {NAMESPACE: about}}
