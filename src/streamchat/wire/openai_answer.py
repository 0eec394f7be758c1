"""What of a run's log is said to a Chat Completions client: deltas, and how the answer ends.

A chat completion is one message that only grows. Text, reasoning and refusals of all steps come in a row,
sources become annotations; tools that the server runs are not shown. Calls of the client's own tools end the
answer (``finish_reason`` ``tool_calls``), whole and only once the run waits for them: before that they may be
withdrawn, edited or refused. What was said cannot be taken back: where the log
withdraws or rewrites it, the answer ends with an error, and the run goes on; or, with ``hold_steps``, each
step is said only once it stands. Files have no place in this protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamchat.core.jsontext import decode_json, encode_json
from streamchat.core.state import RunState
from streamchat.events import (
    ApprovalResolved,
    Cancelled,
    ErrorEvent,
    Finalized,
    MessageCompleted,
    ModelCompleted,
    SourceEvent,
    StepReset,
    StoredEvent,
    StreamEvent,
    Suspended,
    ToolCallEvent,
    ToolResult,
)
from streamchat.messages import ReasoningPart, RefusalPart, SourcePart, TextPart, ToolCallPart, Usage

__all__ = ["SEPARATOR", "Answer", "Failure", "Said", "call_id_of", "joined", "wire_call_id"]

SEPARATOR = "\n\n"
"""What stands between the texts of two steps, which were said with tools running in between."""

_FINISH = frozenset({"stop", "length", "content_filter"})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an answer ends without a finish: a sentence for the client, the protocol's ``type``, a ``code``."""

    message: str
    code: str
    type: str = "server_error"


@dataclass(frozen=True, slots=True)
class Said:
    """The fields of the protocol's ``delta`` that carry what is new."""

    fields: Mapping[str, Any]


def wire_call_id(run_id: str, call_id: str) -> str:
    """Return the id under which a client knows a call: with the run's, so that its answer finds the run."""
    return f"{run_id}:{call_id}"


def call_id_of(wire_id: str) -> tuple[str, str] | None:
    """Return the run's id and the call's; None for what `wire_call_id` never made."""
    run_id, colon, call_id = wire_id.partition(":")
    return (run_id, call_id) if run_id and colon and call_id else None


