"""Walks the lifecycle tables at random and writes a legal log on the way.

`LogWalk` is told what to do by `Choices`, so the same walk serves `streamchat.testing.strategies` and whoever
wants the same log for the same seed. Each type of the tables has a maker; one
without it stops the walk with a sentence that says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from streamchat.core.conclude import ending
from streamchat.core.fold import Folder
from streamchat.core.lifecycle import RUN
from streamchat.errors import StreamChatError
from streamchat.events import (
    Cancelled,
    CustomEvent,
    ErrorEvent,
    FileEvent,
    FinalStatus,
    FinishedPart,
    ModelCompleted,
    Outcome,
    ReasoningDelta,
    RefusalDelta,
    ResumeReason,
    RunResumed,
    RunStarted,
    SourceEvent,
    StatusEvent,
    StepFinished,
    StepReset,
    StepStarted,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    UnknownEvent,
)
from streamchat.testing.choices import Choices
from streamchat.testing.log_calls import JOB_OUTCOMES, SECRET, CallWalk, Maker, WalkedCall

__all__ = ["ENDINGS", "SECRET", "LogWalk"]

ENDINGS: tuple[FinalStatus, ...] = ("success", "error", "cancelled")
_NAMES = ("weather", "roll_dice", "wetter_für", "")
# How often a type is chosen where it may come: what moves a run on, before what may come anywhere.
_USUAL = 4
_WEIGHT = {
    "step_started": 12,
    "text_delta": 10,
    "tool_call_delta": 8,
    "tool_call": 10,
    "model_completed": 14,
    "approval_requested": 6,
    "approval_resolved": 14,
    "tool_started": 10,
    "tool_result": 10,
    "job_result": 6,
    "suspended": 14,
    **dict.fromkeys(("refusal_delta", "source", "file", "step_reset"), 2),
    **dict.fromkeys(("status", "custom", "run_resumed"), 1),
}
_STATUSES: tuple[Any, ...] = ("thinking", "queued", "tool_calling", "building", "waiting", "retrying")


class LogWalk(CallWalk):
    """One walk: `step` adds an event (or a batch that belongs together), `finish` goes to an ending.

    ``as_written`` keeps to what this package's own driver writes: a step's calls stand right before
    ``model_completed``, a take-over of an open step resets it, a run is suspended only when all that is open
    waits. Without it whatever the tables allow may come. ``log`` is what was written so far.
    """

    def __init__(self, choices: Choices, *, as_written: bool = True) -> None:
        super().__init__(choices, as_written=as_written)
        self._streaming: dict[str, int] = {}
        self._texts: list[tuple[int, str]] = []
        self._freed: list[str] = []
        self._resets = 0

    def step(self) -> None:
        """Write whatever may come next, endings aside."""
        options: list[list[Maker]] = []
        row = RUN[self.life.phase]
        for kind in row:
            maker = _MAKERS.get(kind)
            if maker is None:
                raise StreamChatError(f"no maker for {kind!r}: add one to {__name__}, so that tests cover it")
            makers = maker(self)
            if makers:
                options += [makers] * (_USUAL if len(row) == 1 else _WEIGHT.get(kind, _USUAL))
        if self.life.phase not in ("start", "over"):
            options.append([self._unknown])
        self._pick(self._pick(options))()

    def finish(self, how: FinalStatus) -> None:
        """Write what is needed to end the run this way, and the end."""
        if self.life.phase == "start":
            self._run_started()
        if self.life.phase in ("suspended_ready", "suspended_tools"):
            self._run_resumed()
        if how == "success":
            if self.life.phase == "model":
                self._model_completed()
            self._settle(cancel=False)
            if self.life.phase == "tools":
                self._step_finished()
        self._settle(cancel=how != "success")
        for call_id in self._in_phase("deferred"):
            self._job_result(call_id, "cancelled" if how != "success" else self._pick(JOB_OUTCOMES))
        folder = Folder()
        for event in self.log:
            folder.add(event)
        first = {"success": None, "error": self._error(), "cancelled": self._cancelled()}[how]
        for event in ending(folder, first, duration=self._choices.below(100) / 4):
            self.put(event)

    def _settle(self, *, cancel: bool) -> None:
        for call_id, phase in self.life.calls.items():
            if phase in ("answered", "deferred"):
                continue
            cut_off = phase == "started"
            if cancel or self.life.phase == "model":
                outcome: Outcome = "unknown" if cut_off else "cancelled"
            else:
                outcome = self._pick(self._outcomes(call_id))
            self._tool_result(call_id, outcome)

    # The makers: what of a type may come now, as functions that write it.

    def _run_started(self) -> None:
        run_id = f"run_{self._choices.below(1000)}"
        parent = self._pick((None, "run_before"))
        self.put(RunStarted(run_id=run_id, conversation_id="c1", message_id="m1", parent_run_id=parent))

    def _may_resume(self) -> list[Maker]:
        return [self._run_resumed] if len(self.log) > 1 or not self._as_written else []

    def _run_resumed(self) -> None:
        reasons: tuple[ResumeReason, ...] = ("takeover", "handover", "retry", "cancel")
        if self._waits:
            reasons = ("approval", "tool_result", "job", "cancel", "expired", "takeover")
        self._waits = ()
        self.put(RunResumed(reason=self._pick(reasons), worker=self._pick(("w1", "w2", None))))
        if self._as_written and self.life.phase == "model":
            self._step_reset("takeover")

    def _status(self) -> None:
        self.put(StatusEvent(status=self._pick(_STATUSES), detail=self._pick((None, self._choices.text()))))

    def _custom(self) -> None:
        self.put(CustomEvent(step=self.life.step or None, name="note", data=self._choices.value()))

    def _unknown(self) -> None:
        fields = {"type": "from_the_future", "step": self.life.step, "what": self._choices.value()}
        self.put(UnknownEvent.model_validate(fields))

    def _step_started(self) -> None:
        self._texts, self._streaming, self._resets = [], {}, 0
        kind: Literal["model", "workflow"] = "workflow" if self._seldom() else "model"
        self.put(StepStarted(step=self.life.step + 1, name=self._pick((None, "plan")), kind=kind))

    def _may_finish(self) -> list[Maker]:
        busy = [phase for phase in self.life.calls.values() if phase not in ("answered", "deferred")]
        return [] if busy else [self._step_finished]

    def _step_finished(self) -> None:
        duration, first = self._choices.below(9) / 4, self._pick((None, 0.25))
        self.put(StepFinished(step=self.life.step, duration=duration, time_to_first_token=first))

    def _new_part(self) -> int:
        return self.life.last_part + 1 + (self._choices.below(3) if self._seldom() else 0)

    def _may_say(self, make: type[TextDelta | ReasoningDelta | RefusalDelta]) -> list[Maker]:
        return [lambda: self._say(make)]

    def _say(self, make: type[TextDelta | ReasoningDelta | RefusalDelta]) -> None:
        kind = make.model_fields["type"].default
        known = [part for part, its in self._texts if its == kind]
        if known and not self._seldom():
            part = self._pick(known)
        else:
            part = self._new_part()
            self._texts.append((part, kind))
        self.put(make(step=self.life.step, part=part, text=self._choices.text()))

    def _source(self) -> None:
        data = self._pick((None, self._object()))
        self.put(
            SourceEvent(step=self.life.step, part=self._new_part(), url="https://example.org", data=data)
        )

    def _file(self) -> None:
        name = self._choices.text()
        self.put(FileEvent(step=self.life.step, part=self._new_part(), media_type="image/png", name=name))

    def _new_id(self) -> str:
        if self._freed and self._flip():
            return self._freed.pop()
        self._ids += 1
        return f"call_{self._ids}"

    def _call_delta(self) -> None:
        if self._streaming and not self._seldom():
            call_id = self._pick(list(self._streaming))
            name = None
        else:
            call_id, name = self._new_id(), self._pick((*_NAMES, None))
            self._streaming[call_id] = self._new_part()
        part, arguments = self._streaming[call_id], self._choices.text()
        self.put(
            ToolCallDelta(step=self.life.step, part=part, call_id=call_id, name=name, arguments=arguments)
        )

    def _in_step(self) -> list[str]:
        return [call_id for call_id, call in self._calls.items() if call.step == self.life.step]

    def _may_call(self) -> list[Maker]:
        return [] if self._as_written else [self._tool_call]

    def _tool_call(self) -> None:
        """Complete a call that streams, or write one that comes whole."""
        call_id = self._pick([*self._streaming, ""]) or self._new_id()
        part = self._streaming.pop(call_id, None)
        seldom = self._seldom()
        event = ToolCallEvent(
            step=self.life.step,
            part=self._new_part() if part is None else part,
            call_id=call_id,
            provider_call_id=self._pick((None, f"functions.tool:{len(self._in_step())}")),
            name=self._pick(_NAMES),
            arguments=None if seldom else self._object(),
            arguments_text='{"cut' if seldom else None,
            problem=self._pick(("truncated", "invalid_json")) if seldom else None,
            executed_by=self._pick(("server", "server", "client", "provider")),
        )
        self.put(event)
        self._calls[call_id] = WalkedCall(event)

    def _model_completed(self) -> None:
        if self._as_written:
            for _ in range(self._pick((1, 2, 0, 1, 3))):
                self._tool_call()
        calls = self._in_step()
        kept = {i: self._kept(i) for i in calls if self._flip()}
        extras: dict[str, Any] = {"calls": kept} if kept else {}
        if self._flip():
            extras["api"] = {"signature": SECRET}
        self._streaming = {}
        parts = [
            FinishedPart(part=part, text=self._choices.text() if self._seldom() else None)
            for part, _ in self._texts
        ]
        completed = ModelCompleted(
            step=self.life.step,
            finish_reason=self._pick(("stop", "tool_calls", "length", None)),
            parts=tuple(parts),
            call_ids=tuple(calls),
            usage=self._usage(),
            private=extras or None,
        )
        self.put(completed)

    def _kept(self, call_id: str) -> dict[str, Any]:
        """What the log keeps of a call for its provider: the text as it came, and something of its own."""
        event = self._calls[call_id].event
        raw = event.arguments_text if event.arguments is None else " " + json.dumps(event.arguments)
        return {"arguments": raw, "extra": {"signature": SECRET}}

    def _step_reset(self, reason: Literal["provider", "takeover"] = "provider") -> None:
        self._resets += 1
        retry_in = self._pick((None, 0.5))
        self.put(StepReset(step=self.life.step, attempt=self._resets, reason=reason, retry_in=retry_in))
        withdrawn = self._in_step()
        self._freed += [i for i in (*withdrawn, *self._streaming) if i not in self._freed]
        self._calls = {i: call for i, call in self._calls.items() if i not in withdrawn}
        self._texts, self._streaming = [], {}

    def _error(self) -> ErrorEvent:
        phase: Any = self._pick(("model", "tool", "buffer", "limit", "orchestration"))
        return ErrorEvent(phase=phase, code="timeout", message=self._choices.text(), retryable=self._flip())

    def _cancelled(self) -> Cancelled:
        return Cancelled(by=self._pick((None, "u")), reason=self._pick((None, "enough")))


def _only(make: Callable[[LogWalk], None]) -> Callable[[LogWalk], list[Maker]]:
    return lambda walk: [lambda: make(walk)]


def _by_finish(walk: LogWalk) -> list[Maker]:
    return []


_MAKERS: dict[str, Callable[[LogWalk], list[Maker]]] = {
    "run_started": _only(LogWalk._run_started),
    "run_resumed": LogWalk._may_resume,
    "status": _only(LogWalk._status),
    "step_started": _only(LogWalk._step_started),
    "step_finished": LogWalk._may_finish,
    "text_delta": lambda walk: walk._may_say(TextDelta),
    "reasoning_delta": lambda walk: walk._may_say(ReasoningDelta),
    "refusal_delta": lambda walk: walk._may_say(RefusalDelta),
    "source": _only(LogWalk._source),
    "file": _only(LogWalk._file),
    "tool_call_delta": _only(LogWalk._call_delta),
    "tool_call": LogWalk._may_call,
    "model_completed": _only(LogWalk._model_completed),
    "step_reset": _only(LogWalk._step_reset),
    "approval_requested": LogWalk._may_ask,
    "approval_resolved": lambda walk: walk._each(walk._decide, walk._in_phase("approval")),
    "tool_started": LogWalk._may_start,
    "tool_progress": lambda walk: walk._each(walk._progress, walk._in_phase("started", "deferred")),
    "tool_result": LogWalk._may_answer,
    "job_result": lambda walk: walk._each(
        lambda call_id: walk._job_result(call_id, walk._pick(JOB_OUTCOMES)), walk._in_phase("deferred")
    ),
    "suspended": LogWalk._may_suspend,
    "custom": _only(LogWalk._custom),
    **dict.fromkeys(("error", "cancelled", "message_completed", "finalized"), _by_finish),
}
