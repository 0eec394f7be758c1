"""From a run's events to UI message chunks: a walk that remembers what a client has been told.

One encoder walks one run, from its first event; it does no I/O and knows no clock. What it must remember is
what the protocol asks of it: which parts, which step and which calls are open.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar, Literal, cast

from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    Cancelled,
    CustomEvent,
    ErrorEvent,
    FileEvent,
    Finalized,
    JobResult,
    MessageCompleted,
    ModelCompleted,
    ReasoningDelta,
    RefusalDelta,
    RunStarted,
    SourceEvent,
    StatusEvent,
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
)
from streamchat.wire.compact import Said, StepContent
from streamchat.wire.vercel.calls import CallChunks
from streamchat.wire.vercel.chunks import (
    Chunk,
    Target,
    as_target,
    error_metadata,
    file_chunk,
    finish_reason,
    source_chunk,
    usage_metadata,
    without_none,
)

__all__ = ["VercelEncoder"]


_FAILED = "The answer could not be finished."
_CUT = "The connection ends before the answer does. Resume to go on."


class VercelEncoder:
    """Encodes one run for ``target``; feed it the run's events in order, each once.

    ``progress`` says how a tool's progress is told: as preliminary ``output``, which the tool's result
    replaces, or as ``data`` (``data-tool-progress``, under the call's id). ``dynamic`` names the tools that
    the page does not know beforehand (True: all of them); they become ``dynamic-tool`` parts. ``hold_steps``
    keeps a step back until the model has completed it, so that no client ever sees what is withdrawn.

    After `done` nothing more is written: the run is over, or it waits for this client's answer, or the client
    would have to take back what it cannot. Then the response ends, and a later one replays.
    """

    BEGUN_ANEW: ClassVar[str] = (
        "This part of the answer was withdrawn and is being written anew. Resume to see it."
    )
    """What a client is told that cannot take back what it was shown."""

    def __init__(
        self,
        target: Target = "v6",
        *,
        progress: Literal["output", "data"] = "output",
        dynamic: Collection[str] | bool = (),
        hold_steps: bool = False,
    ) -> None:
        self.target: Target = as_target(target)
        self.done = False
        self.suspended = False
        """Whether the run is suspended at this place."""
        self.answerable = False
        """Whether it waits for something that this client may bring: a decision, or a tool's result."""
        self.message_id: str | None = None
        self.begun = False
        """Whether the client was told anything."""
        self._hold_steps = hold_steps
        self._step_open = False
        self._open: dict[int, str] = {}
        self._calls = CallChunks(self.target, progress, dynamic)
        self._content = StepContent()
        self._held: list[StreamEvent] | None = None
        self._finish_reason: str | None = None
        self._error: ErrorEvent | None = None
        self._cancelled: Cancelled | None = None
        self._times: Chunk = {}

    # What callers use.

    def encode(self, event: StreamEvent | StoredEvent) -> list[Chunk]:
        """Return the chunks that an event adds."""
        if self.done:
            return []
        if isinstance(event, StoredEvent):
            self.note_time(event)
            event = event.event
        self.suspended = False
        if self._held is not None and event.type in _HELD_BACK:
            self._held.append(event)
            return []
        handler = _HANDLERS.get(event.type)
        chunks: list[Chunk] = handler(self, event) if handler is not None else []
        if chunks:
            self.begun = True
        return chunks

    def prime(self, events: Iterable[StreamEvent | StoredEvent]) -> None:
        """Take events that the client has already from an earlier response, which went on to the last."""
        for event in events:
            self.encode(event)

    @property
    def in_part(self) -> bool:
        """Whether a text or reasoning was begun that may go on."""
        return bool(self._open)

    def resume(self, *, after_end: bool, in_part: bool = False) -> list[Chunk]:
        """Begin a further response about the same message; ``after_end`` says that the earlier one was ended
        by `close`, ``in_part`` that this one has begun again what is open here."""
        self.begun = True
        if not after_end:
            return []
        self._release()
        left = dict(self._open) if in_part else {}
        self.close()
        self._open = left
        self.done = self.suspended = self.answerable = False
        return [without_none(type="start", messageId=self.message_id)]

    def close(self) -> list[Chunk]:
        """Return what ends the response here, whether the run is over or not."""
        if self.done:
            return []
        chunks = self._close_step()
        self.done = True
        if self.suspended:
            chunks.append(self._finish("tool_calls", {"status": "suspended"}))
        else:
            told = self._error.message or _FAILED if self._error is not None else _CUT
            chunks.append({"type": "error", "errorText": told})
        return chunks

    def note_time(self, stored: StoredEvent) -> None:
        """Take the time of an event, for the message's metadata; `encode` does so by itself."""
        if stored.type == "run_started":
            self._times["startedAt"] = stored.at
        elif stored.type == "finalized":
            self._times["endedAt"] = stored.at
        elif stored.type in _FIRST_TOKENS:
            self._times.setdefault("firstTokenAt", stored.at)

    # The run and its steps.

    def _run_started(self, event: RunStarted) -> list[Chunk]:
        self.message_id = event.message_id
        metadata = without_none(
            runId=event.run_id,
            conversationId=event.conversation_id,
            parentRunId=event.parent_run_id,
            model=event.model,
            startedAt=self._times.get("startedAt"),
        )
        return [without_none(type="start", messageId=event.message_id, messageMetadata=metadata)]

    def _status(self, event: StatusEvent) -> list[Chunk]:
        data = without_none(status=event.status, detail=event.detail, step=event.step)
        return [{"type": "data-run-status", "data": data, "transient": True}]

    def _step_started(self, event: StepStarted) -> list[Chunk]:
        chunks = self._close_step()
        self._step_open = True
        self._content = StepContent()
        if self._hold_steps:
            self._held = []
        return [*chunks, {"type": "start-step"}]

    def _step_finished(self, event: StepFinished) -> list[Chunk]:
        return self._close_step()

    def _close_step(self) -> list[Chunk]:
        chunks = [*self._release(), *self._close_parts()]
        if self._step_open:
            self._step_open = False
            chunks.append({"type": "finish-step"})
        return chunks

    def _release(self) -> list[Chunk]:
        """Tell what was held back."""
        held, self._held = self._held, None
        return [chunk for event in held or () for chunk in self.encode(event)]

    def _close_parts(self) -> list[Chunk]:
        return [{"type": f"{self._open.pop(part)}-end", "id": str(part)} for part in list(self._open)]

    # What the model says.

    def _delta(self, event: TextDelta | ReasoningDelta | RefusalDelta) -> list[Chunk]:
        kind = "reasoning" if event.type == "reasoning_delta" else "text"
        self._content.add(event)
        chunks: list[Chunk] = []
        if event.part not in self._open:
            chunks = self._close_parts()
            self._open[event.part] = kind
            chunks.append({"type": f"{kind}-start", "id": str(event.part)})
        if event.text:
            chunks.append({"type": f"{kind}-delta", "id": str(event.part), "delta": event.text})
        return chunks

    def _source(self, event: SourceEvent) -> list[Chunk]:
        self._content.add(event)
        return [source_chunk(event)]

    def _file(self, event: FileEvent) -> list[Chunk]:
        self._content.add(event)
        return [file_chunk(event)]

    def _custom(self, event: CustomEvent) -> list[Chunk]:
        self._content.add(event)
        return [{"type": f"data-{event.name}", "data": event.data}]

    def _call_delta(self, event: ToolCallDelta) -> list[Chunk]:
        self._content.add(event)
        return [*self._close_parts(), *self._calls.fragment(event)]

    def _tool_call(self, event: ToolCallEvent) -> list[Chunk]:
        self._content.add(event)
        return [*self._close_parts(), self._calls.complete(event)]

    def _model_completed(self, event: ModelCompleted) -> list[Chunk]:
        self._finish_reason = event.finish_reason
        held, self._held = self._held, None
        for each in held or ():
            self._content.add(cast(Said, each))
        added, changed = self._content.complete(event)
        if held is not None:
            return [*self._say_again(), *self._close_parts()]
        if changed or any(part.part not in self._open for part in added):
            return [*self._withdraw(), *self._say_again(), *self._close_parts()]
        chunks: list[Chunk] = []
        for part in added:
            kind, text = self._open[part.part], part.text or ""
            chunks.append({"type": f"{kind}-delta", "id": str(part.part), "delta": text})
        return [*chunks, *self._close_parts(), *self._settle()]

    def _settle(self) -> list[Chunk]:
        """End calls of which only fragments came: they are not in the message."""
        left = [call_id for call_id in self._content.unfinished if self._calls.begun(call_id)]
        if not left:
            return []
        if self.target == "v7":
            return [*self._withdraw(), *self._say_again(), *self._close_parts()]
        return [self._calls.incomplete(call_id) for call_id in left]

    def _say_again(self) -> list[Chunk]:
        """Tell what stands of the step, in as few chunks as there are parts."""
        if self.done:
            return []
        content, self._content = self._content, StepContent()
        events = content.events(unfinished=False)
        return [chunk for event in events for chunk in _HANDLERS[event.type](self, event)]

    def _step_reset(self, event: StepReset) -> list[Chunk]:
        chunks: list[Chunk] = []
        customs = self._content.customs
        if self._held is not None:
            self._held = [each for each in self._held if isinstance(each, CustomEvent)]
        else:
            chunks = self._withdraw()
        if self.done:
            return chunks
        self._content = StepContent()
        if not chunks:
            for custom in customs:
                self._content.add(custom)
            return []
        # What the application said itself is not the model's to take back.
        return [*chunks, *(chunk for custom in customs for chunk in self._custom(custom))]

    def _withdraw(self) -> list[Chunk]:
        """Take back what was told of the step, or end the response where the client cannot."""
        self._calls.forget(self._content.calls)
        if not self._content.shown:
            return []
        if self.target == "v7":
            self._open.clear()
            return [{"type": "reset-step"}]
        chunks = self._close_step()
        self.done = True
        return [*chunks, {"type": "error", "errorText": self.BEGUN_ANEW}]

    # What becomes of calls.

    def _approval_requested(self, event: ApprovalRequested) -> list[Chunk]:
        return self._calls.asked(event)

    def _approval_resolved(self, event: ApprovalResolved) -> list[Chunk]:
        return self._calls.decided(event)

    def _tool_progress(self, event: ToolProgress) -> list[Chunk]:
        return self._calls.progress(event)

    def _tool_result(self, event: ToolResult | JobResult) -> list[Chunk]:
        return self._calls.result(event)

    # Pauses and ends.

    def _suspended(self, event: Suspended) -> list[Chunk]:
        self.suspended = True
        self.answerable = any(wait.kind != "job" for wait in event.waits)
        return self._close_parts()

    def _note_error(self, event: ErrorEvent) -> list[Chunk]:
        self._error = event
        return []

    def _note_cancelled(self, event: Cancelled) -> list[Chunk]:
        self._cancelled = event
        return []

    def _message_completed(self, event: MessageCompleted) -> list[Chunk]:
        self._finish_reason = event.finish_reason or self._finish_reason
        return []

    def _finalized(self, event: Finalized) -> list[Chunk]:
        chunks = [*self._release(), *self._close_parts(), *self._settle(), *self._close_step()]
        self.done = True
        metadata = without_none(
            status=event.status,
            usage=usage_metadata(event.usage),
            duration=event.duration,
            **self._times,
            error=error_metadata(self._error) if event.status == "error" else None,
        )
        if event.status == "success":
            return [*chunks, self._finish(self._finish_reason, metadata)]
        chunks.append({"type": "message-metadata", "messageMetadata": metadata})
        if event.status == "cancelled":
            reason = self._cancelled.reason if self._cancelled and self.target != "v5" else None
            return [*chunks, without_none(type="abort", reason=reason)]
        told = self._error.message if self._error is not None else ""
        return [*chunks, {"type": "error", "errorText": told or _FAILED}]

    def _finish(self, reason: str | None, metadata: Chunk) -> Chunk:
        told = finish_reason(reason)
        if self.target == "v5":
            # The first versions of this target refuse the field.
            return {"type": "finish", "messageMetadata": {**metadata, "finishReason": told}}
        return {"type": "finish", "finishReason": told, "messageMetadata": metadata}


_CONTENT = ("text_delta", "reasoning_delta", "refusal_delta", "source", "file", "tool_call")
_FIRST_TOKENS = frozenset({"text_delta", "reasoning_delta", "refusal_delta", "tool_call_delta", "tool_call"})
_HELD_BACK = frozenset({*_CONTENT, "tool_call_delta", "custom"})
_HANDLERS: dict[str, Callable[[VercelEncoder, Any], list[Chunk]]] = {
    **dict.fromkeys(("text_delta", "reasoning_delta", "refusal_delta"), VercelEncoder._delta),
    "run_started": VercelEncoder._run_started,
    "status": VercelEncoder._status,
    "step_started": VercelEncoder._step_started,
    "step_finished": VercelEncoder._step_finished,
    "source": VercelEncoder._source,
    "file": VercelEncoder._file,
    "custom": VercelEncoder._custom,
    "tool_call_delta": VercelEncoder._call_delta,
    "tool_call": VercelEncoder._tool_call,
    "model_completed": VercelEncoder._model_completed,
    "step_reset": VercelEncoder._step_reset,
    "approval_requested": VercelEncoder._approval_requested,
    "approval_resolved": VercelEncoder._approval_resolved,
    "tool_progress": VercelEncoder._tool_progress,
    "tool_result": VercelEncoder._tool_result,
    "job_result": VercelEncoder._tool_result,
    "suspended": VercelEncoder._suspended,
    "error": VercelEncoder._note_error,
    "cancelled": VercelEncoder._note_cancelled,
    "message_completed": VercelEncoder._message_completed,
    "finalized": VercelEncoder._finalized,
}
