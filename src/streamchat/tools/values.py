"""What a tool may raise, yield and return beside plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

from typing_extensions import TypeVar

from streamchat.errors import StreamChatError

__all__ = [
    "CANCELLED",
    "LONGEST_WAIT",
    "NOT_BEGUN",
    "STILL_RUNNING",
    "OutcomeUnknown",
    "Progress",
    "Return",
    "ToolError",
]

T = TypeVar("T", default=Any)

LONGEST_WAIT = 100 * 366 * 24 * 3600.0
"""Seconds that a wait for somebody outside may last: its end is stored in milliseconds, and JavaScript reads
it."""

NOT_BEGUN = "It was cancelled before it began."
"""The error of a cancelled call whose function was never entered."""
CANCELLED = "It was cancelled while it ran; whether it took effect is not known."
"""The error of a cancelled call that had begun and has ended."""
STILL_RUNNING = (
    "It was cancelled while it ran and may still be at work; whether it takes effect is not known."
)
"""The error of a cancelled call that was abandoned."""


class ToolError(StreamChatError):
    """Raised by a tool to tell the model, in the tool's own words, why it could not do what was asked.

    The text reaches the model and the client, that of any other exception never does. ``retry=True`` lets the
    call be tried again (where the tool is idempotent and has ``retries``); by default it is taken as final.
    """

    code = "tool_error"

    def __init__(self, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.retry = retry


class OutcomeUnknown(StreamChatError):
    """Raised by a ``reconcile`` hook that could not find out what came of a call."""

    code = "outcome_unknown"


@dataclass(frozen=True, slots=True)
class Progress:
    """Yielded by a generator tool: how far it is. ``fraction`` is 0 to 1, ``data`` any JSON value."""

    message: str | None = None
    fraction: float | None = None
    data: Any = None


@dataclass(frozen=True, slots=True)
class Return(Generic[T]):
    """Yielded by a generator tool: its result, whatever its type. The generator is closed right after."""

    value: T
