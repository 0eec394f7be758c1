"""Shorter logs that come to the same: one delta for each part, and nothing that was withdrawn.

For wires that replay a run to a client which begins anew. `compact` shortens a log, `events_of` makes one
from a snapshot, where the log itself is gone. What comes out is for encoders: it is legal in the order of
`streamchat.core.lifecycle` as far as the log is, but numbers of events and their times are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from streamchat.core.state import RunState
from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    CustomEvent,
    FileEvent,
    Finalized,
    FinishedPart,
    JobResult,
    MessageCompleted,
    ModelCompleted,
    ReasoningDelta,
    RefusalDelta,
    RunStarted,
    SourceEvent,
    StepFinished,
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
from streamchat.messages import (
    ContentPart,
    FilePart,
    ReasoningPart,
    RefusalPart,
    SourcePart,
    TextPart,
    ToolCallPart,
)

__all__ = ["Said", "StepContent", "compact", "events_of"]

_TextEvent: TypeAlias = TextDelta | ReasoningDelta | RefusalDelta
Said: TypeAlias = _TextEvent | SourceEvent | FileEvent | CustomEvent | ToolCallEvent | ToolCallDelta
"""What a step's content is made of."""


class _Text:
    """Text that grows, or a call's arguments; ``first`` is the event that began it."""

    __slots__ = ("first", "fragments")

    def __init__(self, first: _TextEvent | ToolCallDelta) -> None:
        self.first = first
        self.fragments = [first.arguments if isinstance(first, ToolCallDelta) else first.text]

    @property
    def text(self) -> str:
        if len(self.fragments) > 1:
            self.fragments = ["".join(self.fragments)]
        return self.fragments[0]

    def event(self) -> StreamEvent:
        if isinstance(self.first, ToolCallDelta):
            return self.first.model_copy(update={"arguments": self.text})
        return self.first.model_copy(update={"text": self.text})


class StepContent:
    """What a step's model has said so far, in order of first sight.

    ``calls`` are the ids of its calls, also of those known from fragments only. ``shown`` says that there is
    something besides the application's own data.
    """

    __slots__ = ("_calls", "_entries", "_texts", "shown")

    def __init__(self) -> None:
        self._entries: list[_Text | StreamEvent] = []
        self._texts: dict[int, _Text] = {}
        self._calls: dict[str, int] = {}
        self.shown = False

    @property
    def calls(self) -> list[str]:
        """The ids of all calls."""
        return list(self._calls)

    @property
    def unfinished(self) -> list[str]:
        """The ids of the calls of which there are fragments only."""
        return [call_id for call_id, at in self._calls.items() if isinstance(self._entries[at], _Text)]

    @property
    def customs(self) -> list[CustomEvent]:
        """The application's own events among the rest."""
        return [entry for entry in self._entries if isinstance(entry, CustomEvent)]

    def add(self, event: Said) -> None:
        """Take what the model has said next."""
        if isinstance(event, CustomEvent):
            self._entries.append(event)
            return
        self.shown = True
        if isinstance(event, ToolCallEvent):
            at = self._calls.setdefault(event.call_id, len(self._entries))
            self._entries[at : at + 1] = [event]
        elif isinstance(event, ToolCallDelta):
            self._add_fragment(event)
        elif isinstance(event, SourceEvent | FileEvent):
            self._entries.append(event)
        elif event.part in self._texts:
            self._texts[event.part].fragments.append(event.text)
        else:
            self._texts[event.part] = text = _Text(event)
            self._entries.append(text)

    def _add_fragment(self, event: ToolCallDelta) -> None:
        at = self._calls.get(event.call_id)
        if at is None:
            self._calls[event.call_id] = len(self._entries)
            self._entries.append(_Text(event))
            return
        known = self._entries[at]
        if isinstance(known, _Text):
            known.fragments.append(event.arguments)
            assert isinstance(known.first, ToolCallDelta)
            if not known.first.name and event.name:
                known.first = known.first.model_copy(update={"name": event.name})

    def complete(self, event: ModelCompleted) -> tuple[list[FinishedPart], list[FinishedPart]]:
        """Put the texts that stand in place of those that were streamed.

        Returns the parts that only grew by this (with what is new), and those that became another text.
        """
        added: list[FinishedPart] = []
        changed: list[FinishedPart] = []
        for part in event.parts:
            known = self._texts.get(part.part)
            if known is None or part.text is None or part.text == known.text:
                continue
            if part.text.startswith(known.text):
                added.append(FinishedPart(part=part.part, text=part.text[len(known.text) :]))
            else:
                changed.append(part)
            known.fragments = [part.text]
        return added, changed

    def events(self, *, unfinished: bool = True) -> Iterator[StreamEvent]:
        """Give it in as few events as there are parts; ``unfinished`` calls may be left out."""
        for entry in self._entries:
            if not isinstance(entry, _Text):
                yield entry
            elif unfinished or not isinstance(entry.first, ToolCallDelta):
                yield entry.event()


_SAID = (
    TextDelta,
    ReasoningDelta,
    RefusalDelta,
    SourceEvent,
    FileEvent,
    CustomEvent,
    ToolCallEvent,
    ToolCallDelta,
)
_ENDING = frozenset({"error", "cancelled", "message_completed", "finalized"})


