"""One tool call while it grows, and what it is in the end; shared by both APIs.

Numbers in comments are the rules of the provider notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from streamchat.core.arguments import ArgumentText
from streamchat.core.completion import CallProblem, ToolCall
from streamchat.core.jsontext import join_surrogates, scrub

__all__ = [
    "CUT_REASONS",
    "OpenCall",
    "as_dict",
    "merge_extra",
    "natural",
    "provider_id",
    "shown_otherwise",
    "whole_calls",
]

# Rule 10, and what some servers say instead of `length` or `error`.
CUT_REASONS = frozenset(
    {"length", "content_filter", "error", "max_tokens", "model_length", "insufficient_system_resource"}
)


_ATTRIBUTES = ("index", "id", "type", "function", "custom", "name", "arguments", "input")


class OpenCall:
    """A call that may still grow. ``part`` is -1 until there is something to show."""

    __slots__ = (
        "closed",
        "extra",
        "id",
        "index",
        "literal",
        "name",
        "order",
        "part",
        "position",
        "raw_id",
        "renamed",
        "spare",
        "text",
    )

    def __init__(self, order: int, index: int | None = None) -> None:
        self.order = order
        self.index = index
        self.raw_id: str | None = None  # the provider's, also when another call has the same
        self.id: str | None = None
        self.name: str | None = None
        self.text = ArgumentText()
        self.extra: dict[str, Any] | None = None
        self.literal = False  # the input is plain text, not JSON
        self.position = -1
        self.part = -1
        self.renamed: str | None = None  # a name that came after the arguments were complete
        self.closed: bool | None = None  # the provider said that it is whole, or that it is not
        self.spare = False  # opened by a changed id alone: no call unless more comes

    def grow_name(self, name: str) -> bool:
        """Rule 4; whether the name changed."""
        known = self.name
        if known is None or name.startswith(known):
            if name == known:
                return False
            self.name = name
        elif not self.text:
            self.name = known + name
        else:
            return False
        return True

    @property
    def empty(self) -> bool:
        """Rule 7: neither id, name nor arguments."""
        return not (self.name or self.text) and (self.raw_id is None or self.spare)


def whole_calls(calls: Iterable[OpenCall], is_cut: Callable[[OpenCall], bool]) -> list[ToolCall]:
    """The calls in the provider's order, each with an id of its own (rules 2, 6, 7 and 10)."""
    kept = [call for call in calls if not call.empty]
    kept.sort(key=lambda call: (call.order if call.index is None else call.index, call.order))
    taken = {call.id for call in kept if call.id is not None}
    whole: list[ToolCall] = []
    for call in kept:
        cut = is_cut(call)
        raw, arguments = call.text.finish(cut)
        if call.literal:
            arguments = None if cut else {"input": raw}
        problem: CallProblem | None = None
        if not call.name:
            problem = "missing_name"
        elif arguments is None:
            problem = "truncated" if cut else "invalid_json"
        call_id = call.id
        if call_id is None:
            call_id = _made_id(call, taken)
            taken.add(call_id)
        whole.append(
            ToolCall(
                id=call_id,
                name=call.name,
                arguments=None if problem else arguments,
                arguments_json=raw,
                problem=problem,
                extra=scrub(call.extra),
                index=call.index,
                position=call.position,
                part=call.part,
            )
        )
    return whole


def shown_otherwise(calls: Iterable[OpenCall], whole: Iterable[ToolCall]) -> set[int]:
    """The parts among ``whole`` whose final text is not what the deltas joined give."""
    shown = {call.part: call.text for call in calls}
    return {call.part for call in whole if not shown[call.part].shown_as(call.arguments_json)}


def merge_extra(known: dict[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """``known`` with ``new`` merged into it, dict by dict; of two other values the newer stays."""
    merged = dict(known) if known else {}
    for key, value in new.items():
        present = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = merge_extra(present if isinstance(present, dict) else None, value)
        elif value is not None:
            merged[key] = value
    return merged


def provider_id(value: Any) -> str | None:
    """Rule 2: an id as text; None for what is no id."""
    if value is None or value == "" or value == "null":
        return None
    if value.__class__ is str:
        return join_surrogates(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return None


def natural(value: Any) -> int | None:
    """Rule 1: a non-negative integer, also as a string; None for anything else."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) <= 18 else None
    return value if isinstance(value, int) and value.__class__ is int and value >= 0 else None


def as_dict(value: Any) -> dict[str, Any] | None:
    """A mapping, or an object of the SDK or like it, as a dict; None for anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    if value is None or isinstance(value, (str, bytes, int, float, list, tuple)):
        return None
    if hasattr(value, "model_dump"):
        dumped = value.model_dump(exclude_unset=True, warnings=False)
        return dumped if isinstance(dumped, dict) else None
    return {key: getattr(value, key) for key in _ATTRIBUTES if hasattr(value, key)} or None


def _made_id(call: OpenCall, taken: set[str]) -> str:
    made = f"call_{call.position}"
    tries = 0
    while made in taken:
        tries += 1
        made = f"call_{call.position}_{tries}"
    return made
