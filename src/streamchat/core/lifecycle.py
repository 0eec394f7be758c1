"""The legal order of a run's events, as one table over their types and one over a call's.

`RUN` says which event may follow in which phase of a run, `CALL` the same for one tool call. `Lifecycle`
walks both and adds what a table of types cannot say: which step, part or call an event names. The same walk
checks what `orchestrate()` yields, what encoders are given and what hypothesis makes up; the diagrams in the
documentation are drawn from the tables by `diagram`.

Reading the run's phases: ``ready`` is between steps, ``model`` while the model speaks, ``tools`` from
``model_completed`` to ``step_finished``. A suspended run goes back to where it was, so it has two phases.
After ``failed`` or ``stopped`` only the message and the end may come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from streamchat.errors import IllegalEvent
from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    Cancelled,
    ErrorEvent,
    FileEvent,
    Finalized,
    JobResult,
    MessageCompleted,
    ModelCompleted,
    ReasoningDelta,
    RefusalDelta,
    SourceEvent,
    StepFinished,
    StepReset,
    StoredEvent,
    StreamEvent,
    Suspended,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    ToolProgress,
    ToolResult,
    ToolStarted,
    UnknownEvent,
)

__all__ = [
    "BARRIERS",
    "CALL",
    "HELD",
    "RUN",
    "CallPhase",
    "Lifecycle",
    "Phase",
    "call_event",
    "check_log",
    "diagram",
]

Phase: TypeAlias = Literal[
    "start",
    "ready",
    "model",
    "tools",
    "suspended_ready",
    "suspended_tools",
    "failed",
    "stopped",
    "message",
    "over",
]

CallPhase: TypeAlias = Literal["new", "called", "approval", "denied", "started", "deferred", "answered"]

_ENDINGS: dict[str, Phase] = {"error": "failed", "cancelled": "stopped"}
_CONTENT: tuple[str, ...] = ("text_delta", "reasoning_delta", "refusal_delta", "source", "file")


def _stay(phase: Phase, *types: str) -> dict[str, Phase]:
    return dict.fromkeys((*types, "status", "custom", "run_resumed", "job_result"), phase)


RUN: Mapping[Phase, Mapping[str, Phase]] = {
    "start": {"run_started": "ready"},
    "ready": {
        **_stay("ready"),
        "step_started": "model",
        "suspended": "suspended_ready",
        "message_completed": "message",
        **_ENDINGS,
    },
    "model": {
        **_stay(
            "model", *_CONTENT, "tool_call_delta", "tool_call", "tool_progress", "tool_result", "step_reset"
        ),
        "model_completed": "tools",
        **_ENDINGS,
    },
    "tools": {
        **_stay(
            "tools", "approval_requested", "approval_resolved", "tool_started", "tool_progress", "tool_result"
        ),
        "step_finished": "ready",
        "suspended": "suspended_tools",
        **_ENDINGS,
    },
    "suspended_ready": {"run_resumed": "ready"},
    "suspended_tools": {"run_resumed": "tools"},
    "failed": {"message_completed": "message"},
    "stopped": {"message_completed": "message"},
    "message": {"finalized": "over"},
    "over": {},
}
"""Which event may come in which phase of a run, and the phase after it."""

CALL: Mapping[CallPhase, Mapping[str, CallPhase]] = {
    "new": {"tool_call": "called"},
    "called": {"approval_requested": "approval", "tool_started": "started", "tool_result": "answered"},
    "approval": {
        "approval_resolved": "called",
        "approval_resolved (refused)": "denied",
        "tool_result": "answered",
    },
    "denied": {"tool_result": "answered"},
    "started": {
        "tool_started": "started",
        "tool_progress": "started",
        "tool_result": "answered",
        "tool_result (deferred)": "deferred",
    },
    "deferred": {"tool_progress": "deferred", "job_result": "answered"},
    "answered": {},
}
"""The same for one tool call. Two types lead on by what they say: `call_event` knows their names here."""

BARRIERS = frozenset(
    {
        "run_resumed",
        "model_completed",
        "approval_requested",
        "approval_resolved",
        "tool_started",
        "tool_result",
        "job_result",
        "suspended",
        "finalized",
    }
)
"""Events that must be durable before anything after them is asked for."""

HELD: Mapping[str, str] = {
    "tool_call": "model_completed",
    "error": "finalized",
    "cancelled": "finalized",
    "message_completed": "finalized",
}
"""Events that are stored in one batch with a later one: its type. Without it they are not stored at all."""

_FINAL_STATUS: Mapping[str, str] = {"failed": "error", "stopped": "cancelled", "ready": "success"}
_NOT_RUN = frozenset({"error", "denied", "cancelled", "timeout"})
_ANY_STEP = frozenset({"status", "custom", "job_result", "tool_progress", "error"})


_CallEvent: TypeAlias = (
    ApprovalRequested | ApprovalResolved | ToolStarted | ToolProgress | ToolResult | JobResult
)


def call_event(event: _CallEvent) -> str:
    """Return the name under which `CALL` knows an event: its type, and what it says where that matters."""
    if isinstance(event, ToolResult) and event.outcome == "deferred":
        return "tool_result (deferred)"
    if isinstance(event, ApprovalResolved) and not event.approved:
        return "approval_resolved (refused)"
    return event.type


@dataclass(slots=True)
class _Call:
    step: int
    place: Literal["server", "client", "provider", "nowhere"]
    """Where it is executed; with a problem, nowhere."""
    phase: CallPhase = "called"


class Lifecycle:
    """Walks a log from its first event and refuses the first one that may not stand where it does.

    `check` raises `IllegalEvent`, naming the event, the phase and the reason, and then leaves the walk as it
    was.
    """

    __slots__ = ("_call_parts", "_calls", "_parts", "ending", "last_part", "phase", "step")

    def __init__(self) -> None:
        self.phase: Phase = "start"
        self.step = 0
        """The number of the newest step; steps count from 1."""
        self.last_part = -1
        """The highest part number seen so far, withdrawn ones included."""
        self.ending: Phase = "ready"
        """The phase that the ending began in: ``ready``, ``failed`` or ``stopped``."""
        self._calls: dict[str, _Call] = {}
        self._call_parts: dict[str, int] = {}
        self._parts: dict[int, tuple[int, str]] = {}

    @property
    def calls(self) -> dict[str, CallPhase]:
        """The complete calls that stand, by ``call_id``, and the phase that each is in."""
        return {call_id: call.phase for call_id, call in self._calls.items()}

    def check(self, event: StreamEvent) -> None:
        """Take the next event of the log."""
        if isinstance(event, UnknownEvent):
            if self.phase in ("start", "over"):
                raise self._illegal(event, "nothing unknown may stand first, or after the end")
            return
        after = RUN[self.phase].get(event.type)
        if after is None:
            raise self._illegal(
                event, f"here only {', '.join(sorted(RUN[self.phase])) or 'nothing'} may come"
            )
        self._check_step(event)
        handler = _HANDLERS.get(event.type)
        if handler is not None:
            handler(self, event)
        if after == "message":
            self.ending = self.phase
        self.phase = after

    def _illegal(self, event: StreamEvent, reason: str) -> IllegalEvent:
        return IllegalEvent(f"{event!r:.300} is illegal in phase {self.phase!r}: {reason}")

    def _check_step(self, event: StreamEvent) -> None:
        step = getattr(event, "step", None)
        if event.type == "step_started":
            if step != self.step + 1:
                raise self._illegal(event, f"the next step is {self.step + 1}")
            self.step += 1
        elif step is not None and step != self.step and event.type not in _ANY_STEP:
            raise self._illegal(event, f"the open step is {self.step}")

    # Parts, and the calls that are parts. Whatever may raise comes before whatever changes the walk.

    def _take_part(self, event: StreamEvent, part: int, kind: str) -> None:
        known = self._parts.get(part)
        if known is None:
            if part <= self.last_part:
                raise self._illegal(event, f"a new part has a number above {self.last_part}")
            self.last_part = part
            self._parts[part] = (self.step, kind)
        elif known != (self.step, kind):
            raise self._illegal(event, f"part {part} is {known[1]} of step {known[0]}")

    def _take_call_part(self, event: ToolCallDelta | ToolCallEvent) -> None:
        if event.call_id in self._calls:
            raise self._illegal(event, f"call_id {event.call_id!r} is taken: that call is complete")
        part = self._call_parts.get(event.call_id)
        if part is not None and part != event.part:
            raise self._illegal(event, f"call_id {event.call_id!r} is taken: it is part {part}")
        self._take_part(event, event.part, f"call {event.call_id!r}")
        self._call_parts[event.call_id] = event.part

    def _on_delta(self, event: TextDelta | ReasoningDelta | RefusalDelta) -> None:
        self._take_part(event, event.part, event.type)

    def _on_whole_part(self, event: SourceEvent | FileEvent) -> None:
        if event.part in self._parts:
            raise self._illegal(event, f"part {event.part} is taken")
        self._take_part(event, event.part, event.type)

    def _on_tool_call(self, event: ToolCallEvent) -> None:
        self._take_call_part(event)
        place = event.executed_by if event.problem is None else "nowhere"
        self._calls[event.call_id] = _Call(self.step, place)

    def _on_model_completed(self, event: ModelCompleted) -> None:
        calls = [call_id for call_id, call in self._calls.items() if call.step == self.step]
        if sorted(event.call_ids) != sorted(calls):
            raise self._illegal(event, f"the step's calls are {calls}")
        for finished in event.parts:
            if self._parts.get(finished.part, (0, ""))[0] != self.step:
                raise self._illegal(event, f"part {finished.part} is none of this step's")

    def _on_step_reset(self, event: StepReset) -> None:
        self._parts = {number: part for number, part in self._parts.items() if part[0] != self.step}
        self._call_parts = {i: part for i, part in self._call_parts.items() if part in self._parts}
        self._calls = {i: call for i, call in self._calls.items() if call.step != self.step}

    # What becomes of a call.

    def _look_ahead(
        self,
        event: ApprovalRequested | ApprovalResolved | ToolStarted | ToolProgress | ToolResult | JobResult,
    ) -> tuple[_Call, CallPhase]:
        call = self._calls.get(event.call_id)
        if call is None:
            raise self._illegal(event, f"no call {event.call_id!r} stands")
        after = CALL[call.phase].get(call_event(event))
        if after is None:
            raise self._illegal(event, f"call {event.call_id!r} is in phase {call.phase!r}")
        return call, after

    def _on_call_event(self, event: ApprovalRequested | ApprovalResolved | ToolProgress | JobResult) -> None:
        call, after = self._look_ahead(event)
        call.phase = after

    def _on_tool_started(self, event: ToolStarted) -> None:
        call, after = self._look_ahead(event)
        if call.place != "server":
            raise self._illegal(event, "the call has a problem, or is executed elsewhere")
        call.phase = after

    def _on_tool_result(self, event: ToolResult) -> None:
        call, after = self._look_ahead(event)
        if self.phase == "model" and event.outcome != "cancelled":
            raise self._illegal(event, "before model_completed a call can only be cancelled")
        may_have_run = call.phase == "started" or (
            call.phase == "called" and call.place in ("client", "provider")
        )
        if not may_have_run and event.outcome not in _NOT_RUN:
            raise self._illegal(event, f"a call that never ran has no outcome {event.outcome!r}")
        call.phase = after

    def _refuse_open_calls(self, event: StreamEvent, *done: CallPhase) -> None:
        open_calls = [call_id for call_id, call in self._calls.items() if call.phase not in done]
        if open_calls:
            raise self._illegal(event, f"calls {open_calls} have no result yet")

    def _on_step_finished(self, event: StepFinished) -> None:
        self._refuse_open_calls(event, "answered", "deferred")

    def _on_ending(self, event: ErrorEvent | Cancelled | MessageCompleted) -> None:
        self._refuse_open_calls(event, "answered")

    def _on_suspended(self, event: Suspended) -> None:
        if not event.waits:
            raise self._illegal(event, "it waits for nothing")
        for wait in event.waits:
            call = self._calls.get(wait.call_id)
            if call is None or (wait.kind, call.phase, call.place) not in _WAITS:
                raise self._illegal(event, f"call {wait.call_id!r} does not wait for {wait.kind!r}")

    def _on_finalized(self, event: Finalized) -> None:
        status = _FINAL_STATUS[self.ending]
        if event.status != status:
            raise self._illegal(event, f"the status of this ending is {status!r}")


_WAITS = frozenset(
    {
        *(("approval", "approval", place) for place in ("server", "client", "provider", "nowhere")),
        ("tool_result", "called", "client"),
        ("job", "deferred", "server"),
    }
)
"""What a call may wait for: the kind of the wait, the call's phase, and where it is executed."""