def compact(events: Iterable[StreamEvent | StoredEvent]) -> list[StreamEvent]:
    """Return a shorter log, which may end anywhere, that comes to the same message.

    Gone are the pieces of a text, what a reset withdrew, words for people's eyes only, and the progress of
    tools that are done; of the others the newest is kept.
    """
    out: list[StreamEvent | None] = []
    content: StepContent | None = None
    progress: dict[str, int] = {}
    for stored in events:
        event = stored.event if isinstance(stored, StoredEvent) else stored
        if content is not None:
            if isinstance(event, _SAID):
                content.add(event)
                continue
            if event.type == "step_reset":
                kept, content = content.customs, StepContent()
                for custom in kept:
                    content.add(custom)
                continue
            if isinstance(event, ModelCompleted):
                content.complete(event)
            if event.type in _ENDING or isinstance(event, ModelCompleted | ToolResult):
                out += content.events(unfinished=False)
                content = None
        if event.type in ("status", "step_reset"):
            continue
        if isinstance(event, StepStarted):
            content = StepContent()
        elif isinstance(event, ToolProgress):
            _forget(out, progress, event.call_id)
            progress[event.call_id] = len(out)
        elif isinstance(event, ToolResult | JobResult):
            _forget(out, progress, event.call_id)
        out.append(event)
    if content is not None:
        out += content.events()
    return [event for event in out if event is not None]


def _forget(out: list[StreamEvent | None], progress: dict[str, int], call_id: str) -> None:
    at = progress.pop(call_id, None)
    if at is not None:
        out[at] = None


# From a snapshot.


def events_of(state: RunState) -> list[StreamEvent]:
    """Return a log that folds to the message, the calls and the ending of ``state``.

    What the state does not keep (the application's own events, durations of steps) is not in it.
    """
    events: list[StreamEvent] = [
        RunStarted(
            run_id=state.run_id or "",
            conversation_id=state.conversation_id,
            message_id=state.message_id,
            parent_run_id=state.parent_run_id,
            model=state.model,
        )
    ]
    known = {step.step: step for step in state.steps}
    numbers = sorted({*known, *(part.step for part in state.parts)})
    for number in numbers:
        parts = [part for part in state.parts if part.step == number]
        step = known.get(number)
        complete = state.over or (step is not None and step.model_completed)
        events.append(StepStarted(step=number, name=step.name if step else None))
        events += [_said(part) for part in parts]
        if complete:
            calls = [part for part in parts if isinstance(part, ToolCallPart)]
            reason = step.finish_reason if step and step.finish_reason else state.finish_reason
            events.append(
                ModelCompleted(
                    step=number, finish_reason=reason, call_ids=tuple(call.call_id for call in calls)
                )
            )
            events += [event for call in calls for event in _became(call)]
        if number != numbers[-1] or (step is not None and step.finished) or state.over:
            events.append(StepFinished(step=number))
    return [*events, *_ending(state)]


def _said(part: ContentPart) -> StreamEvent:
    match part:
        case TextPart():
            return TextDelta(step=part.step, part=part.part, text=part.text)
        case ReasoningPart():
            return ReasoningDelta(step=part.step, part=part.part, text=part.text)
        case RefusalPart():
            return RefusalDelta(step=part.step, part=part.part, text=part.text)
        case SourcePart():
            return SourceEvent(**part.model_dump(exclude={"type"}))
        case FilePart():
            return FileEvent(**part.model_dump(exclude={"type"}))
        case ToolCallPart(state="streaming"):
            return ToolCallDelta(
                step=part.step,
                part=part.part,
                call_id=part.call_id,
                name=part.name or None,
                arguments=part.arguments_text or "",
            )
        case ToolCallPart():
            return ToolCallEvent(
                step=part.step,
                part=part.part,
                call_id=part.call_id,
                name=part.name,
                arguments=part.arguments,
                arguments_text=part.arguments_text,
                problem=part.problem,  # type: ignore[arg-type]
                executed_by=part.executed_by,
            )


def _became(call: ToolCallPart) -> Iterator[StreamEvent]:
    """What was decided about a call, and what it came to."""
    step, call_id, asked = call.step, call.call_id, call.approval
    if asked is not None:
        yield ApprovalRequested(
            step=step,
            approval_id=asked.approval_id,
            call_id=call_id,
            name=call.name,
            arguments=call.arguments,
            message=asked.message,
            expires_at=asked.expires_at,
        )
        if asked.approved is not None:
            yield ApprovalResolved(
                step=step,
                approval_id=asked.approval_id,
                call_id=call_id,
                approved=asked.approved,
                reason=asked.reason,
                by=asked.by,
            )
    if call.state == "running" and call.progress is not None:
        yield ToolProgress(step=step, call_id=call_id, **call.progress)
    if call.outcome is not None:
        yield ToolResult(
            step=step,
            call_id=call_id,
            outcome=call.outcome,  # type: ignore[arg-type]
            output=call.output,
            error=call.error,
            duration=call.duration,
        )


def _ending(state: RunState) -> Iterator[StreamEvent]:
    if state.status == "suspended" and state.waits:
        yield Suspended(waits=state.waits)
    if not state.over:
        return
    if state.error is not None:
        yield state.error
    if state.cancelled is not None:
        yield state.cancelled
    yield MessageCompleted(content=state.parts, finish_reason=state.finish_reason, usage=state.usage)
    yield Finalized(status=state.status, usage=state.usage, duration=state.duration)  # type: ignore[arg-type]
