"""What a step of a workflow says, as model output: parts, calls made elsewhere, questions, its result."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from streamchat.core.accumulator import CallDelta, ContentDelta, ToolCall
from streamchat.core.completion import ContentKind
from streamchat.core.jsontext import encode_json
from streamchat.messages import Usage
from streamchat.models.base import PROVIDER_POSITIONS, FinishedContent, ModelResult, ProviderCall
from streamchat.tools.output import json_value

__all__ = ["StepOutput"]


class StepOutput:
    """Numbers the parts of one step and remembers what its `ModelResult` must hold."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.kept: Any = None
        self._next = 0
        self._speaking: dict[Hashable, tuple[ContentKind, int]] = {}
        self._parts: list[FinishedContent] = []
        self._calls: list[ToolCall] = []
        self._elsewhere: list[ProviderCall] = []

    def _take(self) -> int:
        self._next += 1
        return self._next - 1

    def say(self, kind: ContentKind, text: str, speaker: Hashable = None) -> ContentDelta:
        """Return the delta for more text. A speaker's text of one kind is one part until its kind changes."""
        known = self._speaking.get(speaker)
        if known is None or known[0] != kind:
            known = self._speaking[speaker] = (kind, self._take())
            # The text itself is what the deltas make.
            self._parts.append(FinishedContent(known[1], kind, ""))
        return ContentDelta(kind, known[1], text)

    def called(
        self,
        name: str,
        arguments: dict[str, Any] | None,
        output: Any = None,
        *,
        call_id: str = "",
        error: str | None = None,
    ) -> CallDelta:
        """Return the delta that shows a call which the workflow has made itself; text after it is a new
        part."""
        self._speaking.clear()
        position = PROVIDER_POSITIONS + len(self._elsewhere)
        call = ProviderCall(self._take(), call_id, name, arguments, output, error)
        self._elsewhere.append(call)
        return CallDelta(call.part, position, call_id, name, encode_json(arguments or {}))

    def ask(self, tool: str, ask_id: str, arguments: dict[str, Any]) -> None:
        """Note a question to a person: a call of the tool that needs their approval."""
        self._calls.append(
            ToolCall(
                id=ask_id,
                name=tool,
                arguments=arguments,
                arguments_json=encode_json(arguments),
                position=len(self._calls),
                part=self._take(),
            )
        )

    def spend(self, usage: Usage) -> None:
        """Count tokens."""
        self.usage = usage if self.usage is None else self.usage + usage

    @property
    def asks(self) -> bool:
        """Whether a person is asked something."""
        return bool(self._calls)

    def result(self, *, more: bool, **kept: Any) -> ModelResult:
        """Return the step's result; ``kept`` is given back as `WorkflowStep.kept`."""
        if self._calls:
            kept["asked"] = {call.id: (call.arguments or {}).get("value") for call in self._calls}
        if self.kept is not None:
            kept["data"] = self.kept
        return ModelResult(
            finish_reason="tool_calls" if self._calls else "stop",
            parts=tuple(self._parts),
            calls=tuple(self._calls),
            provider_calls=tuple(self._elsewhere),
            usage=self.usage,
            extras={"workflow": json_value(kept)} if kept else None,
            more=more,
        )