_HANDLERS: dict[str, Callable[[Lifecycle, Any], None]] = {
    **dict.fromkeys(("text_delta", "reasoning_delta", "refusal_delta"), Lifecycle._on_delta),
    **dict.fromkeys(("source", "file"), Lifecycle._on_whole_part),
    "tool_call_delta": Lifecycle._take_call_part,
    "tool_call": Lifecycle._on_tool_call,
    "model_completed": Lifecycle._on_model_completed,
    "step_reset": Lifecycle._on_step_reset,
    **dict.fromkeys(
        ("approval_requested", "approval_resolved", "tool_progress", "job_result"), Lifecycle._on_call_event
    ),
    "tool_started": Lifecycle._on_tool_started,
    "tool_result": Lifecycle._on_tool_result,
    "step_finished": Lifecycle._on_step_finished,
    "suspended": Lifecycle._on_suspended,
    **dict.fromkeys(("error", "cancelled", "message_completed"), Lifecycle._on_ending),
    "finalized": Lifecycle._on_finalized,
}


def check_log(events: Iterable[StreamEvent | StoredEvent]) -> Phase:
    """Walk a log and return the phase that it ends in; raises `IllegalEvent` at the first illegal event."""
    walk = Lifecycle()
    for event in events:
        walk.check(event.event if isinstance(event, StoredEvent) else event)
    return walk.phase


def diagram(
    table: Mapping[Phase, Mapping[str, Phase]] | Mapping[CallPhase, Mapping[str, CallPhase]] = RUN,
) -> str:
    """Draw a table (`RUN` or `CALL`) as a Mermaid state diagram, one arrow per pair of phases.

    The table's first row is where it begins; a row from which nothing leads on is an end.
    """
    rows: Mapping[Any, Mapping[str, Any]] = table
    arrows: dict[tuple[str, str], list[str]] = {}
    for phase, row in rows.items():
        for kind, after in row.items():
            arrows.setdefault((phase, after), []).append(kind)
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(rows))}"]
    lines += [f"    {phase} --> {after}: {', '.join(kinds)}" for (phase, after), kinds in arrows.items()]
    lines += [f"    {phase} --> [*]" for phase, row in rows.items() if not row]
    return "\n".join(lines) + "\n"
