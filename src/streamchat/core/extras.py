"""What a chat provider wants back with the assistant's message on the next turn, besides text and calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamchat.core.calls import merge_extra
from streamchat.core.jsontext import scrub

__all__ = ["MessageExtras"]

# OpenRouter's reasoning with signatures, Anthropic's blocks through LiteLLM, Gemini's signatures, Copilot's.
_LISTS = ("reasoning_details", "thinking_blocks")
_VALUES = ("extra_content", "provider_specific_fields", "reasoning_opaque", "reasoning_signature")
_KEYS = frozenset(_LISTS + _VALUES)


class MessageExtras:
    """Gathers a message's extras from its deltas.

    ``reasoning_field`` is the name under which the provider sent its reasoning; some of them refuse a next
    turn with tool results that does not bring it back under that name.
    """

    __slots__ = ("_lists", "_values", "reasoning_field")

    def __init__(self) -> None:
        self.reasoning_field: str | None = None
        self._lists: dict[str, list[Any]] = {}
        self._values: dict[str, Any] = {}

    def keep(self, delta: Mapping[str, Any]) -> None:
        """Takes from a delta what belongs here."""
        if _KEYS.isdisjoint(delta):
            return
        for key in _LISTS:
            value = delta.get(key)
            if isinstance(value, list) and value:
                self._lists.setdefault(key, []).extend(value)
        for key in _VALUES:
            value = delta.get(key)
            if isinstance(value, Mapping) or (isinstance(value, str) and value):
                self._values = merge_extra(self._values, {key: value})

    def merged(self) -> dict[str, Any]:
        """All of it; the pieces of one block, which share type and index, are one again."""
        merged: dict[str, Any] = {key: _joined(items) for key, items in self._lists.items()}
        merged.update(self._values)
        if self.reasoning_field is not None:
            merged["reasoning_field"] = self.reasoning_field
        result: dict[str, Any] = scrub(merged)
        return result


def _joined(items: list[Any]) -> list[Any]:
    blocks: list[Any] = []
    texts: list[dict[str, list[str]]] = []  # of each block, the pieces of its texts
    for item in items:
        last = blocks[-1] if blocks else None
        if not isinstance(item, dict):
            blocks.append(item)
            texts.append({})
            continue
        if not (
            isinstance(last, dict)
            and last.get("type") == item.get("type")
            and last.get("index") == item.get("index")
            and not ("data" in last and "data" in item)  # encrypted blocks are whole
        ):
            last = {}
            blocks.append(last)
            texts.append({})
        for key, value in item.items():
            if key in ("text", "summary", "thinking") and isinstance(value, str):
                texts[-1].setdefault(key, []).append(value)
                last.setdefault(key, "")
            elif value is not None or key not in last:
                last[key] = value
    for block, pieces in zip(blocks, texts, strict=True):
        for key, text in pieces.items():
            block[key] = "".join(text)
    return blocks
