"""One output item of a response while it grows: its contents, or the call that it is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, Literal

from streamchat.core.calls import OpenCall, natural
from streamchat.core.completion import ContentDelta, ContentKind, Delta
from streamchat.core.jsontext import hold_surrogate, join_surrogates, scrub

__all__ = ["CALL_INPUT", "Content", "Item", "ItemTable", "item_data", "text_of_part"]

# The items that are calls of the application's tools, and where each keeps its input.
CALL_INPUT = {"function_call": "arguments", "custom_tool_call": "input"}
_PART_KINDS: dict[str, ContentKind] = {
    "output_text": "text",
    "text": "text",
    "refusal": "refusal",
    "reasoning_text": "reasoning",
    "summary_text": "reasoning",
}


class Content:
    """One text of an item; ``pieces`` joined is the text, also where the deltas said something else.

    ``part`` is -1 until there is something to show; then ``new_part`` gives it.
    """

    __slots__ = ("_new_part", "held", "kind", "part", "pieces", "replaced")

    def __init__(self, kind: ContentKind, new_part: Callable[[], int]) -> None:
        self.kind: ContentKind = kind
        self.part = -1
        self._new_part = new_part
        self.pieces: list[str] = []
        self.held = ""  # a high surrogate at the end
        self.replaced = False

    def __bool__(self) -> bool:
        return bool(self.pieces or self.held)

    def number(self) -> int:
        """The part, given now if it has none yet."""
        if self.part < 0:
            self.part = self._new_part()
        return self.part

    def add(self, text: str, out: list[Delta]) -> None:
        """Appends a delta."""
        if self.held or not text.isascii():
            text, self.held = hold_surrogate(self.held, text)
        if text:
            self.pieces.append(text)
            if not self.replaced:
                out.append(ContentDelta(self.kind, self.number(), text))

    def settle(self, text: str, out: list[Delta]) -> None:
        """Sets the whole text, as the provider's final word, which overrides the deltas."""
        text = join_surrogates(text)
        known = "".join(self.pieces)
        self.held = ""
        if text == known:
            return
        if text.startswith(known) and not self.replaced:
            out.append(ContentDelta(self.kind, self.number(), text[len(known) :]))
        else:
            self.replaced = True
        self.pieces = [text]

    def text(self) -> str:
        """The text as it stands."""
        return "".join(self.pieces) + ("\ufffd" if self.held else "")

    @property
    def shown(self) -> bool:
        """Whether the deltas joined are the text."""
        return not (self.replaced or self.held)


class Item:
    """One output item; its ``contents`` are keyed by what they are and the provider's number."""

    __slots__ = (
        "call",
        "contents",
        "final",
        "index",
        "initial",
        "item_id",
        "naming",
        "order",
        "part",
        "repeated",
        "type",
    )

    def __init__(self, order: int, index: int | None, item_id: str | None, type: str | None) -> None:
        self.order = order
        self.index = index
        self.item_id = item_id
        self.type = type
        self.call: OpenCall | None = None
        self.contents: dict[tuple[str, int], Content] = {}
        self.final: dict[str, Any] | None = None
        self.part = -1  # of an item that the provider runs itself
        self.initial = ""  # a call's input when it was announced, while the deltas may repeat it
        self.repeated = 0  # how much of it they have
        self.naming: Literal["unsure", "own", "rotating"] = "own"  # under which ids its events come

    def in_order(self) -> list[Content]:
        """The contents as the provider numbers them, summaries before other reasoning."""
        return [content for _, content in sorted(self.contents.items(), key=_content_rank)]

    def rank(self) -> tuple[int, int]:
        """Its place among all items."""
        return (self.order if self.index is None else self.index, self.order)


