"""What a page lacks of an answer, judged by its own copy of it: the events that follow on what it shows.

A page whose connection broke off may send its half of a message by itself: old versions (5.0.60) do so at
once, and for ever, while ``sendAutomaticallyWhen`` holds. A copy says how far it goes by its last step, where
that has a call that is complete: all that the model said in the step was told before. What comes again is
only what a client puts in the place of what it has (calls, decisions, results); text, sources, files and data
come once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from streamchat.core.fold import fold
from streamchat.events import (
    ApprovalRequested,
    CustomEvent,
    FileEvent,
    Finalized,
    JobResult,
    ModelCompleted,
    ReasoningDelta,
    RefusalDelta,
    SourceEvent,
    StepReset,
    StepStarted,
    StoredEvent,
    StreamEvent,
    Suspended,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    ToolResult,
)
from streamchat.wire.compact import compact, events_of
from streamchat.wire.vercel import Chunk, VercelEncoder
from streamchat.wire.vercel.calls import error_text, never_completed

__all__ = ["Place", "place_of", "rest_of"]

_Part: TypeAlias = Mapping[str, Any]
_ENDS = ("finish", "abort", "error", "message-metadata")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page stands in a log made short: ``had`` are the events that it was told, ``rest`` those that
    it lacks, among which some of ``had`` may be that its copy does not show. ``first`` ends the calls that
    it waits for in vain, because the log has fragments of them only."""

    had: Sequence[StreamEvent]
    rest: Sequence[StreamEvent]
    first: Sequence[Chunk] = ()


def place_of(known: Sequence[StreamEvent | StoredEvent], parts: Sequence[_Part]) -> Place | None:
    """Return where a page stands that shows these ``parts``; ``known`` is the log from its first event.

    None where that cannot be said: its last step has no call that is complete, or shows another text than the
    log has. A pause at the very end of the log is in neither part.
    """
    copy = _Copy(parts)
    step = copy.step(known)
    log = compact(known)
    return None if step is None else _place(log, step, copy)


def rest_of(
    known: Sequence[StoredEvent], parts: Sequence[_Part], encoder: VercelEncoder, message_id: str
) -> list[Chunk] | None:
    """Return a response with what a page lacks of the answer ``message_id``, whose run is over.

    ``encoder`` is a new one. Where the page shows a step behind its last calls it is told the end alone. The
    response leaves the page with a last step without calls, so that it asks no more. None where the page
    shows what was withdrawn.
    """
    log: Sequence[StreamEvent | StoredEvent] = known
    if not known or known[0].seq > 1:  # what was trimmed away is in the message that the log ends with
        log = events_of(fold(known).model_copy(update={"message_id": message_id}))
    copy = _Copy(parts)
    step = copy.step(log)
    short = compact(log)
    place: Place | None = Place(short, [event for event in short if isinstance(event, Finalized)])
    if step is not None:
        place = _place(short, step, copy)
    if place is None:
        return None
    for stored in known:
        encoder.note_time(stored)
    encoder.prime(event for event in place.had if not isinstance(event, Finalized))
    chunks = [*encoder.resume(after_end=True), *place.first]
    chunks += [chunk for event in place.rest for chunk in encoder.encode(event)]
    return _without_calls_last(chunks)


def _without_calls_last(chunks: list[Chunk]) -> list[Chunk]:
    """Put an empty step before the end where the page's last step would be one of calls."""
    steps = [at for at, chunk in enumerate(chunks) if chunk["type"] == "start-step"]
    if steps and not any(chunk["type"].startswith("tool-") for chunk in chunks[steps[-1] :]):
        return chunks
    # The end carries metadata: a step alone is not kept.
    at = next((at for at, chunk in enumerate(chunks) if chunk["type"] in _ENDS), len(chunks))
    return [*chunks[:at], {"type": "start-step"}, {"type": "finish-step"}, *chunks[at:]]


def _place(log: Sequence[StreamEvent], step: int, copy: _Copy) -> Place | None:
    steps = [at for at, event in enumerate(log) if isinstance(event, StepStarted)]
    begin = next((at for at in steps if getattr(log[at], "step", None) == step), None)
    if begin is None:
        return None
    end = next((at for at in steps if at > begin), len(log))
    shown = copy.shown(log[begin:end])
    if shown is None:
        return None
    had = begin + 1 + max(at for at, is_shown in enumerate(shown) if is_shown)
    settled = {
        event.call_id
        for event, is_shown in zip(log[begin:had], shown, strict=False)
        if is_shown and isinstance(event, ToolResult | JobResult)
    }
    missed = [
        event
        for event, is_shown in zip(log[begin:had], shown, strict=False)
        if not is_shown
        and isinstance(event, ToolCallEvent | ToolResult | JobResult)
        and event.call_id not in settled
    ]
    rest = log[had:-1] if isinstance(log[-1], Suspended) else log[had:]
    return Place(log[:had], [*missed, *rest], copy.unfinished(log[begin:end]))


