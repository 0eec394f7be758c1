"""Which call each fragment of a chat completion belongs to: the tool calls of one choice while they stream.

Numbers in comments are the rules of the provider notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple

from streamchat.core.calls import (
    CUT_REASONS,
    OpenCall,
    as_dict,
    merge_extra,
    natural,
    provider_id,
    shown_otherwise,
    whole_calls,
)
from streamchat.core.completion import CallDelta, ToolCall
from streamchat.core.jsontext import join_surrogates, parse_object

__all__ = ["ToolCallAccumulator"]

_ENTRY_KEYS = frozenset({"index", "id", "type", "function", "custom"})
_FUNCTION_KEYS = frozenset({"name", "arguments"})
_NOTHING: Mapping[str, Any] = {}


class _Seat(NamedTuple):
    """Where an entry stands in a chunk with several."""

    place: int
    before: int  # how many calls there were when the chunk began
    taken: set[OpenCall]  # by the entries before it


class ToolCallAccumulator:
    """The tool calls of one choice, from the ``tool_calls`` of its deltas.

    ``choice`` is written into the deltas; ``new_part`` gives the next part number (its own count from 0 by
    default).
    """

    __slots__ = ("_at", "_batch", "_by_id", "_by_key", "_calls", "_choice", "_new_part", "_positions")

    def __init__(self, *, choice: int = 0, new_part: Callable[[], int] | None = None) -> None:
        self._choice = choice
        self._new_part = new_part or count().__next__
        self._calls: list[OpenCall] = []
        self._at: dict[int, OpenCall] = {}  # the newest call at an index
        self._by_key: dict[tuple[int, str], OpenCall] = {}
        self._by_id: dict[str, OpenCall] = {}
        self._batch: list[OpenCall] = []  # the calls that the last chunk with several entries spoke of
        self._positions = 0

    def __bool__(self) -> bool:
        return any(not call.empty for call in self._calls)

    @property
    def calls(self) -> list[OpenCall]:
        """The calls as far as they are known, in order of arrival."""
        return self._calls

    def add(self, tool_calls: Iterable[Any] | Mapping[str, Any] | None) -> list[CallDelta]:
        """Adds the ``tool_calls`` of one delta, dicts or objects of the SDK; returns what they changed."""
        if not tool_calls:
            return []
        entries: Any = tool_calls
        if tool_calls.__class__ is not list:
            entries = list(tool_calls) if isinstance(tool_calls, (tuple, Iterator)) else [tool_calls]
        if len(entries) == 1:
            known = self._add_plain(entries[0])
            if known is not None:
                return known
        deltas: list[CallDelta] = []
        before = len(self._calls)
        several = len(entries) > 1
        batch: list[OpenCall] = []
        taken: set[OpenCall] = set()
        for place, entry in enumerate(entries):
            if entry.__class__ is not dict:
                entry = as_dict(entry)
                if entry is None:
                    continue
            function: Any = entry.get("function")
            if function.__class__ is not dict:
                function = _function_of(entry)
            index: Any = entry.get("index")
            if index.__class__ is not int or index < 0:
                index = natural(index)
            call_id = provider_id(entry.get("id"))
            name = function.get("name")
            if not (name.__class__ is str and name):
                name = None
            arguments = function.get("arguments")
            if arguments is None or arguments == "":
                arguments = None
            if index is not None and call_id is None and name is None and index in self._at:
                call = self._at[index]
                if call.renamed is not None and _begins_value(arguments) and call.text.complete():
                    call = self._another(call, index)
            else:
                seat = _Seat(place, before, taken) if several else None
                call = self._find(index, call_id, name, arguments, seat)
            if several:
                batch.append(call)
                taken.add(call)
            delta = self._grow(call, entry, function, call_id, name, arguments)
            if delta is not None:
                deltas.append(delta)
        if several:
            self._batch = batch
        return deltas

    def _add_plain(self, entry: Any) -> list[CallDelta] | None:
        """The usual fragment, index and text alone, without the others' questions; None if it is not one."""
        if entry.__class__ is not dict or len(entry) != 2:
            return None
        function = entry.get("function")
        if function.__class__ is not dict or len(function) != 1:
            return None
        fragment, index = function.get("arguments"), entry.get("index")
        if fragment.__class__ is not str or not fragment or index.__class__ is not int:
            return None
        call = self._at.get(index)
        if call is None or call.part < 0 or call.literal or call.renamed is not None:
            return None
        text = call.text.add(fragment)
        return [CallDelta(call.part, call.position, call.id, None, text, self._choice)] if text else []

    def finish(self, finish_reason: str | None = None, *, cut: bool = False) -> list[ToolCall]:
        """The calls as they are now, in the provider's order.

        ``finish_reason`` decides about arguments that are not a whole object: cut off, or invalid. ``cut``
        says that the stream broke off, whatever the reason. May be called again; changes nothing.
        """
        cut = cut or finish_reason in CUT_REASONS
        return whole_calls(self._calls, lambda call: cut)

    def replaced(self, whole: Iterable[ToolCall]) -> set[int]:
        """The parts among ``whole`` whose final text is not what the deltas joined give."""
        return shown_otherwise(self._calls, whole)

    # ------------------------------------------------------------------------------------------------ rule 3

    def _find(
        self,
        index: int | None,
        call_id: str | None,
        name: str | None,
        arguments: Any,
        seat: _Seat | None,
    ) -> OpenCall:
        if index is not None:
            if call_id is not None:
                return self._find_by_both(index, call_id, name, arguments)
            return self._find_by_index(index, name, arguments)
        if call_id is not None:
            return self._find_by_id(call_id, name)
        call: OpenCall | None
        if seat is not None:
            call = self._find_by_seat(seat)
            if call is None and name is None and arguments is None and self._calls:
                return self._calls[-1]  # something about the newest call, such as its signature
        else:
            call = self._calls[-1] if self._calls else None
        if call is None or (name is not None and call.name is not None and call.text.complete()):
            return self._open(None)
        return call

    def _find_by_both(self, index: int, call_id: str, name: str | None, arguments: Any) -> OpenCall:
        call = self._by_key.get((index, call_id))
        if call is not None:
            return call
        call = self._at.get(index)
        if call is None:
            known = self._by_id.get(call_id)
            if known is not None and known.index is None:  # so far it had an id only
                known.index = index
                self._at[index] = self._by_key[index, call_id] = known
                return known
            return self._open(index)
        if call.raw_id == call_id:
            return call
        if call.raw_id is None:
            return self._open(index) if name is not None and _begins_another(call, name, arguments) else call
        if name is not None:
            return self._open(index)
        if call.text.complete():
            opened = self._open(index)
            opened.spare = True
            return opened
        self._by_key[index, call_id] = call  # the id changed; the first one stays
        return call

    def _find_by_index(self, index: int, name: str | None, arguments: Any) -> OpenCall:
        call = self._at.get(index)
        if call is None:
            newest = self._calls[-1] if self._calls else None
            if name is None and newest is not None and newest.index is None:  # so far it had an id only
                newest.index = index
                self._at[index] = newest
                return newest
            return self._open(index)
        if name is not None and _begins_another(call, name, arguments):
            return self._open(index)
        return call

    def _find_by_id(self, call_id: str, name: str | None) -> OpenCall:
        call = self._by_id.get(call_id)
        if call is not None:
            return call
        newest = self._calls[-1] if self._calls else None
        if (
            newest is not None
            and newest.raw_id is None
            and not (name is not None and newest.name is not None)
            and not newest.text.complete()
        ):
            return newest  # its id comes late
        return self._open(None)

    def _find_by_seat(self, seat: _Seat) -> OpenCall | None:
        """The call that an entry continues: the one at its place in the last such chunk, else of all."""
        call: OpenCall | None = None
        if seat.place < len(self._batch):
            call = self._batch[seat.place]
        elif seat.place < seat.before and not (self._batch and seat.place <= self._batch[-1].order):
            call = self._calls[seat.place]
        return None if call in seat.taken else call

    def _open(self, index: int | None) -> OpenCall:
        call = OpenCall(len(self._calls), index)
        self._calls.append(call)
        if index is not None:
            self._at[index] = call
        return call

    def _another(self, call: OpenCall, index: int) -> OpenCall:
        """A second call at ``index``, whose name came alone after the first one was complete."""
        name, call.renamed = call.renamed, None
        opened = self._open(index)
        opened.name = name
        return opened

    # --------------------------------------------------------------------------------------- rules 2, 4 and 5

    def _grow(
        self,
        call: OpenCall,
        entry: Mapping[str, Any],
        function: Mapping[str, Any],
        call_id: str | None,
        name: str | None,
        arguments: Any,
    ) -> CallDelta | None:
        changed = call.part < 0
        if call_id is not None and call.raw_id is None:
            call.raw_id = call_id
            if self._by_id.setdefault(call_id, call) is call:  # rule 2: the later of two gets a new one
                call.id = call_id
            if call.index is not None:
                self._by_key.setdefault((call.index, call_id), call)
            changed = True
        shown_name: str | None = None
        if name is not None:
            if call.grow_name(join_surrogates(name)):
                shown_name = call.name
            elif call.index is not None and arguments is None and call.text and call.text.complete():
                call.renamed = name
        text = ""
        if not entry.keys() <= _ENTRY_KEYS or not function.keys() <= _FUNCTION_KEYS or "custom" in entry:
            self._keep_extra(call, entry, function)
        kind = entry.get("type")
        if kind is not None and kind != "function" and kind != "":
            call.extra = merge_extra(call.extra, {"type": kind})
        if arguments is not None:
            call.renamed = None
            if call.literal:
                text = call.text.add_literal(arguments) if isinstance(arguments, str) else ""
            elif arguments.__class__ is str:
                text = call.text.add(arguments)
            else:
                text = call.text.add_value(arguments)
        if not (text or changed or shown_name is not None):
            return None
        if call.part < 0:
            if call.empty:
                return None
            call.part = self._new_part()
            call.position = self._positions
            self._positions += 1
            shown_name = call.name
        return CallDelta(call.part, call.position, call.id, shown_name, text, self._choice)

    def _keep_extra(self, call: OpenCall, entry: Mapping[str, Any], function: Mapping[str, Any]) -> None:
        """Keeps what the provider may want back, such as thought signatures."""
        if "custom" in entry and not isinstance(entry.get("function"), Mapping):
            call.literal = True
            call.extra = merge_extra(call.extra, {"type": "custom"})
        flat = not isinstance(entry.get("function"), Mapping)
        extra = {
            key: value
            for key, value in entry.items()
            if key not in _ENTRY_KEYS and value is not None and not (flat and key in _FUNCTION_KEYS)
        }
        if not flat:
            more = {key: function[key] for key in function if key not in _FUNCTION_KEYS}
            extra = merge_extra(extra, {"function": more} if more else {})
        if extra:
            call.extra = merge_extra(call.extra, extra)


def _begins_value(arguments: Any) -> bool:
    """Whether a fragment is the start of a JSON value that could be a call's arguments."""
    if isinstance(arguments, str):
        return arguments.lstrip()[:1] in ("{", "[", '"')
    return isinstance(arguments, Mapping)


def _begins_another(call: OpenCall, name: str, arguments: Any) -> bool:
    """Rule 3: a fragment with a name at the index of ``call`` is the start of another call."""
    same_name = call.name is None or name.startswith(call.name)
    if arguments is None:
        return not same_name and bool(call.text) and call.text.complete()
    if not _begins_value(arguments) or not call.text.complete():
        return False
    if not same_name:
        return True
    if call.text.is_placeholder():
        return False  # rule 5
    if isinstance(arguments, str):
        return not call.text.is_same(arguments)
    return bool(parse_object(call.text.text()) != arguments)


def _function_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function of an entry that has none, or has it in another form."""
    function = entry.get("function")
    if function is not None:
        return as_dict(function) or _NOTHING
    custom = entry.get("custom")
    if custom is not None:
        custom = as_dict(custom) or _NOTHING
        return {"name": custom.get("name"), "arguments": custom.get("input")}
    return {key: entry[key] for key in _FUNCTION_KEYS if key in entry}
