"""The half of a random walk that is about tool calls: approvals, attempts, results, jobs, waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from streamchat.core.lifecycle import Lifecycle
from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    JobOutcome,
    JobResult,
    Outcome,
    StreamEvent,
    Suspended,
    ToolCallEvent,
    ToolProgress,
    ToolResult,
    ToolStarted,
    Wait,
)
from streamchat.messages import Usage
from streamchat.testing.choices import Choices

__all__ = ["JOB_OUTCOMES", "SECRET", "CallWalk", "Maker", "WalkedCall"]

# Put together at run time: hypothesis draws the literals of the code under test, for public fields too.
SECRET = "-".join(("not", "for", "clients"))
"""Stands in every private field that a walk writes: where this text appears, something private got out."""

Maker = Callable[[], None]
"""Writes what it was made for."""
JOB_OUTCOMES: tuple[JobOutcome, ...] = ("ok", "error", "timeout", "cancelled")

_T = TypeVar("_T")
_NOT_RUN: tuple[Outcome, ...] = ("error", "denied", "cancelled", "timeout")
_RAN: tuple[Outcome, ...] = ("ok", "error", "timeout", "cancelled", "unknown")


@dataclass(slots=True)
class WalkedCall:
    """A complete call of a walk, and what was asked and tried of it."""

    event: ToolCallEvent
    attempts: int = 0
    approval_id: str = ""

    @property
    def step(self) -> int:
        """The step that made the call."""
        return self.event.step

    @property
    def here(self) -> bool:
        """Whether the run's own process executes it."""
        return self.event.executed_by == "server" and self.event.problem is None

    @property
    def elsewhere(self) -> bool:
        """Whether a client or the provider executes it."""
        return self.event.executed_by != "server" and self.event.problem is None


