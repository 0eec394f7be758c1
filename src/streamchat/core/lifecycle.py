"""The legal order of a run's events, as one table over their types and one over a call's.

`RUN` says which event may follow in which phase of a run, `CALL` the same for one tool call. `Lifecycle` walks both
and adds what a table of types cannot say: which step, part or call an event names. The same walk checks what
`orchestrate()` yields, what encoders are given and what hypothesis makes up; the diagrams in the documentation are
drawn from the tables by `diagram`.

Reading the run's phases: ``ready`` is between steps, ``model`` while the model speaks, ``tools`` from
``model_completed`` to ``step_finished``. A suspended run goes back to where it was, so it has two phases. After
``failed`` or ``stopped`` only the message and the end may come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from streamchat.errors import IllegalEvent
from streamchat.events import (
    ApprovalResolved,
    ModelCompleted,
    StoredEvent,
    StreamEvent,
    Suspended,
    ToolCallDelta,
    ToolCallEvent,
    ToolResult,
    UnknownEvent,
)

__all__ = ["BARRIERS", "CALL", "HELD", "RUN", "CallPhase", "Lifecycle", "Phase", "check_log", "diagram"]

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
        **_stay("model", *_CONTENT, "tool_call_delta", "tool_call", "tool_progress", "tool_result", "step_reset"),
        "model_completed": "tools",
        **_ENDINGS,
    },
    "tools": {
        **_stay("tools", "approval_requested", "approval_resolved", "tool_started", "tool_progress", "tool_result"),
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
    "approval": {"approval_resolved": "called", "tool_result": "answered"},
    "denied": {"tool_result": "answered"},
    "started": {"tool_started": "started", "tool_progress": "started", "tool_result": "answered"},
    "deferred": {"tool_progress": "deferred", "job_result": "answered"},
    "answered": {},
}
"""The same for one tool call. A result ``deferred`` leads to that phase, an approval that was refused to ``denied``."""

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
_NEVER_STARTED = frozenset({"error", "denied", "cancelled", "timeout"})
_PROGRESS_ANYWHERE = frozenset({"status", "custom", "job_result", "tool_progress", "error"})


@dataclass(slots=True)
class _Call:
    step: int
    part: int
    runs_here: bool
    phase: CallPhase = "called"


class Lifecycle:
    """Walks a log from its first event and refuses the first one that may not stand where it does.

    `check` raises `IllegalEvent`, naming the event, the phase and the reason, and then leaves the walk as it was.
    """

    __slots__ = ("_calls", "_parts", "ending", "last_part", "phase", "step")

    def __init__(self) -> None:
        self.phase: Phase = "start"
        self.step = 0
        """The number of the newest step; steps count from 1."""
        self.last_part = -1
        """The highest part number seen so far, withdrawn ones included."""
        self.ending: Phase = "ready"
        self._calls: dict[str, _Call] = {}
        self._parts: dict[int, tuple[int, str]] = {}

    def check(self, event: StreamEvent) -> None:
        """Take the next event of the log."""
        if isinstance(event, UnknownEvent):
            if self.phase in ("start", "over"):
                raise self._illegal(event, "nothing unknown may stand first, or after the end")
            return
        after = RUN[self.phase].get(event.type)
        if after is None:
            raise self._illegal(event, f"here only {', '.join(sorted(RUN[self.phase])) or 'nothing'} may come")
        self._check_step(event)
        handler = getattr(self, f"_on_{event.type}", None)
        if handler is not None:
            handler(event)
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
        elif step is not None and step != self.step and event.type not in _PROGRESS_ANYWHERE:
            raise self._illegal(event, f"the open step is {self.step}")

    def _take_part(self, event: StreamEvent, part: int, kind: str) -> None:
        known = self._parts.get(part)
        if known is None:
            if part <= self.last_part:
                raise self._illegal(event, f"a new part has a number above {self.last_part}")
            self.last_part = part
            self._parts[part] = (self.step, kind)
        elif known != (self.step, kind):
            raise self._illegal(event, f"part {part} is {known[1]} of step {known[0]}")

    def _on_text_delta(self, event: StreamEvent) -> None:
        self._take_part(event, event.part, event.type)  # type: ignore[union-attr]

    _on_reasoning_delta = _on_refusal_delta = _on_text_delta

    def _on_source(self, event: StreamEvent) -> None:
        part: int = event.part  # type: ignore[union-attr]
        if part in self._parts:
            raise self._illegal(event, f"part {part} is taken")
        self._take_part(event, part, event.type)

    _on_file = _on_source

    def _on_tool_call_delta(self, event: ToolCallDelta) -> None:
        if event.call_id in self._calls:
            raise self._illegal(event, "the call is complete, or the id is taken")
        self._take_part(event, event.part, f"call {event.call_id}")

    def _on_tool_call(self, event: ToolCallEvent) -> None:
        if event.call_id in self._calls:
            raise self._illegal(event, "the call_id is taken in this run")
        self._take_part(event, event.part, f"call {event.call_id}")
        runs_here = event.executed_by == "server" and event.problem is None
        self._calls[event.call_id] = _Call(self.step, event.part, runs_here)

    def _on_model_completed(self, event: ModelCompleted) -> None:
        calls = {call_id for call_id, call in self._calls.items() if call.step == self.step}
        if set(event.call_ids) != calls or len(event.call_ids) != len(calls):
            raise self._illegal(event, f"the step's calls are {sorted(calls)}")
        for finished in event.parts:
            if self._parts.get(finished.part, (0, ""))[0] != self.step:
                raise self._illegal(event, f"part {finished.part} is none of this step's")

    def _on_step_reset(self, event: StreamEvent) -> None:
        self._calls = {i: call for i, call in self._calls.items() if call.step != self.step}
        self._parts = {i: part for i, part in self._parts.items() if part[0] != self.step}

    def _advance(self, event: StreamEvent, call_id: str) -> _Call:
        call = self._calls.get(call_id)
        if call is None:
            raise self._illegal(event, f"no call {call_id!r} stands")
        after = CALL[call.phase].get(event.type)
        if after is None:
            raise self._illegal(event, f"call {call_id!r} is {call.phase}")
        call.phase = after
        return call

    def _on_approval_requested(self, event: StreamEvent) -> None:
        self._advance(event, event.call_id)  # type: ignore[union-attr]

    _on_tool_progress = _on_job_result = _on_approval_requested

    def _on_approval_resolved(self, event: ApprovalResolved) -> None:
        call = self._advance(event, event.call_id)
        if not event.approved:
            call.phase = "denied"

    def _on_tool_started(self, event: StreamEvent) -> None:
        call = self._calls.get(event.call_id)  # type: ignore[union-attr]
        if call is not None and not call.runs_here:
            raise self._illegal(event, "the call has a problem, or is executed elsewhere")
        self._advance(event, event.call_id)  # type: ignore[union-attr]

    def _on_tool_result(self, event: ToolResult) -> None:
        call = self._calls.get(event.call_id)
        if call is not None and call.phase != "started" and call.runs_here and event.outcome not in _NEVER_STARTED:
            raise self._illegal(event, "a call that never started has no such outcome")
        if self.phase == "model" and event.outcome != "cancelled":
            raise self._illegal(event, "before model_completed a call can only be cancelled")
        call = self._advance(event, event.call_id)
        if event.outcome == "deferred":
            call.phase = "deferred"

    def _on_step_finished(self, event: StreamEvent) -> None:
        open_calls = [i for i, call in self._calls.items() if call.phase not in ("answered", "deferred")]
        if open_calls:
            raise self._illegal(event, f"calls {open_calls} have no result")

    def _on_suspended(self, event: Suspended) -> None:
        wanted = {"approval": "approval", "tool_result": "called", "job": "deferred"}
        if not event.waits:
            raise self._illegal(event, "it waits for nothing")
        for wait in event.waits:
            call = self._calls.get(wait.call_id)
            if call is None or call.phase != wanted[wait.kind]:
                raise self._illegal(event, f"call {wait.call_id!r} does not wait for {wait.kind}")

    def _on_message_completed(self, event: StreamEvent) -> None:
        open_calls = [i for i, call in self._calls.items() if call.phase != "answered"]
        if open_calls:
            raise self._illegal(event, f"calls {open_calls} have no final result")

    def _on_finalized(self, event: StreamEvent) -> None:
        status = _FINAL_STATUS[self.ending]
        if event.status != status:  # type: ignore[union-attr]
            raise self._illegal(event, f"the status of this ending is {status!r}")


def check_log(events: Iterable[StreamEvent | StoredEvent]) -> Phase:
    """Walk a log and return the phase that it ends in; raises `IllegalEvent` at the first illegal event."""
    walk = Lifecycle()
    for event in events:
        walk.check(event.event if isinstance(event, StoredEvent) else event)
    return walk.phase


def diagram(table: Mapping[str, Mapping[str, str]] = RUN) -> str:
    """Draw a table (`RUN` or `CALL`) as a Mermaid state diagram, one arrow per pair of phases."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for phase, row in table.items():
        for kind, after in row.items():
            arrows.setdefault((phase, after), []).append(kind)
    lines = ["stateDiagram-v2"]
    lines += [f"    {phase} --> {after}: {', '.join(kinds)}" for (phase, after), kinds in arrows.items()]
    return "\n".join(lines) + "\n"


assert set(RUN) == set(get_args(Phase)) and set(CALL) == set(get_args(CallPhase))  # noqa: S101, PT018
