"""A run's state for AG-UI: ``custom`` events named ``state``, as snapshots and JSON Patches.

``{"values": …}`` is the whole state, ``{"patch": […]}`` a JSON Patch (RFC 6902) on it: what a workflow emits,
and what `from_langgraph` says with ``state="values"`` or ``"diff"``. Anything else stays a ``CUSTOM`` event.
"""

from __future__ import annotations

import re
from typing import Any

from streamchat.events import CustomEvent

__all__ = ["StateLog"]

_POINTER = re.compile(r"(/([^/~]|~[01])*)*")
_NEEDS = {
    "add": "value",
    "remove": None,
    "replace": "value",
    "test": "value",
    "move": "from",
    "copy": "from",
}


class StateLog:
    """The state events that whoever joins late needs: the newest whole state, and the patches behind it."""

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def take(self, event: CustomEvent) -> dict[str, Any] | None:
        """Return the AG-UI event for a change of the state, None for a ``custom`` event that is none."""
        data = event.data
        if event.name != "state" or not isinstance(data, dict) or len(data) != 1:
            return None
        if "values" in data:
            said = {"type": "STATE_SNAPSHOT", "snapshot": data["values"]}
            self._events = [said]
        elif _is_patch(data.get("patch")):
            said = {"type": "STATE_DELTA", "delta": data["patch"]}
            self._events.append(said)
        else:
            return None
        return said

    def replay(self) -> list[dict[str, Any]]:
        """Return what leads to the present state."""
        return [dict(event) for event in self._events]


def _is_patch(patch: Any) -> bool:
    return isinstance(patch, list) and all(map(_is_operation, patch))


def _is_operation(operation: Any) -> bool:
    if not isinstance(operation, dict):
        return False
    name = operation.get("op")
    if not isinstance(name, str) or name not in _NEEDS:
        return False
    needed = _NEEDS[name]
    pointers = [operation.get("path")]
    if needed == "from":
        pointers.append(operation.get("from"))
    elif needed is not None and needed not in operation:
        return False
    return all(isinstance(pointer, str) and _POINTER.fullmatch(pointer) for pointer in pointers)
