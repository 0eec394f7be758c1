"""What a run has taken of what it may take: counts events, bytes and time against `Limits`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from streamchat.core.fold import RunState
from streamchat.messages import Usage
from streamchat.orchestration.options import Limits

__all__ = ["LimitWatch", "Reached"]


class Reached(NamedTuple):
    """A limit that was reached: its name, and a sentence for clients."""

    code: str
    message: str


class LimitWatch:
    """The counts of one run, which was created at ``began`` (seconds of `time.monotonic`).

    Whoever hands events out adds to ``events`` and ``bytes``. ``timeless``: there is no deadline. ``cost``
    says what a step's usage costs.
    """

    def __init__(self, limits: Limits, began: float, cost: Callable[[Usage], float] | None = None) -> None:
        self._limits = limits
        self._cost = cost
        self.events = 0
        self.bytes = 0
        self._ends_at = None if limits.deadline is None else began + limits.deadline
        self.timeless = limits.deadline is None
        self._out_of_time = False

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline; None where there is none."""
        return None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())

    def add_pause(self, seconds: float) -> None:
        """Note that the run was suspended for so long, which does not count."""
        if self._ends_at is not None:
            self._ends_at += seconds

    def expire(self) -> None:
        """Note that a timer set to `seconds_left` has fired: it may do so a hair before the clock says so."""
        self._out_of_time = True

    def reached(self) -> Reached | None:
        """The limit that keeps the run from going on at any point, if one does."""
        limits = self._limits
        if limits.max_events is not None and self.events >= limits.max_events:
            return Reached("max_events", "The answer has grown too long.")
        if limits.max_log_bytes is not None and self.bytes >= limits.max_log_bytes:
            return Reached("max_log_bytes", "The answer has grown too long.")
        if self._ends_at is not None and (self._out_of_time or time.monotonic() >= self._ends_at):
            return Reached("deadline", "The answer took too long.")
        return None

    def reached_before_step(self, state: RunState) -> Reached | None:
        """The limit that keeps a run in ``state`` from another step."""
        limits = self._limits
        if limits.max_steps is not None and len(state.steps) >= limits.max_steps:
            return Reached("max_steps", "The answer took too many steps.")
        taken = state.usage.total_tokens if state.usage is not None else 0
        if limits.max_tokens_total is not None and taken >= limits.max_tokens_total:
            return Reached("max_tokens_total", "The answer took too many tokens.")
        if limits.max_cost is not None and self._cost is not None:
            used = [step.usage for step in state.steps if step.usage is not None]
            if used and sum(map(self._cost, used)) >= limits.max_cost:
                return Reached("max_cost", "The answer has cost too much.")
        return None

    def reached_by_takeovers(self, state: RunState) -> Reached | None:
        """The limit that keeps a run which was taken over so often from going on."""
        most = self._limits.max_takeovers
        if most is not None and state.takeovers > most:
            return Reached("max_takeovers", "The answer broke off too often.")
        return None

    def reached_by_calls(self, number: int, state: RunState) -> Reached | None:
        """The limit that keeps the newest step of a run in ``state`` from running so many calls."""
        most = self._limits.max_tool_calls_per_step
        if most is not None and number > most:
            text = f"The model asked for {number} tools at once; {most} are allowed."
            return Reached("max_tool_calls_per_step", text)
        most = self._limits.max_tool_calls
        if most is not None and sum(call.executed_by != "provider" for call in state.calls) > most:
            return Reached("max_tool_calls", "The answer took too many tool calls.")
        return None
