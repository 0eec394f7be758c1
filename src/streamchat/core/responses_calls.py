"""The calls among the items of a response: what was announced, streamed and finally said of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from streamchat.core.calls import OpenCall, provider_id, shown_otherwise, whole_calls
from streamchat.core.completion import CallDelta, Delta, ToolCall
from streamchat.core.jsontext import encode_json, join_surrogates
from streamchat.core.responses_items import CALL_INPUT, Item

__all__ = ["ResponseCalls"]


class ResponseCalls:
    """All calls of a response, each of an item; ``new_part`` gives the part of one that is first shown."""

    __slots__ = ("_calls", "_ids", "_new_part", "_shown")

    def __init__(self, new_part: Callable[[], int]) -> None:
        self._new_part = new_part
        self._calls: list[OpenCall] = []
        self._ids: dict[str, OpenCall] = {}
        self._shown = 0

    def __bool__(self) -> bool:
        return any(not call.empty for call in self._calls)

    def begin(self, item: Item, data: dict[str, Any], out: list[Delta]) -> None:
        """The item is announced, perhaps with input that the deltas will repeat."""
        call = self._call_of(item)
        known = bool(call.text)
        self._grow(item, data, None if known else data.get(CALL_INPUT[item.type or ""]), out)
        if not known:
            item.initial = call.text.text()

    def extend(self, item: Item, fragment: Any, out: list[Delta]) -> None:
        """A delta of the input."""
        if item.initial and isinstance(fragment, str):
            fragment = self._after_initial(item, item.initial, fragment)
        self._grow(item, {}, fragment, out)

    def name(self, item: Item, data: dict[str, Any], out: list[Delta]) -> None:
        """Takes name and call_id, where ``data`` has them."""
        self._grow(item, data, None, out)

    def settle(self, item: Item, arguments: Any, out: list[Delta]) -> None:
        """The whole input, which overrides the deltas; an empty one says nothing."""
        call = self._call_of(item)
        if arguments is not None and arguments != "":
            text = call.text.replace(arguments if isinstance(arguments, str) else encode_json(arguments))
            if text:
                self._show(call, False, text, out)

    def close(self, item: Item, data: dict[str, Any], out: list[Delta]) -> None:
        """The item as it finally is."""
        self._call_of(item).closed = data.get("status") != "incomplete"
        self._grow(item, data, None, out)
        self.settle(item, data.get(CALL_INPUT[item.type or ""]), out)

    def finish(self, items: Iterable[Item], cut: bool) -> list[ToolCall]:
        """The calls as they are now. One without call_id is known by its item's id."""
        for item in items:
            call = item.call
            if call is None or item.item_id is None or call.raw_id is not None or call.id is not None:
                continue
            if self._ids.setdefault(item.item_id, call) is call:
                call.id = item.item_id
        return whole_calls(self._calls, lambda call: _is_cut(call, cut))

    def replaced(self, whole: Iterable[ToolCall]) -> set[int]:
        """The parts among ``whole`` whose final text is not what the deltas joined give."""
        return shown_otherwise(self._calls, whole)

    def _call_of(self, item: Item) -> OpenCall:
        if item.call is None:
            item.call = OpenCall(len(self._calls), item.index)
            item.call.literal = item.type == "custom_tool_call"
            if item.call.literal:
                item.call.extra = {"type": "custom"}
            self._calls.append(item.call)
        return item.call

    def _after_initial(self, item: Item, initial: str, fragment: str) -> str:
        """What is new in a delta of a call that had input when it was announced."""
        at = item.repeated
        if initial.startswith(fragment, at):
            item.repeated += len(fragment)
            return ""
        item.initial = ""
        if len(fragment) >= len(initial) - at and fragment.startswith(initial[at:]):
            return fragment[len(initial) - at :]
        if at:  # they do not repeat it after all: what they said so far stands
            self._call_of(item).text.replace(initial[:at])
        return fragment

    def _grow(self, item: Item, data: dict[str, Any], fragment: Any, out: list[Delta]) -> None:
        call = self._call_of(item)
        changed = call.part < 0
        call_id = provider_id(data.get("call_id"))
        if call_id is not None and call.raw_id is None:
            call.raw_id = call_id
            if self._ids.setdefault(call_id, call) is call:
                call.id = call_id
            changed = True
        said = data.get("name")
        name = join_surrogates(said) if isinstance(said, str) else ""
        named = bool(name) and name != call.name
        if named:  # names come whole in this API; a later one is a correction
            call.name = name
        text = ""
        if fragment is not None and fragment != "":
            if call.literal:
                text = call.text.add_literal(fragment) if isinstance(fragment, str) else ""
            elif isinstance(fragment, str):
                text = call.text.add(fragment)
            else:
                text = call.text.add_value(fragment)
        if text or changed or named:
            self._show(call, named, text, out)

    def _show(self, call: OpenCall, named: bool, text: str, out: list[Delta]) -> None:
        if call.part < 0:
            if call.empty:
                return
            call.part = self._new_part()
            call.position = self._shown
            self._shown += 1
            named = True
        out.append(CallDelta(call.part, call.position, call.id, call.name if named else None, text))


def _is_cut(call: OpenCall, cut: bool) -> bool:
    """Rule 10; a call that was declared whole has no arguments where it shows none."""
    if call.closed is False:
        return True
    return cut and not (call.closed and not call.text)
