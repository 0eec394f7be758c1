"""What a log amounts to: the state of a run, as `streamchat.core.fold` makes it.

The state is shown to clients (a snapshot of it restarts theirs), so nothing private is ever in it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from streamchat.events import Cancelled, ErrorEvent, Wait
from streamchat.messages import ContentPart, TextPart, ToolCallPart, Usage

__all__ = ["RunState", "StepState"]

Status: TypeAlias = Literal["queued", "running", "suspended", "success", "error", "cancelled"]


class StepState(BaseModel):
    """One step as the log tells it; durations are seconds, None while unknown."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int
    name: str | None = None
    kind: Literal["model", "workflow"] = "model"
    model_completed: bool = False
    finished: bool = False
    resets: int = 0
    finish_reason: str | None = None
    usage: Usage | None = None
    duration: float | None = None
    time_to_first_token: float | None = None


class RunState(BaseModel):
    """What a log amounts to; its JSON is the snapshot that ``history_reset`` carries, to fold on from.

    ``parts`` are in order of ``part`` and hold calls known only from deltas as well (``state`` is
    ``streaming``); the final content leaves those out. ``seq`` and the times (milliseconds since the epoch)
    are known only where stored events were folded. ``last_part`` counts withdrawn parts too: numbers are
    never used again.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_id: str | None = None
    conversation_id: str | None = None
    message_id: str | None = None
    parent_run_id: str | None = None
    model: str | None = None
    status: Status = "queued"
    parts: tuple[ContentPart, ...] = ()
    steps: tuple[StepState, ...] = ()
    waits: tuple[Wait, ...] = ()
    usage: Usage | None = None
    finish_reason: str | None = None
    error: ErrorEvent | None = None
    cancelled: Cancelled | None = None
    takeovers: int = 0
    last_part: int = -1
    events: int = 0
    seq: int = 0
    started_at: int | None = None
    first_token_at: int | None = None
    ended_at: int | None = None
    duration: float | None = None

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.status in ("success", "error", "cancelled")

    @property
    def text(self) -> str:
        """All text of the answer, without reasoning and refusals."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def calls(self) -> tuple[ToolCallPart, ...]:
        """The tool calls that stand, those still streaming left out."""
        return tuple(
            part for part in self.parts if isinstance(part, ToolCallPart) and part.state != "streaming"
        )
