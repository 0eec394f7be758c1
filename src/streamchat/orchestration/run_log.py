"""What a run's log amounts to while it grows: the fold, the limits, what a resumed run must know."""

from __future__ import annotations

from collections.abc import Iterable

from streamchat.core.conclude import conclude
from streamchat.core.fold import Folder, RunState
from streamchat.core.history import messages_of_content, private_of
from streamchat.core.lifecycle import HELD
from streamchat.core.retry import kept_key
from streamchat.events import (
    ModelCompleted,
    StoredEvent,
    StreamEvent,
    Suspended,
    ToolCallEvent,
    ToolStarted,
    encode_event,
)
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
        self.limits = LimitWatch(options.limits, began, options.cost)
        self._options = options
        self._clock = context.clock
        self._started_at: dict[str, int] = {}
        self._completed_at: dict[int, int] = {}
        self._suspended_at: int | None = None
        self._expiries: dict[str, int] = {}
        self._kept_keys: dict[str, str] = {}
        self._context = context
        events = list(history)
        for event in events:
            self._recall(event)
        self._note_pause(self._clock())
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
        self._recall_call(event.event if isinstance(event, StoredEvent) else event)
        if not isinstance(event, StoredEvent):
            self.limits.bytes += len(encode_event(event)[0])
            return
        self.limits.bytes += len(event.data)
        self._note_pause(event.at)
        if isinstance(event.event, ToolStarted):
            self._started_at[event.event.call_id] = event.at
        elif isinstance(event.event, ModelCompleted):
            self._completed_at[event.event.step] = event.at
        elif event.type == "suspended":
            self._suspended_at = event.at

    def _recall_call(self, event: StreamEvent) -> None:
        if isinstance(event, ToolCallEvent) and (key := kept_key(event)) is not None:
            self._kept_keys[event.call_id] = key
        elif isinstance(event, Suspended):
            self._expiries |= {w.call_id: w.expires_at for w in event.waits if w.expires_at is not None}

    def _note_pause(self, until: int) -> None:
        if self._suspended_at is not None:
            self.limits.add_pause(max(0, until - self._suspended_at) / 1000)
        self._suspended_at = None

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
        return messages_of_content(state.parts, private_of(self.folder.extras), before=step)

    def idempotency_key(self, call_id: str) -> str:
        """The same for every attempt of a call, whoever makes it, also in a retry of that call."""
        return self._kept_keys.get(call_id) or f"{self._context.run_id}:{call_id}"

    def wait_before_rerun(self, call: ToolCallPart, tool: Tool) -> float:
        """Seconds until an attempt that was cut off must have ended: its timeout and the grace time.

        Events that were never stored say nothing of time: whoever has those had the run in the same process.
        """
        started, timeout = self._started_at.get(call.call_id), tool.time_limit(self._options.tool_timeout)
        if started is None or timeout is None:
            return 0.0
        longest = timeout + self._options.grace
        return min(longest, max(0.0, (started - self._clock()) / 1000 + longest))

    def client_expiry(self, call: ToolCallPart, seconds: float | None) -> int | None:
        """Until when a client may bring a call's result: as it was first said, whoever holds the run."""
        if seconds is None:
            return None
        known = self._expiries.get(call.call_id)
        if known is None:
            asked = self._completed_at.get(call.step)
            known = (self._clock() if asked is None else asked) + round(seconds * 1000)
            self._expiries[call.call_id] = known
        return known