class CallWalk:
    """The part of a walk that decides, writes, and answers the calls that stand."""

    def __init__(self, choices: Choices, *, as_written: bool) -> None:
        self.log: list[StreamEvent] = []
        self.life = Lifecycle()
        self._choices = choices
        self._as_written = as_written
        self._private_every = choices.below(4)
        self._calls: dict[str, WalkedCall] = {}
        self._ids = 0
        self._waits: tuple[Wait, ...] = ()

    # Deciding.

    def _pick(self, options: Sequence[_T]) -> _T:
        return options[self._choices.below(len(options))]

    def _flip(self) -> bool:
        return self._choices.below(2) == 1

    def _seldom(self) -> bool:
        return self._choices.below(6) == 5

    def _object(self) -> dict[str, Any]:
        return {self._choices.text(): self._choices.value()} if self._flip() else {}

    def _usage(self) -> Usage | None:
        if self._seldom():
            return None
        read, written = self._choices.below(1000), self._choices.below(1000)
        return Usage(
            provider=self._pick(("openai", None)),
            model=self._pick(("small", "large")),
            input_tokens=read,
            output_tokens=written,
            total_tokens=read + written,
        )

    def put(self, event: StreamEvent) -> None:
        """Write ``event``; raises `IllegalEvent` where it may not stand."""
        if event.private is None and self._private_every and len(self.log) % self._private_every == 0:
            event = event.model_copy(update={"private": {"kept": SECRET}})
        self.life.check(event)
        self.log.append(event)

    # What of a type may come now, as functions that write it; and these.

    def _in_phase(self, *phases: str) -> list[str]:
        return [call_id for call_id, phase in self.life.calls.items() if phase in phases]

    def _each(self, write: Callable[[str], None], call_ids: Sequence[str]) -> list[Maker]:
        return [lambda call_id=call_id: write(call_id) for call_id in call_ids]  # type: ignore[misc]

    def _may_ask(self) -> list[Maker]:
        sound = [
            call_id for call_id in self._in_phase("called") if self._calls[call_id].event.problem is None
        ]
        return self._each(self._ask, sound)

    def _ask(self, call_id: str) -> None:
        call = self._calls[call_id]
        self._ids += 1
        call.approval_id = f"approval_{self._ids}"
        asked = ApprovalRequested(
            step=call.step,
            approval_id=call.approval_id,
            call_id=call_id,
            name=call.event.name,
            arguments=call.event.arguments,
            message=self._choices.text(),
            expires_at=self._pick((None, 1_700_000_000_000)),
        )
        self.put(asked)

    def _decide(self, call_id: str) -> None:
        call, approved = self._calls[call_id], self._flip()
        edited = self._object() if approved and self._seldom() else None
        decided = ApprovalResolved(
            step=call.step,
            approval_id=call.approval_id,
            call_id=call_id,
            approved=approved,
            arguments=edited,
            by="u",
        )
        self.put(decided)

    def _may_start(self) -> list[Maker]:
        startable = [i for i in self._in_phase("called", "started") if self._calls[i].here]
        return self._each(self._tool_started, startable)

    def _tool_started(self, call_id: str) -> None:
        call = self._calls[call_id]
        call.attempts += 1
        started = ToolStarted(
            step=call.step, call_id=call_id, attempt=call.attempts, idempotency_key=f"run:{call_id}"
        )
        self.put(started)

    def _progress(self, call_id: str) -> None:
        progress = ToolProgress(
            step=self._calls[call_id].step,
            call_id=call_id,
            message=self._choices.text(),
            fraction=self._pick((None, 0.5)),
            data=self._choices.value(),
        )
        self.put(progress)

    def _outcomes(self, call_id: str) -> Sequence[Outcome]:
        call, phase = self._calls[call_id], self.life.calls[call_id]
        if self.life.phase == "model":
            return ("cancelled",)
        if phase == "started":
            return (*_RAN, "deferred", "deferred", "deferred")
        return _RAN if phase == "called" and call.elsewhere else _NOT_RUN

    def _may_answer(self) -> list[Maker]:
        if self.life.phase == "model" and not self._seldom():
            return []  # it may, but only to be cancelled
        open_calls = self._in_phase("called", "approval", "denied", "started")
        return self._each(lambda i: self._tool_result(i, self._pick(self._outcomes(i))), open_calls)

    def _tool_result(self, call_id: str, outcome: Outcome) -> None:
        result = ToolResult(
            step=self._calls[call_id].step,
            call_id=call_id,
            outcome=outcome,
            output=self._choices.value() if outcome in ("ok", "deferred") else None,
            error=self._choices.text() if outcome == "error" else None,
            duration=self._pick((None, 1.5)),
            job_id=f"run:{call_id}" if outcome == "deferred" else None,
        )
        self.put(result)

    def _job_result(self, call_id: str, outcome: JobOutcome) -> None:
        result = JobResult(
            step=self._pick((self._calls[call_id].step, None)),
            job_id=f"run:{call_id}",
            call_id=call_id,
            outcome=outcome,
            output=self._choices.value() if outcome == "ok" else None,
        )
        self.put(result)

    def _may_suspend(self) -> list[Maker]:
        waits = [wait for call_id in self.life.calls if (wait := self._wait(call_id)) is not None]
        busy = len(self._in_phase("called", "approval", "denied", "started", "deferred")) > len(waits)
        if not waits or (busy and self._as_written):
            return []
        return [lambda: self._suspend(waits)]

    def _wait(self, call_id: str) -> Wait | None:
        call, phase = self._calls[call_id], self.life.calls[call_id]
        if phase == "approval":
            return Wait(kind="approval", call_id=call_id, approval_id=call.approval_id)
        if phase == "deferred":
            return Wait(kind="job", call_id=call_id, job_id=f"run:{call_id}", expires_at=1_700_000_000_000)
        asked = phase == "called" and call.elsewhere and call.event.executed_by == "client"
        return Wait(kind="tool_result", call_id=call_id) if asked else None

    def _suspend(self, waits: list[Wait]) -> None:
        self._waits = tuple(waits if self._as_written else waits[: 1 + self._choices.below(len(waits))])
        self.put(Suspended(waits=self._waits))
