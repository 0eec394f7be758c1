"""Tool calls as UI message chunks: their input, what a person decided, their progress and what they came to.

A client ends its stream with an error when it is told of a call that it never saw, so each call is remembered
with what was told of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    JobResult,
    ToolCallDelta,
    ToolCallEvent,
    ToolProgress,
    ToolResult,
)
from streamchat.wire.vercel.chunks import Chunk, Target, without_none

__all__ = ["CallChunks", "error_text", "never_completed"]

_OUTCOMES = {
    "denied": "The call was denied.",
    "timeout": "The tool took too long.",
    "cancelled": "The call was cancelled.",
    "unknown": "Whether the tool has done its work is not known.",
}


def error_text(outcome: str, error: str | None) -> str:
    """What a page is told of a call that came to no output."""
    return error or _OUTCOMES.get(outcome, "The tool has failed.")


def never_completed(call_id: str, *, dynamic: bool) -> Chunk:
    """What ends a call of which a page was told fragments only."""
    told: Chunk = {"dynamic": True} if dynamic else {}
    text = "The call was never completed."
    return {"type": "tool-output-error", "toolCallId": call_id, "errorText": text, **told}


@dataclass(slots=True)
class _Call:
    """A call as the client knows it."""

    name: str = ""
    dynamic: bool = False
    provider: bool = False
    begun: bool = False
    asked: bool = False
    input: Any = None
    pending: str = ""
    """Arguments that came before the name did."""


class CallChunks:
    """The calls of one run; the options are those of `VercelEncoder`."""

    def __init__(
        self, target: Target, progress: Literal["output", "data"], dynamic: Collection[str] | bool
    ) -> None:
        self._target = target
        self._progress = progress
        self._dynamic = dynamic
        self._calls: dict[str, _Call] = {}

    def begun(self, call_id: str) -> bool:
        """Whether the client knows the call."""
        return self._call(call_id).begun

    def forget(self, call_ids: Iterable[str]) -> None:
        """Take calls back, so that their ids may be used again."""
        for call_id in call_ids:
            self._calls.pop(call_id, None)

    def _call(self, call_id: str) -> _Call:
        return self._calls.setdefault(call_id, _Call())

    def _of(self, kind: str, call_id: str, **fields: Any) -> Chunk:
        call = self._call(call_id)
        chunk = {"type": kind, "toolCallId": call_id, **fields}
        if call.dynamic:
            chunk["dynamic"] = True
        if call.provider:
            chunk["providerExecuted"] = True
        return chunk

    def _is_dynamic(self, name: str) -> bool:
        return self._dynamic if isinstance(self._dynamic, bool) else name in self._dynamic

    # The input.

    def fragment(self, event: ToolCallDelta) -> list[Chunk]:
        """A piece of the arguments."""
        call = self._call(event.call_id)
        text = call.pending + event.arguments
        call.pending = ""
        chunks: list[Chunk] = []
        if event.name and not call.begun:
            call.name, call.dynamic, call.begun = event.name, self._is_dynamic(event.name), True
            chunks.append(self._of("tool-input-start", event.call_id, toolName=call.name))
        if not call.begun:
            call.pending = text
        elif text:
            chunks.append({"type": "tool-input-delta", "toolCallId": event.call_id, "inputTextDelta": text})
        return chunks

    def complete(self, event: ToolCallEvent) -> Chunk:
        """The whole call; one that cannot be carried out is an error from the start."""
        call = self._call(event.call_id)
        if not call.begun:
            call.dynamic = self._is_dynamic(event.name) or event.problem == "unknown_tool"
        call.name, call.begun, call.provider = event.name, True, event.executed_by == "provider"
        if event.problem is None:
            return self._input(event.call_id, event.arguments or {})
        given = event.arguments if event.arguments is not None else event.arguments_text or ""
        text = f"The call cannot be carried out: {event.problem.replace('_', ' ')}."
        return self._of("tool-input-error", event.call_id, toolName=event.name, input=given, errorText=text)

    def incomplete(self, call_id: str) -> Chunk:
        """A call of which only fragments came."""
        return never_completed(call_id, dynamic=self._call(call_id).dynamic)

    def _input(self, call_id: str, arguments: Any) -> Chunk:
        call = self._call(call_id)
        call.input = arguments
        return self._of("tool-input-available", call_id, toolName=call.name, input=arguments)

    # What becomes of it.

    def asked(self, event: ApprovalRequested) -> list[Chunk]:
        """A person is to decide."""
        if not self.begun(event.call_id):
            return []
        self._call(event.call_id).asked = True
        if self._target == "v5":
            told = without_none(input=event.arguments, message=event.message, expiresAt=event.expires_at)
            return [self._approval_data(event, told)]
        chunk = {"type": "tool-approval-request", "approvalId": event.approval_id}
        return [{**chunk, "toolCallId": event.call_id}]

    def decided(self, event: ApprovalResolved) -> list[Chunk]:
        """A person has decided; edited arguments take the place of the model's."""
        if not self.begun(event.call_id):
            return []
        chunks: list[Chunk] = []
        told = without_none(approved=event.approved, reason=event.reason)
        if self._target == "v5":
            chunks.append(self._approval_data(event, told | without_none(input=event.arguments)))
        elif self._target == "v7" and self._call(event.call_id).asked:
            chunks.append({"type": "tool-approval-response", "approvalId": event.approval_id, **told})
        if event.arguments is not None:
            chunks.append(self._input(event.call_id, event.arguments))
        elif self._target == "v6" and event.approved:
            # It has no word for a decision: said again, the call no longer asks for one.
            chunks.append(self._input(event.call_id, self._call(event.call_id).input))
        return chunks

    def _approval_data(self, event: ApprovalRequested | ApprovalResolved, told: Chunk) -> Chunk:
        """What stands in for an approval where the protocol has none."""
        data = {
            "approvalId": event.approval_id,
            "toolCallId": event.call_id,
            "toolName": self._call(event.call_id).name,
            **told,
        }
        return {"type": "data-tool-approval", "id": event.approval_id, "data": data}

    def progress(self, event: ToolProgress) -> list[Chunk]:
        """A tool speaks while it works."""
        if not self.begun(event.call_id):
            return []
        told = without_none(message=event.message, fraction=event.fraction, data=event.data)
        if self._progress == "data":
            data = {"toolCallId": event.call_id, **told}
            return [{"type": "data-tool-progress", "id": f"progress-{event.call_id}", "data": data}]
        return [self._output(event.call_id, told, preliminary=True)]

    def result(self, event: ToolResult | JobResult) -> list[Chunk]:
        """What it came to, or what is known until its job is done."""
        if not self.begun(event.call_id):
            return []
        if event.outcome in ("ok", "deferred"):
            return [self._output(event.call_id, event.output, preliminary=event.outcome == "deferred")]
        if event.outcome == "denied" and self._call(event.call_id).asked and self._target != "v5":
            return [{"type": "tool-output-denied", "toolCallId": event.call_id}]
        text = error_text(event.outcome, event.error)
        return [self._of("tool-output-error", event.call_id, errorText=text)]

    def _output(self, call_id: str, output: Any, *, preliminary: bool) -> Chunk:
        chunk = self._of("tool-output-available", call_id, output=output)
        if preliminary:
            chunk["preliminary"] = True
        return chunk