class ItemTable:
    """Finds the item that an event speaks of: by output index, without one by item id, else the newest that
    fits.

    Item ids are not the key where there is an index, because some gateways send another one with every event.
    """

    __slots__ = ("_at", "_by_call", "_by_id", "_newest", "items")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._at: dict[int, Item] = {}
        self._by_id: dict[str, Item] = {}
        self._by_call: dict[str, Item] = {}
        self._newest: dict[str | None, Item] = {}  # of each type

    def find(self, event: dict[str, Any], type: str | None) -> Item:
        """The item that a delta or the end of one belongs to; a new one if there is none."""
        index: Any = event.get("output_index")
        if index.__class__ is int:
            item = self._at.get(index)
            if item is not None and fits(item, type):
                item_id: Any = event.get("item_id")
                if item_id == item.item_id or item_id.__class__ is not str:
                    return item
                earlier = self._by_id.get(item_id)  # an index for several items, or an id that changes
                return earlier if earlier is not None and earlier.index == index else item
        return self._find(event, type)

    def begin(self, event: dict[str, Any], data: dict[str, Any]) -> Item:
        """The item that ``output_item.added`` announces."""
        index, item_id = natural(event.get("output_index")), _name(data.get("id"))
        type, call_id = _name(data.get("type")), _name(data.get("call_id"))
        known = self._at.get(index) if index is not None else self._by_id.get(item_id or "")
        if known is not None and fits(known, type) and self._same_call(known, call_id):
            known.type = known.type or type
        else:
            known = self._open(index, item_id, type)
            if index is None:
                known.naming = "unsure"
        if call_id is not None:
            self._by_call.setdefault(call_id, known)
        return known

    def settle(self, index: int | None, data: dict[str, Any], taken: set[Item] | None = None) -> Item:
        """The item that ``data`` describes as it finally is; ``taken`` are no candidates."""
        type, call_id, item_id = _name(data.get("type")), _name(data.get("call_id")), _name(data.get("id"))
        known = [
            self._by_call.get(call_id or ""),
            self._at.get(index) if index is not None else None,
            self._by_id.get(item_id or ""),
        ]
        # The list at the end may count otherwise than the events did.
        others = self.items if taken is not None or index is None else []
        for item in chain(known, others):
            if item is None or (taken is not None and item in taken):
                continue
            if fits(item, type) and self._same_call(item, call_id):
                item.type = item.type or type
                return item
        item = self._open(index, item_id, type)
        if call_id is not None:
            self._by_call.setdefault(call_id, item)
        return item

    def _find(self, event: dict[str, Any], type: str | None) -> Item:
        index, item_id = natural(event.get("output_index")), _name(event.get("item_id"))
        item = self._at.get(index) if index is not None else None
        if item is None and item_id is not None:
            item = self._by_id.get(item_id)
            if item is not None and item.naming == "unsure":
                item.naming = "own"
        if item is None and index is None:
            newest = self._newest.get(type)
            if item_id is None:
                item = newest
            elif newest is not None and newest.final is None and newest.naming != "own":
                # No event has had the id that it was announced under: they make up a new one each time.
                item = newest
                item.naming = "rotating"
        if item is None or not fits(item, type):
            item = self._open(index, item_id, type)
        return item

    def _open(self, index: int | None, item_id: str | None, type: str | None) -> Item:
        item = Item(len(self.items), index, item_id, type)
        self.items.append(item)
        self._newest[type] = item
        if index is not None:
            self._at[index] = item
        if item_id is not None:
            self._by_id.setdefault(item_id, item)
        return item

    @staticmethod
    def _same_call(item: Item, call_id: str | None) -> bool:
        known = item.call.raw_id if item.call is not None else None
        return known is None or call_id is None or known == call_id


def fits(item: Item, type: str | None) -> bool:
    """Whether ``item`` can be one of ``type``; an unknown type fits all."""
    return item.type is None or type is None or item.type == type


def text_of_part(part: Any) -> tuple[ContentKind, str] | None:
    """Kind and text of a content part, in any of the forms that events and items hold it in."""
    if not isinstance(part, dict):
        return None
    kind = _PART_KINDS.get(str(part.get("type")))
    if kind is None:
        return None
    text = part.get("refusal" if kind == "refusal" else "text")
    return (kind, text) if isinstance(text, str) and text else None


def _content_rank(entry: tuple[tuple[str, int], Content]) -> tuple[bool, int, int]:
    (slot, number), content = entry
    return (not slot.startswith("summary"), number, content.part)


def item_data(item: Item, ids: dict[int, str]) -> dict[str, Any] | None:
    """An item as the next request sends it back: the provider's own form, or made from what was streamed."""
    call = item.call
    call_id = ids.get(call.part) if call is not None else None
    if call is not None and call_id is None:
        return None  # dropped: neither name nor arguments
    data: dict[str, Any] | None = scrub(item.final)
    if call is not None and item.type is not None:
        data = dict(data or {"type": item.type})
        data["call_id"] = call_id
        data["name"] = call.name or ""
        data[CALL_INPUT[item.type]] = call.text.finish(False)[0]
        return data
    if data is None and item.contents and item.type == "message":
        content = [
            {"type": "refusal", "refusal": entry.text()}
            if entry.kind == "refusal"
            else {"type": "output_text", "text": entry.text(), "annotations": []}
            for entry in item.in_order()
        ]
        data = {"type": "message", "role": "assistant", "content": content}
    return data


def _name(value: Any) -> str | None:
    return join_surrogates(value) if isinstance(value, str) and value else None
