"""An agent's state: what ``custom`` events named ``state`` set, or change by a JSON Patch (RFC 6902).

``{"values": …}`` is the whole state, ``{"patch": […]}`` changes it. The state is a conversation's: a run goes
on from what the runs before it have left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from streamchat.events import CustomEvent, RunStarted, StoredEvent, StreamEvent

__all__ = ["AgentState", "PatchFailed", "StateChanges", "apply_patch", "change_of", "changed"]

Change: TypeAlias = tuple[Literal["values", "patch"], Any]

_POINTER = re.compile(r"(/([^/~]|~[01])*)*")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_NEEDS = {
    "add": "value",
    "remove": None,
    "replace": "value",
    "test": "value",
    "move": "from",
    "copy": "from",
}
_DEEPEST = 100
"""How many keys a pointer may have."""
_GATHERED = 100
"""How many patches are kept before they are applied."""


class PatchFailed(ValueError):
    """A patch does not fit the value that it is for."""


@dataclass(frozen=True, slots=True)
class AgentState:
    """The state at some place of a conversation: ``value``, where it is ``known``.

    ``whole`` says that it was set as a whole once; otherwise it was made from ``{}``, where clients begin.
    """

    value: Any = None
    whole: bool = False
    known: bool = True


class StateChanges:
    """Takes the events of a run, in order from its first, and knows what they did to the state."""

    __slots__ = ("_begun", "_lost", "_patches", "_values")

    def __init__(self) -> None:
        self._begun = self._lost = False
        self._values: list[Any] = []
        """The state as it was set last, with the patches that were applied since; nothing, or that."""
        self._patches: list[list[dict[str, Any]]] = []

    def add(self, event: StreamEvent | StoredEvent) -> None:
        """Take the next event."""
        event = event.event if isinstance(event, StoredEvent) else event
        if not self._begun:
            self._begun = True
            self._lost = not isinstance(event, RunStarted)
        change = change_of(event) if isinstance(event, CustomEvent) else None
        if change is None:
            return
        kind, value = change
        if kind == "values":
            self._values, self._patches, self._lost = [value], [], False
            return
        self._patches.append(value)
        if self._values and len(self._patches) >= _GATHERED:
            self._gather()

    def lose(self) -> None:
        """Note that events are not here."""
        self._begun = self._lost = True
        self._values, self._patches = [], []

    def kept(self) -> dict[str, Any] | None:
        """Return what `changed` needs of them, as JSON; None where they did nothing."""
        if self._values:
            self._gather()
            return {"values": self._values[0]}
        if self._lost:
            return {"lost": True}
        return {"patches": list(self._patches)} if self._patches else None

    def _gather(self) -> None:
        value = self._values[0]
        for patch in self._patches:
            value = _applied(value, patch)
        self._values, self._patches = [value], []


def change_of(event: CustomEvent) -> Change | None:
    """Return how an event changes the state; None for one that does not."""
    data = event.data
    if event.name != "state" or not isinstance(data, dict) or len(data) != 1:
        return None
    if "values" in data:
        return "values", data["values"]
    patch = data.get("patch")
    if isinstance(patch, list) and all(map(_is_operation, patch)):
        return "patch", patch
    return None


def changed(state: AgentState | None, kept: Mapping[str, Any] | None) -> AgentState | None:
    """Return the state after a run, whose `StateChanges.kept` is given; None where none was ever said.

    A patch that does not fit is passed over, as clients do. Where it may be for a state that a page had from
    elsewhere, the state is not known any more.
    """
    if kept is None:
        return state
    if "values" in kept:
        return AgentState(kept["values"], whole=True)
    if "patches" not in kept:
        return AgentState(known=False)
    state = state or AgentState({})
    value = state.value
    for patch in kept["patches"] if state.known else ():
        try:
            value = apply_patch(value, patch)
        except PatchFailed:
            if not state.whole:
                return AgentState(known=False)
    return AgentState(value, state.whole, state.known)


def _applied(value: Any, patch: Iterable[Mapping[str, Any]]) -> Any:
    try:
        return apply_patch(value, patch)
    except PatchFailed:
        return value


def apply_patch(value: Any, patch: Iterable[Mapping[str, Any]]) -> Any:
    """Return what a JSON Patch makes of a JSON value, which stays as it is; both may share what is in them.

    Raises `PatchFailed` where an operation does not fit.
    """
    for operation in patch:
        name, path = operation["op"], _keys(operation["path"])
        if name == "remove":
            value = _without(value, path)
        elif name == "test":
            if not _same(_found(value, path), operation["value"]):
                raise PatchFailed(operation["path"])
        elif name in ("add", "replace"):
            value = _with(value, path, operation["value"], replace=name == "replace")
        else:
            source = _keys(operation["from"])
            moved = _found(value, source)
            if name == "move":
                if path[: len(source)] == source and path != source:
                    raise PatchFailed("moved into itself")
                value = _without(value, source)
            value = _with(value, path, moved, replace=False)
    return value


def _keys(pointer: str) -> list[str]:
    keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
    if len(keys) > _DEEPEST:
        raise PatchFailed("too deep")
    return keys


def _place(value: Any, key: str) -> Any:
    """Return the key, or index, of what is there already."""
    if isinstance(value, dict) and key in value:
        return key
    if isinstance(value, list) and _INDEX.fullmatch(key) and int(key) < len(value):
        return int(key)
    raise PatchFailed(key)


def _found(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        value = value[_place(value, key)]
    return value


def _with(value: Any, keys: Sequence[str], new: Any, *, replace: bool) -> Any:
    if not keys:
        return new
    key, *rest = keys
    if rest or replace:
        place = _place(value, key)
        out = value.copy()
        out[place] = _with(value[place], rest, new, replace=replace)
        return out
    if isinstance(value, dict):
        return {**value, key: new}
    if isinstance(value, list):
        place = len(value) if key == "-" else int(key) if _INDEX.fullmatch(key) else len(value) + 1
        if place <= len(value):
            return [*value[:place], new, *value[place:]]
    raise PatchFailed(key)


def _without(value: Any, keys: Sequence[str]) -> Any:
    if not keys:
        return None
    key, *rest = keys
    place = _place(value, key)
    out = value.copy()
    if rest:
        out[place] = _without(value[place], rest)
    else:
        del out[place]
    return out


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: ``true`` is no number."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


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
