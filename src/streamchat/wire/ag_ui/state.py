"""An agent's state as a client is told of it: whole, or by the patches that change what it has.

``custom`` events that change no state (`streamchat.core.agent_state`) stay ``CUSTOM`` events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from streamchat.core.agent_state import AgentState, StateChanges, change_of, changed
from streamchat.events import CustomEvent, StoredEvent, StreamEvent
from streamchat.wire.ag_ui.shown import Put

__all__ = ["BaseState", "ShownState"]

BaseState: TypeAlias = AgentState | Callable[[], AgentState | None] | None
"""The state that a run goes on from, or a function that returns it (None: none is known)."""


class ShownState:
    """The state of one run for one client; ``base`` is what it goes on from."""

    def __init__(self, base: BaseState, put: Put) -> None:
        self._base = base
        self._put = put
        self._changes = StateChanges()
        self._settled = False
        """Whether the client has what the next patch is for, as far as can be known."""

    def take(self, event: StreamEvent | StoredEvent) -> None:
        """Take the run's next event, whatever it is."""
        self._changes.add(event)

    def lose(self) -> None:
        """Note that events of the run cannot be had."""
        self._changes.lose()

    def snapshot(self) -> None:
        """Tell the whole state, where there is one that is known."""
        state = self._now()
        if state is not None and state.known:
            self._settled = True
            self._put("STATE_SNAPSHOT", snapshot=state.value)

    def say(self, event: CustomEvent) -> None:
        """Tell what a ``custom`` event says; it must have been taken."""
        change = change_of(event)
        if change is None:
            self._put("CUSTOM", name=event.name, value=event.data)
            return
        kind, value = change
        settled, self._settled = self._settled, True
        if kind == "values" or (not settled and self._is_whole()):
            # A page that has nothing of earlier runs could make nothing of the patch.
            self.snapshot()
        else:
            self._put("STATE_DELTA", delta=value)

    def _is_whole(self) -> bool:
        state = self._now()
        return state is not None and state.known and state.whole

    def _now(self) -> AgentState | None:
        base: Any = self._base() if callable(self._base) else self._base
        return changed(base, self._changes.kept())