class _Copy:
    """The last step of a page's copy of a message."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        begins = [at for at, part in enumerate(parts, 1) if part.get("type") == "step-start"]
        self._parts = parts[begins[-1] if begins else 0 :]
        self._calls = {
            part["toolCallId"]: part
            for part in self._parts
            if isinstance(part.get("toolCallId"), str) and part.get("state") != "input-streaming"
        }

    def step(self, known: Sequence[StreamEvent | StoredEvent]) -> int | None:
        """The log's step that it is; None where it has no call of that log."""
        steps: dict[str, int] = {}
        for stored in known:
            event = stored.event if isinstance(stored, StoredEvent) else stored
            # Of some calls only fragments ever come: a page shows them as failed.
            if isinstance(event, ToolCallDelta | ToolCallEvent):
                steps[event.call_id] = event.step
            elif isinstance(event, StepReset):
                steps = {call_id: step for call_id, step in steps.items() if step != event.step}
        return max((steps[call_id] for call_id in self._calls if call_id in steps), default=None)

    def unfinished(self, events: Sequence[StreamEvent]) -> list[Chunk]:
        """The end of the calls whose arguments it shows growing, and that the model never completed."""
        known = {event.call_id for event in events if isinstance(event, ToolCallEvent | ToolCallDelta)}
        return [
            never_completed(part["toolCallId"], dynamic=part.get("type") == "dynamic-tool")
            for part in self._parts
            if part.get("state") == "input-streaming"
            and isinstance(part.get("toolCallId"), str)
            and part["toolCallId"] not in known
        ]

    def shown(self, events: Sequence[StreamEvent]) -> list[bool] | None:
        """Of each event of the step, whether the copy proves that the page was told it; None where the copy
        has another text."""
        calls = {event.call_id: event for event in events if isinstance(event, ToolCallEvent)}
        left = sum(map(_comes_once, self._parts))
        out = []
        for event in events:
            match event:
                case StepStarted():
                    told = True
                case CustomEvent() | SourceEvent() | FileEvent() if _is_once(event):
                    told, left = left > 0, left - 1
                case ToolCallEvent():
                    told = event.call_id in self._calls
                case ModelCompleted():
                    # This ends the calls that were never completed.
                    told = any(
                        self._calls[id].get("state") == "output-error" for id in self._calls.keys() - calls
                    )
                case ApprovalRequested():
                    told = self._asks(event)
                case ToolResult() | JobResult():
                    # What a tool of the page's came to, it knew before the log did.
                    call = calls.get(event.call_id)
                    told = call is not None and call.executed_by != "client" and self._has_result(event)
                case _:
                    told = False
            out.append(told)
        spoken = next((at for at, event in enumerate(events) if event.type == "model_completed"), len(events))
        if not any(out[spoken:]):
            for kind in ("text", "reasoning"):
                texts = self._texts(kind, events, out)
                if texts is None:
                    return None
                for at in texts:
                    out[at] = True
        return out

    def _texts(self, kind: str, events: Sequence[StreamEvent], told: Sequence[bool]) -> list[int] | None:
        """Where the texts are that it shows; None where it shows others."""
        kinds = (ReasoningDelta,) if kind == "reasoning" else (TextDelta, RefusalDelta)
        texts = {at: event.text for at, event in enumerate(events) if isinstance(event, kinds)}
        parts = [part.get("text") for part in self._parts if part.get("type") == kind]
        said = {at: text for at, text in texts.items() if text}
        shown = [text for text in parts if text and isinstance(text, str)]
        # Pieces may stand in another order: a log made short has each text in one.
        if Counter("".join(shown)) == Counter("".join(said.values())):
            return list(said if len(parts) < len(texts) else texts)
        if shown == list(said.values())[: len(shown)]:
            calls = [at for at, event in enumerate(events) if told[at] and isinstance(event, ToolCallEvent)]
            # A page may send its message without its texts.
            left_out = not shown and min(said) < min(calls, default=len(events))
            return list(said)[: None if left_out else len(shown)]
        return None

    def _asks(self, event: ApprovalRequested) -> bool:
        asked = self._calls.get(event.call_id, {}).get("approval")
        if isinstance(asked, Mapping) and asked.get("id") == event.approval_id:
            return True
        return any(
            part.get("type") == "data-tool-approval" and part.get("id") == event.approval_id
            for part in self._parts
        )

    def _has_result(self, event: ToolResult | JobResult) -> bool:
        part = self._calls.get(event.call_id, {})
        match part.get("state"):
            case "output-available":
                return event.outcome == "ok" and not part.get("preliminary")
            case "output-denied":
                return event.outcome == "denied"
            case "output-error":
                # A call that cannot be carried out fails before it has a result, in other words.
                return bool(part.get("errorText") == error_text(event.outcome, event.error))
        return False


def _comes_once(part: _Part) -> bool:
    """Whether a part would stand there twice if it were told twice."""
    kind = part.get("type")
    if isinstance(kind, str) and kind.startswith("data-"):
        return "id" not in part
    return kind in ("file", "source-url", "source-document")


def _is_once(event: CustomEvent | SourceEvent | FileEvent) -> bool:
    return not isinstance(event, FileEvent) or event.url is not None
