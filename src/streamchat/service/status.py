"""A run as its owner may ask about it at any time: `RunStatus`, a fold of its log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamchat.buffers.base import RunRecord
from streamchat.core.fold import RunState

__all__ = ["RunStatus", "Started"]


@dataclass(frozen=True, slots=True)
class Started:
    """What `StreamChat.start` answers; ``new`` is False when the idempotency key was known, ``enqueued`` says
    that others of the conversation come first."""

    run_id: str
    message_id: str
    conversation_id: str
    new: bool = True
    enqueued: bool = False

    @classmethod
    def of(cls, run: RunRecord, *, new: bool) -> Started:
        """Answer for a run as it is stored."""
        return cls(run.run_id, run.message_id, run.conversation_id, new=new, enqueued=run.enqueued)


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run's state with its ids; ``cursor`` is the id of the last event that is folded into it.

    ``output`` is the newest answer that was of the run's ``output_type``, as JSON values; None where there is
    none, and where the log was trimmed since.
    """

    run_id: str
    conversation_id: str
    message_id: str
    state: RunState
    cursor: str
    output: Any = None

    @property
    def status(self) -> str:
        """``queued``, ``running``, ``suspended``, ``success``, ``error`` or ``cancelled``."""
        return self.state.status

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return self.state.text

    def as_json(self) -> dict[str, Any]:
        """Return what a client is told, as JSON values. Times are milliseconds since the epoch or seconds."""
        state = self.state.model_dump(mode="json", exclude_none=True)
        return {
            **({} if self.output is None else {"output": self.output}),
            "run_id": self.run_id,
            "conversation_id": self.conversation_id,
            "message_id": self.message_id,
            "parent_run_id": self.state.parent_run_id,
            "status": self.status,
            "cursor": self.cursor,
            "waits": state["waits"],
            "usage": state.get("usage"),
            "timings": {
                "started_at": self.state.started_at,
                "first_token_at": self.state.first_token_at,
                "ended_at": self.state.ended_at,
                "duration": self.state.duration,
                "steps": [
                    {name: step.get(name) for name in ("step", "duration", "time_to_first_token")}
                    for step in state["steps"]
                ],
            },
            "error": state.get("error"),
            "message": {"content": state["parts"], "finish_reason": state.get("finish_reason")},
        }