@dataclass(slots=True)
class _Kind:
    """One kind of text in the present step: what came, by part, and what of it was said."""

    parts: dict[int, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    newest: int = -1
    held: bool = False


class Answer:
    """Takes a run's events, of one response, and returns what each says; pure.

    ``client_tools`` holds the names of the tools that this client carries out. ``behind`` says that the
    response begins in the middle of the run. ``reasoning_field`` is where
    reasoning goes, as no field of the protocol is meant for it (None: nowhere). Once ``finish_reason`` or
    ``failure`` is set the answer has ended, whatever follows. ``usage`` sums up the model calls of this
    response.
    """

    def __init__(
        self,
        run_id: str,
        *,
        client_tools: Container[str] = (),
        hold_steps: bool = False,
        reasoning_field: str | None = "reasoning_content",
        separator: str = SEPARATOR,
        behind: bool = False,
    ) -> None:
        self.run_id = run_id
        self.finish_reason: str | None = None
        self.failure: Failure | None = None
        self.usage = Usage()
        self._client_tools = client_tools
        self._hold_steps = hold_steps
        self._separator = separator
        self._behind = behind
        self._fields = {"text_delta": "content", "refusal_delta": "refusal"}
        if reasoning_field is not None:
            self._fields["reasoning_delta"] = reasoning_field
        self._lengths: dict[str, int] = {}
        self._calls: dict[str, ToolCallEvent] = {}
        self._annotations = 0
        self._finish_reason: str | None = None
        self._begin_step()

    def _begin_step(self) -> None:
        self._step: dict[str, _Kind] = {}
        self._said_in_step = False
        self._held_sources: list[SourceEvent] = []

    @property
    def ended(self) -> bool:
        """Whether nothing more is said."""
        return self.finish_reason is not None or self.failure is not None

    def add(self, event: StoredEvent | StreamEvent) -> list[Said]:
        """Take the next event."""
        if self.ended:
            return []
        name = self._fields.get(event.type)
        if name is not None:
            if not isinstance(event, StoredEvent):
                return self._text(name, event.part, event.text)  # type: ignore[union-attr]
            # Nearly all events are these: making the class of each would cost the most.
            fields = decode_json(event.data)
            return self._text(name, fields["part"], fields["text"])
        handler = _HANDLERS.get(event.type)
        if handler is None:
            return []
        return handler(self, event.event if isinstance(event, StoredEvent) else event)

    def restart(self, state: RunState) -> list[Said]:
        """Take a snapshot in place of the events up to it: of use only where nothing was said before."""
        if self.ended:
            return []
        if self._lengths or self._annotations or self._behind:
            return self._fail(
                "What was said so far has been lost by the server; ask for the run anew.", "history_reset"
            )
        said: list[Said] = []
        step = -1
        for part in state.parts:
            if part.step != step:
                said += self._settle({})
                step = part.step
                self._begin_step()
            if isinstance(part, ToolCallPart):
                if part.state == "called":
                    self._tool_call(_call_event(part))
            elif isinstance(part, SourcePart):
                said += self._source(SourceEvent(**part.model_dump(exclude={"type"})))
            elif isinstance(part, TextPart | ReasoningPart | RefusalPart):
                name = self._fields.get(f"{part.type}_delta")
                said += self._text(name, part.part, part.text) if name is not None else []
        if state.over or step not in {each.step for each in state.steps if not each.model_completed}:
            said += self._settle({})
            self._begin_step()
        if state.usage is not None:
            self.usage = state.usage
        self._finish_reason = state.finish_reason
        if state.error is not None:
            return said + self._error(state.error)
        if state.cancelled is not None:
            return said + self._cancelled(state.cancelled)
        if state.over:
            self._finish(state.finish_reason)
        elif state.status == "suspended":
            said += self._suspended(Suspended(waits=state.waits))
        return said

    # What is said.

    def _text(self, name: str, part: int, text: str) -> list[Said]:
        kind = self._step.get(name)
        if kind is None:
            kind = self._step[name] = _Kind(held=self._hold_steps)
        pieces = kind.parts.get(part)
        if pieces is None:
            pieces = kind.parts[part] = []
        pieces.append(text)
        if part > kind.newest:
            kind.newest = part
        elif part < kind.newest:
            kind.held = True  # it belongs in front of what was said: whether it can be said shows at the end
        return [] if kind.held else self._say(name, kind, text)

    def _say(self, name: str, kind: _Kind, text: str) -> list[Said]:
        if not text:
            return []
        before = self._lengths.get(name, 0)
        gap = self._separator if before and not kind.said else ""
        kind.said.append(text)
        self._lengths[name] = before + len(gap) + len(text)
        self._said_in_step = True
        return [Said({name: gap + text})]

    def _source(self, event: SourceEvent) -> list[Said]:
        if event.url is None:
            return []
        if self._hold_steps:
            self._held_sources.append(event)
            return []
        return self._cite(event)

    def _cite(self, event: SourceEvent) -> list[Said]:
        length = self._lengths.get("content", 0)
        text = self._step.get("content")
        if text is not None and text.said:
            base = length - sum(map(len, text.said))
        else:
            base = length + (len(self._separator) if length else 0)
        start, end = _span(event.data)
        citation = {
            "url": event.url,
            "title": event.title or event.url,
            "start_index": length if start is None else base + start,
            "end_index": length if end is None else base + end,
        }
        self._annotations += 1
        self._said_in_step = True
        return [Said({"annotations": [{"type": "url_citation", "url_citation": citation}]})]

    def _settle(self, replaced: Mapping[int, str]) -> list[Said]:
        """Say what of the step was held back, now that it stands; fail where that does not go on from what
        was said."""
        said: list[Said] = []
        for name in self._fields.values():
            kind = self._step.get(name)
            if kind is None:
                continue
            whole = "".join(
                replaced[part] if part in replaced else "".join(kind.parts[part])
                for part in sorted(kind.parts)
            )
            so_far = "".join(kind.said)
            if not whole.startswith(so_far):
                return said + self._fail(
                    "The model has replaced what it had said; the answer goes on, but not on this "
                    "connection.",
                    "content_replaced",
                )
            said += self._say(name, kind, whole[len(so_far) :])
        for source in self._held_sources:
            said += self._cite(source)
        return said

    # What else the log tells.

    def _step_started(self, event: StreamEvent) -> list[Said]:
        self._begin_step()
        return []

    def _model_completed(self, event: ModelCompleted) -> list[Said]:
        if event.usage is not None:
            self.usage = self.usage + event.usage
        said = self._settle({part.part: part.text for part in event.parts if part.text is not None})
        self._begin_step()
        return said

    def _step_reset(self, event: StepReset) -> list[Said]:
        self._calls = {name: call for name, call in self._calls.items() if call.step != event.step}
        if self._said_in_step:
            return self._fail(
                "The model broke off and begins this part anew; the answer goes on, but not on this "
                "connection.",
                "step_reset",
            )
        self._begin_step()
        return []

    def _tool_call(self, event: ToolCallEvent) -> list[Said]:
        if event.executed_by == "client" and event.problem is None and event.name in self._client_tools:
            self._calls[event.call_id] = event
        return []

    def _approval_resolved(self, event: ApprovalResolved) -> list[Said]:
        call = self._calls.get(event.call_id)
        if call is not None and event.arguments is not None:
            self._calls[event.call_id] = call.model_copy(update={"arguments": event.arguments})
        return []

    def _tool_result(self, event: ToolResult) -> list[Said]:
        self._calls.pop(event.call_id, None)
        return []

    def _suspended(self, event: Suspended) -> list[Said]:
        waiting = [
            self._calls[wait.call_id]
            for wait in event.waits
            if wait.kind == "tool_result" and wait.call_id in self._calls
        ]
        if not waiting:
            return []  # somebody else has to answer first
        self.finish_reason = "tool_calls"
        return [Said({"tool_calls": [self._wire_call(*numbered) for numbered in enumerate(waiting)]})]

    def _wire_call(self, index: int, call: ToolCallEvent) -> dict[str, Any]:
        arguments = encode_json(call.arguments if call.arguments is not None else {})
        return {
            "index": index,
            "id": wire_call_id(self.run_id, call.call_id),
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }

    # The endings.

    def _error(self, event: ErrorEvent) -> list[Said]:
        return self._fail(event.message, event.code)

    def _cancelled(self, event: Cancelled) -> list[Said]:
        return self._fail("The answer was cancelled.", "run_cancelled", "cancelled")

    def _message_completed(self, event: MessageCompleted) -> list[Said]:
        self._finish(event.finish_reason)
        return []

    def _finalized(self, event: Finalized) -> list[Said]:
        # Only where the beginning of the ending stood in a snapshot.
        if event.status == "success":
            self._finish(self._finish_reason)
        else:
            self._fail("The answer could not be finished.", event.status)
        return []

    def _finish(self, reason: str | None) -> None:
        self.finish_reason = reason if reason in _FINISH else "stop"

    def fail(self, failure: Failure) -> None:
        """End the answer from outside: the connection ends before the run does."""
        if not self.ended:
            self.failure = failure

    def _fail(self, message: str, code: str, type: str = "server_error") -> list[Said]:
        self.failure = Failure(message, code, type)
        return []


_HANDLERS: dict[str, Callable[[Answer, Any], list[Said]]] = {
    "source": Answer._source,
    "step_started": Answer._step_started,
    "tool_call": Answer._tool_call,
    "model_completed": Answer._model_completed,
    "step_reset": Answer._step_reset,
    "approval_resolved": Answer._approval_resolved,
    "tool_result": Answer._tool_result,
    "suspended": Answer._suspended,
    "error": Answer._error,
    "cancelled": Answer._cancelled,
    "message_completed": Answer._message_completed,
    "finalized": Answer._finalized,
}


def _call_event(part: ToolCallPart) -> ToolCallEvent:
    return ToolCallEvent(
        step=part.step,
        part=part.part,
        call_id=part.call_id,
        name=part.name,
        arguments=part.arguments,
        problem="invalid_json" if part.problem is not None else None,
        executed_by=part.executed_by,
    )


def _span(data: Mapping[str, Any] | None) -> tuple[int | None, int | None]:
    """Return where in its step's text a provider says that a source is cited."""
    nested = (data or {}).get("url_citation")
    told: Mapping[str, Any] = nested if isinstance(nested, Mapping) else (data or {})
    start, end = told.get("start_index"), told.get("end_index")
    if isinstance(start, int) and isinstance(end, int) and 0 <= start <= end:
        return start, end
    return None, None


def joined(said: Iterable[Said]) -> dict[str, Any]:
    """Return the fields of all, put together: text in a row, lists one behind the other."""
    out: dict[str, Any] = {}
    texts: dict[str, list[str]] = {}
    for each in said:
        for name, value in each.fields.items():
            if isinstance(value, str):
                texts.setdefault(name, []).append(value)
            else:
                out.setdefault(name, []).extend(value)
    return {**{name: "".join(pieces) for name, pieces in texts.items()}, **out}
