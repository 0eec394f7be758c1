"""What a client was shown of the step that is open: which message each part is, what is open, what is wrong.

A text is closed as soon as another part begins, and opened again where more of it comes: AG-UI appends. A
call's end says that its arguments are complete, so it comes only with the complete call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

from streamchat.core.jsontext import parse_object
from streamchat.events import ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, ToolCallEvent
from streamchat.messages import ContentPart, ReasoningPart, RefusalPart, TextPart, ToolCallPart
from streamchat.wire.ag_ui.messages import REFUSAL, Ids, arguments_text

__all__ = ["AGUIEvent", "Put", "ShownStep"]

AGUIEvent: TypeAlias = dict[str, Any]
"""One AG-UI event: JSON values, keys in camel case, what is absent left out."""


class Put(Protocol):
    """Takes an event to send."""

    def __call__(self, kind: str, /, **fields: Any) -> None: ...


class _Text:
    """A text, a refusal or a reasoning that was begun."""

    __slots__ = ("kind", "message_id")

    def __init__(self, kind: str, message_id: str) -> None:
        self.kind = kind
        self.message_id = message_id


class _Call:
    """A tool call that was seen; ``started`` when the client knows of it, ``ended`` when that said so."""

    __slots__ = ("answered", "ended", "fragments", "name", "started", "whole")

    def __init__(self) -> None:
        self.name = ""
        self.fragments: list[str] = []
        self.started = self.ended = self.whole = self.answered = False


class ShownStep:
    """One step as it was told to a client; ``wrong`` says that a snapshot must put something right."""

    def __init__(self, ids: Ids, put: Put, number: int = 0) -> None:
        self.wrong = False
        self._ids = ids
        self._put = put
        self._number = number
        self._texts: dict[int, _Text] = {}
        self._counts = {"text": 0, "reasoning": 0}
        self._calls: dict[str, _Call] = {}
        self._held: dict[str, _Call] = {}
        self._speaker: str | None = None
        self._open: int | None = None
        self._shown = False

    def note(self) -> None:
        """Note that a new part is about to be shown: no call can be held any longer, or its place is lost."""
        self._shown = True
        if self._held:
            self._release(next(reversed(self._held)))

    # Text.

    def say(self, event: TextDelta | RefusalDelta | ReasoningDelta) -> None:
        """Show more of a text."""
        if self._open != event.part:
            self.close_text()
            if event.part not in self._texts:
                self.note()
                self._name(event.part, event.type)
            self._begin_text(event.part)
        if event.text:
            text = self._texts[event.part]
            kind = "REASONING_MESSAGE_CONTENT" if text.kind == "reasoning_delta" else "TEXT_MESSAGE_CONTENT"
            self._put(kind, messageId=text.message_id, delta=event.text)

    def _name(self, part: int, kind: str) -> None:
        counted = "reasoning" if kind == "reasoning_delta" else "text"
        number = self._counts[counted]
        self._counts[counted] = number + 1
        if counted == "reasoning":
            message_id = self._ids.reasoning(self._number, number)
        else:
            message_id = self._speaker = self._ids.text(self._number, number)
        self._texts[part] = _Text(kind, message_id)

    def _begin_text(self, part: int) -> None:
        self._open = part
        text = self._texts[part]
        if text.kind == "reasoning_delta":
            self._put("REASONING_START", messageId=text.message_id)
            self._put("REASONING_MESSAGE_START", messageId=text.message_id, role="reasoning")
            return
        about = {"metadata": dict(REFUSAL)} if text.kind == "refusal_delta" else {}
        self._put("TEXT_MESSAGE_START", messageId=text.message_id, role="assistant", **about)

    def close_text(self) -> None:
        """End the text that is open."""
        if self._open is None:
            return
        text = self._texts[self._open]
        self._open = None
        if text.kind == "reasoning_delta":
            self._put("REASONING_MESSAGE_END", messageId=text.message_id)
            self._put("REASONING_END", messageId=text.message_id)
        else:
            self._put("TEXT_MESSAGE_END", messageId=text.message_id)

    # Calls.

    def call_more(self, event: ToolCallDelta) -> None:
        """Show more of a call's arguments; a call without a name is held until it has one."""
        call = self._calls.get(event.call_id) or self._hold(event.call_id)
        if event.name is not None and event.name != call.name:
            self.wrong = self.wrong or call.started
            call.name = event.name
        call.fragments.append(event.arguments)
        if call.started:
            self._more(event.call_id, event.arguments)
        elif call.name:
            self._release(event.call_id)

    def call_whole(self, event: ToolCallEvent) -> None:
        """Show a complete call, as far as it was not shown yet, and end it."""
        call = self._calls.get(event.call_id) or self._hold(event.call_id)
        fields = event.model_dump(include={"arguments", "arguments_text"})
        arguments = arguments_text(ToolCallPart(call_id=event.call_id, **fields))
        if not call.started:
            call.name, call.fragments = event.name, [arguments]
            self._release(event.call_id)
        elif call.name != event.name or not _same("".join(call.fragments), arguments, event.arguments):
            self.wrong = True
        call.whole = True
        self._end(event.call_id, call)

    def answered(self, call_id: str) -> None:
        """Note that a call of this step has its result."""
        if call_id in self._calls:
            self._calls[call_id].answered = True

    def _hold(self, call_id: str) -> _Call:
        call = self._calls[call_id] = self._held[call_id] = _Call()
        return call

    def _release(self, call_id: str) -> None:
        """Start a call that was held, and those held before it."""
        for other in list(self._held):
            call = self._held.pop(other)
            self._start(other, call)
            self._more(other, "".join(call.fragments))
            if other == call_id:
                break

    def _start(self, call_id: str, call: _Call) -> None:
        self.close_text()
        self._shown = call.started = True
        if self._speaker is None:
            self._speaker = self._ids.text(self._number, 0)
        self._put(
            "TOOL_CALL_START",
            toolCallId=self._ids.call(call_id),
            toolCallName=call.name,
            parentMessageId=self._speaker,
        )

    def _more(self, call_id: str, arguments: str) -> None:
        if arguments:
            self._put("TOOL_CALL_ARGS", toolCallId=self._ids.call(call_id), delta=arguments)

    def _end(self, call_id: str, call: _Call) -> None:
        if call.started and not call.ended:
            call.ended = True
            self._put("TOOL_CALL_END", toolCallId=self._ids.call(call_id))

    # All of it.

    def close(self) -> list[str]:
        """End whatever is open; return the calls that are ended without being complete."""
        self.close_text()
        broken = [i for i, call in self._calls.items() if call.started and not (call.whole or call.ended)]
        for call_id in broken:
            self._end(call_id, self._calls[call_id])
        return broken

    def withdraw(self) -> tuple[bool, list[str]]:
        """Say whether anything was shown, and which calls have no result; everything must be closed."""
        unanswered = [i for i, call in self._calls.items() if call.started and not call.answered]
        return self._shown, unanswered

    def adopt(self, parts: Iterable[ContentPart]) -> None:
        """Take over a step of which the client was told by a snapshot; ``parts`` are in order of ``part``."""
        newest: int | None = None
        for part in parts:
            if isinstance(part, ToolCallPart) and part.state == "streaming" and not part.name:
                self._hold(part.call_id).fragments = [part.arguments_text or ""]
                continue
            for call_id in list(self._held):
                self._start(call_id, self._held.pop(call_id))
            self._shown, newest = True, None
            if isinstance(part, ToolCallPart):
                self._adopt_call(part)
            elif isinstance(part, TextPart | RefusalPart | ReasoningPart):
                self._name(part.part, f"{part.type}_delta")
                newest = part.part
        if newest is not None:
            self._begin_text(newest)

    def _adopt_call(self, part: ToolCallPart) -> None:
        call = self._calls[part.call_id] = _Call()
        call.name = part.name
        if part.state == "streaming":
            call.fragments = [part.arguments_text or ""]
            self._start(part.call_id, call)
            return
        call.started = call.ended = call.whole = True
        call.answered = part.state in ("done", "deferred")
        self._speaker = self._speaker or self._ids.text(self._number, 0)


def _same(shown: str, text: str, arguments: dict[str, Any] | None) -> bool:
    return shown == text or (arguments is not None and parse_object(shown) == arguments)
