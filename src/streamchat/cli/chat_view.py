"""What a run looks like while it is read: its events as calls on a screen, plain or rich."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from streamchat import RunState, StoredEvent
from streamchat.client import Reset
from streamchat.events import (
    ApprovalRequested,
    Cancelled,
    ErrorEvent,
    Finalized,
    JobResult,
    ModelCompleted,
    ReasoningDelta,
    RefusalDelta,
    RunResumed,
    StatusEvent,
    StepReset,
    TextDelta,
    ToolCallEvent,
    ToolProgress,
    ToolResult,
    ToolStarted,
)

__all__ = ["Screen", "ToolView", "clean", "label", "short"]

_MOST_ARGUMENTS = 60
_CONTROLS = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")})


def clean(text: str) -> str:
    """Return text without control characters: a model's words must not drive the terminal."""
    return text.translate(_CONTROLS)


def short(value: Any, most: int) -> str:
    """Return a value in one line of at most ``most`` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = clean(" ".join(text.split()))
    return text if len(text) <= most else text[: most - 1] + "…"


def label(name: str, arguments: Mapping[str, Any] | None) -> str:
    """Return a call as people read it: ``weather(city="Oslo")``."""
    given = ", ".join(
        f"{short(key, 30)}={json.dumps(value, ensure_ascii=False)}"
        for key, value in (arguments or {}).items()
    )
    return f"{short(name, _MOST_ARGUMENTS)}({short(given, _MOST_ARGUMENTS)})"


@dataclass
class ToolView:
    """A call that is not answered yet; ``since`` is when it was seen to start (`time.monotonic`)."""

    name: str
    arguments: Mapping[str, Any] | None
    waiting: str = ""
    since: float = field(default_factory=time.monotonic)
    message: str = ""
    fraction: float | None = None

    @property
    def label(self) -> str:
        """The call as people read it."""
        return label(self.name, self.arguments)

    @property
    def progress(self) -> str:
        """What it says of itself."""
        done = "" if self.fraction is None else f"{min(max(self.fraction, 0.0), 1.0):.0%}"
        return " ".join(filter(None, (done, short(self.message, _MOST_ARGUMENTS))))


class Screen:
    """Shows runs one after the other, between `__enter__` and `__exit__`; the base keeps count of the calls.

    What is said may be withdrawn until it has `settled`.
    """

    def __init__(self) -> None:
        self.tools: dict[str, ToolView] = {}
        self.asked: dict[str, ApprovalRequested] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    # What a kind of screen does.

    def said(self, kind: str, part: int, text: str) -> None:
        """More of ``part`` has come: of the ``text``, the ``reasoning`` or a ``refusal``."""

    def settled(self, replaced: Mapping[int, str]) -> None:
        """What was said since the last time stands; ``replaced`` is what parts are in truth."""

    def withdrawn(self) -> None:
        """What was said since it last settled does not stand: it is asked for again."""

    def doing(self, what: str) -> None:
        """What the server says that it is at."""

    def tool_changed(self, tool: ToolView) -> None:
        """A tool has started, or says something."""

    def tool_ended(self, tool: ToolView, outcome: str, output: str, seconds: float | None) -> None:
        """A call has its result."""

    def notice(self, text: str, *, bad: bool = False) -> None:
        """Something that the user should know."""

    def ended(self, event: Finalized) -> None:
        """The run is over."""

    def tick(self) -> None:
        """Some time went by."""

    def ask(self, prompt: str) -> str:
        """Return a line from the user; raises ``EOFError`` at the end of the input."""
        return input(prompt)

    # From events to these.

    def begin(self) -> None:
        """Another run is shown from here on."""
        self.tools.clear()
        self.asked.clear()

    def show(self, item: StoredEvent | Reset) -> None:
        """Show one event of a run, in their order."""
        if isinstance(item, Reset):
            return self._reset(item.state)
        match item.event:
            case TextDelta(part=part, text=text):
                self.said("text", part, clean(text))
            case ReasoningDelta(part=part, text=text):
                self.said("reasoning", part, clean(text))
            case RefusalDelta(part=part, text=text):
                self.said("refusal", part, clean(text))
            case ModelCompleted(parts=parts):
                self.settled({part.part: clean(part.text) for part in parts if part.text is not None})
            case StepReset(reason=reason):
                self.tools.clear()
                self.withdrawn()
                by = "another worker asks again" if reason == "takeover" else "it is asked for again"
                self.notice(f"the answer broke off: {by}")
            case RunResumed(reason="takeover"):
                self.notice("its worker was lost: another one goes on")
            case StatusEvent(status=status, detail=detail):
                self.doing(short(detail or status.replace("_", " "), _MOST_ARGUMENTS))
            case ErrorEvent(message=message, correlation_id=correlation):
                where = f" (correlation id {clean(correlation)})" if correlation else ""
                self.notice(clean(message) + where, bad=True)
            case Cancelled():
                self.notice("cancelled")
            case Finalized() as finalized:
                self.ended(finalized)
            case event:
                self._tool_event(event)
        return None

    def _tool_event(self, event: object) -> None:
        match event:
            case ToolCallEvent(call_id=call_id, name=name, arguments=arguments, executed_by=by):
                waiting = {"client": "for a page that runs it", "provider": "for the provider"}.get(by, "")
                self.tools[call_id] = ToolView(name, arguments, waiting)
            case ApprovalRequested(call_id=call_id):
                self.asked[call_id] = event
                self._tool(call_id).waiting = "for somebody to decide"
            case ToolStarted(call_id=call_id):
                tool = self._tool(call_id)
                tool.waiting, tool.since = "", time.monotonic()
                self.tool_changed(tool)
            case ToolProgress(call_id=call_id, message=message, fraction=fraction):
                tool = self._tool(call_id)
                tool.message, tool.fraction = message or tool.message, fraction
                self.tool_changed(tool)
            case ToolResult(call_id=call_id, outcome="deferred"):
                tool = self._tool(call_id)
                tool.waiting = "for its job"
                self.tool_changed(tool)
            case ToolResult() | JobResult():
                tool = self._tool(event.call_id)
                del self.tools[event.call_id]
                output = event.error if event.error is not None else event.output
                seconds = event.duration if isinstance(event, ToolResult) else None
                self.tool_ended(tool, event.outcome, short(output, _MOST_ARGUMENTS), seconds)

    def _tool(self, call_id: str) -> ToolView:
        return self.tools.setdefault(call_id, ToolView(call_id, None))

    def _reset(self, state: RunState) -> None:
        self.begin()
        self.withdrawn()
        self.notice("what came so far is no longer kept one by one: this is what it amounts to")
        for call in state.calls:
            if call.state not in ("done", "streaming"):
                self.tools[call.call_id] = ToolView(call.name, call.arguments)
            if call.state == "approval":
                self.asked[call.call_id] = ApprovalRequested(
                    step=0,
                    approval_id="",
                    call_id=call.call_id,
                    name=call.name,
                    arguments=call.arguments,
                )
        if state.text:
            self.said("text", -1, clean(state.text))
        self.settled({})
