"""What a run came to, in numbers: the typed `RunSummary` that hooks get and the log has a line of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from streamchat.events import ErrorEvent, Finalized, StepReset, StoredEvent, ToolResult
from streamchat.messages import Usage

__all__ = ["RunSummary", "SummaryBuilder"]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run, or one worker's share of it when it was taken over or handed on.

    ``outcome`` is the final status, ``handed_over`` (another worker goes on), ``lost`` (the lease went to
    somebody else, or the store was away for too long) or ``suspended``. Times are seconds: ``queued`` from
    creation to the claim, ``first_token`` from creation to the first delta in the log, ``duration`` from
    creation to the end. ``retries`` counts steps asked again. ``failed_phase`` and ``failed_code`` are those
    of the run's ``error``.
    """

    run_id: str
    conversation_id: str
    outcome: str
    queued: float | None = None
    first_token: float | None = None
    duration: float | None = None
    steps: int = 0
    events: int = 0
    bytes: int = 0
    appends: int = 0
    retries: int = 0
    tool_calls: int = 0
    tool_outcomes: dict[str, int] = field(default_factory=dict)
    usage: Usage | None = None
    failed_phase: str | None = None
    failed_code: str | None = None
    correlation_id: str | None = None
    worker: str | None = None

    def line(self) -> str:
        """Return the summary as one line for the log."""
        tokens = self.usage.total_tokens if self.usage else "?"
        failed = f", failed in {self.failed_phase}: {self.failed_code}" if self.failed_phase else ""
        return (
            f"run {self.run_id}: {self.outcome} in {self.duration} s, first token {self.first_token} s, "
            f"{self.steps} steps, {self.tool_calls} tool calls, {self.events} events, {tokens} tokens, "
            f"{self.retries} retries{failed}"
        )


class SummaryBuilder:
    """Counts what is appended; constant and small cost per event."""

    def __init__(self, created_at: int) -> None:
        self._created_at = created_at
        self._types: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._bytes = 0
        self._appends = 0
        self._retries = 0
        self._first_token_at: int | None = None
        self._ended_at: int | None = None
        self._usage: Usage | None = None
        self._error: ErrorEvent | None = None
        self.status: str | None = None
        """The final status, once ``finalized`` was seen."""
        self.claimed_at: int | None = None

    def add(self, events: Iterable[StoredEvent]) -> None:
        """Count one append's events."""
        self._appends += 1
        for stored in events:
            self._types[stored.type] += 1
            self._bytes += len(stored.data)
            if self._first_token_at is None and stored.type.endswith("_delta"):
                self._first_token_at = stored.at
            if stored.type in _LOOKED_INTO:
                self._look_into(stored)

    def _look_into(self, stored: StoredEvent) -> None:
        event = stored.event
        if isinstance(event, ToolResult):
            self._outcomes[event.outcome] += 1
        elif isinstance(event, StepReset):
            self._retries += event.reason == "provider"
        elif isinstance(event, ErrorEvent):
            self._error = event
        elif isinstance(event, Finalized):
            self.status, self._usage, self._ended_at = event.status, event.usage, stored.at

    def build(self, run_id: str, conversation_id: str, outcome: str, worker: str | None) -> RunSummary:
        """Return the summary of what was counted."""
        error = self._error
        return RunSummary(
            run_id=run_id,
            conversation_id=conversation_id,
            outcome=outcome,
            queued=self._since(self.claimed_at),
            first_token=self._since(self._first_token_at),
            duration=self._since(self._ended_at),
            steps=self._types["step_started"],
            events=self._types.total(),
            bytes=self._bytes,
            appends=self._appends,
            retries=self._retries,
            tool_calls=self._types["tool_call"],
            tool_outcomes=dict(self._outcomes),
            usage=self._usage,
            failed_phase=error.phase if error else None,
            failed_code=error.code if error else None,
            correlation_id=error.correlation_id if error else None,
            worker=worker,
        )

    def _since(self, at: int | None) -> float | None:
        return None if at is None else (at - self._created_at) / 1000


_LOOKED_INTO = frozenset({"tool_result", "step_reset", "error", "finalized"})
