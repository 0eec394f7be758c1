"""What a run's log amounts to while it grows: the fold, the limits, what a resumed run must know."""

from __future__ import annotations

import time
from collections.abc import Iterable

from streamchat.core.conclude import conclude
from streamchat.core.fold import Folder, RunState
from streamchat.core.history import messages_of_content, private_of
from streamchat.core.lifecycle import HELD
from streamchat.events import StoredEvent, StreamEvent, ToolStarted, encode_event
from streamchat.messages import ModelMessage, ToolCallPart
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.limits import LimitWatch
from streamchat.orchestration.options import RunOptions
from streamchat.tools import Tool

__all__ = ["RunLog"]

_DELTA_COST = 64
_TEXT = frozenset({"text_delta", "reasoning_delta", "refusal_delta"})


class RunLog:
    """The log of one run, of which ``history`` is what others wrote, and `take` is told the rest.

    Whose run it is stands in the log: ``context`` is made to agree. ``rest`` is what is missing of an ending
    that is half there (no store of ours keeps one, but a log may come from elsewhere).
    """

    def __init__(
        self,
        history: Iterable[StreamEvent | StoredEvent],
        context: RunContext,
        options: RunOptions,
        began: float,
    ) -> None:
        self.folder = Folder()
        self.limits = LimitWatch(options.limits, began)
        self._options = options
        self._started_at: dict[str, int] = {}
        events = list(history)
        for event in events:
            self._recall(event)
        self.rest = (
            conclude(events, "interrupted") if events and HELD.get(events[-1].type) == "finalized" else []
        )
        state = self.state
        for name in ("run_id", "conversation_id", "message_id", "parent_run_id"):
            if getattr(state, name) is not None:
                setattr(context, name, getattr(state, name))

    def _recall(self, event: StreamEvent | StoredEvent) -> None:
        self.folder.add(event)
        self.limits.events += 1
        if not isinstance(event, StoredEvent):
            self.limits.bytes += len(encode_event(event)[0])
            return
        self.limits.bytes += len(event.data)
        if event.type == "tool_started" and isinstance(event.event, ToolStarted):
            self._started_at[event.event.call_id] = event.at

    @property
    def state(self) -> RunState:
        """The fold so far; costs as much as the message is long."""
        return self.folder.state

    def take(self, events: list[StreamEvent]) -> None:
        """Count and fold a batch that is about to be handed out.

        Raises `InvalidInput`, and takes none of it, when one holds what is not JSON.
        """
        size = 0
        for event in events:
            # Roughly: deltas, of which there are many, are not encoded for it.
            kind = event.type
            if kind in _TEXT:
                size += _DELTA_COST + len(event.text)  # type: ignore[union-attr]
            elif kind == "tool_call_delta":
                size += _DELTA_COST + len(event.arguments)  # type: ignore[union-attr,arg-type]
            else:
                size += len(encode_event(event)[0])
        add = self.folder.add
        for event in events:
            add(event)
        limits = self.limits
        limits.bytes += size
        limits.events += len(events)

    def said_before(self, state: RunState, step: int) -> list[ModelMessage]:
        """The model messages of the steps before ``step``."""
        parts = (part for part in state.parts if part.step < step)
        return messages_of_content(parts, private_of(self.folder.extras))

    def wait_before_rerun(self, call: ToolCallPart, tool: Tool) -> float:
        """Seconds until an attempt that was cut off must have ended: its timeout and the grace time.

        Events that were never stored say nothing of time: whoever has those had the run in the same process.
        """
        started, timeout = self._started_at.get(call.call_id), tool.time_limit(self._options.tool_timeout)
        if started is None or timeout is None:
            return 0.0
        longest = timeout + self._options.grace
        return min(longest, max(0.0, started / 1000 + longest - time.time()))
