"""One choice of a chat completion while it grows: its parts, calls, sources and finish reason.

Numbers in comments are the rules of the provider notes.
"""

from __future__ import annotations

from itertools import count
from typing import Any, cast

from streamchat.core.completion import Choice, ContentDelta, ContentKind, Delta, Part, SourceDelta
from streamchat.core.extras import MessageExtras
from streamchat.core.jsontext import encode_json, hold_surrogate, join_surrogates, scrub
from streamchat.core.tool_calls import ToolCallAccumulator

__all__ = ["ChatChoice"]

# Rule 8: the gravest first; any other reason yields to these, and among the others the first one stays.
_GRAVITY = {"error": 5, "content_filter": 4, "length": 3, "tool_calls": 2, "function_call": 1}

# Rule "one source per delta": the first of these that has text. `reasoning_details` comes after them.
_REASONING_FIELDS = ("reasoning_content", "reasoning")

# The constructor of a NamedTuple is a Python function; this one is not.
_new = tuple.__new__


class ChatChoice:
    """One choice while it grows. A part ends where the kind of content changes or a call speaks."""

    __slots__ = (
        "_calls",
        "_counter",
        "_extras",
        "_held",
        "_kind",
        "_part",
        "_parts",
        "_pieces",
        "_sources",
        "finish_reason",
        "index",
        "streamed",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self._counter = count()
        self._parts: list[tuple[int, ContentKind, list[str]]] = []
        self._kind = ""
        self._part = -1
        self._pieces: list[str] = []
        self._held = ""  # a high surrogate at the end of the current part
        self._calls: ToolCallAccumulator | None = None
        self._sources: dict[str, int] = {}
        self._extras = MessageExtras()
        self.streamed = False  # something came in a delta, not in a whole message

    def add(self, delta: dict[str, Any], out: list[Delta]) -> None:
        self.streamed = True
        content: Any = delta.get("content")
        if len(delta) == 1:  # the usual ones need none of the other questions
            if content.__class__ is str:
                self._say("text", content, out)
                return
            calls = delta.get("tool_calls")
            if calls:
                self._add_calls(calls, out)
                return
        self._add_fields(delta, content, out)

    def add_message(self, message: dict[str, Any], out: list[Delta]) -> None:
        """A whole message in place of a delta: says only what the deltas before it did not."""
        fields = dict(message)
        for key, kind in (
            ("content", "text"),
            ("refusal", "refusal"),
            ("reasoning_content", "reasoning"),
            ("reasoning", "reasoning"),
        ):
            value: Any = fields.get(key)
            known = self._text(kind)
            if known and value.__class__ is str and value.startswith(known):
                fields[key] = value[len(known) :]
            elif known and self.streamed:
                fields.pop(key, None)
        if self.streamed:
            if self._text("reasoning"):
                fields.pop("reasoning_details", None)
            if self._calls:
                fields.pop("tool_calls", None)
                fields.pop("function_call", None)
        self._add_fields(fields, fields.get("content"), out)

    def keep_finish(self, finish: Any) -> None:
        """Rule 8."""
        if finish.__class__ is str and finish:
            known = self.finish_reason
            if known is None or _GRAVITY.get(finish, 0) > _GRAVITY.get(known, 0):
                self.finish_reason = join_surrogates(finish)

    def finish(self, broken: bool) -> Choice:
        calls = self._calls.finish(self.finish_reason, cut=broken) if self._calls is not None else []
        parts: list[Part] = []
        replaced: set[int] = set()
        if self._held and self._part < 0:
            self._open_part(cast("ContentKind", self._kind))
        for number, kind, pieces in self._parts:
            text = "".join(pieces)
            if self._held and number == self._part:
                text += "\ufffd"
                replaced.add(number)
            parts.append(Part(number, kind, text))
        parts.extend(Part(call.part, "tool_call", call.arguments_json) for call in calls)
        if self._calls is not None:
            replaced.update(self._calls.replaced(calls))
        parts.extend(Part(number, "source", "") for number in self._sources.values())
        parts.sort()
        return Choice(
            index=self.index,
            text="".join(part.text for part in parts if part.kind == "text"),
            reasoning="".join(part.text for part in parts if part.kind == "reasoning"),
            refusal="".join(part.text for part in parts if part.kind == "refusal"),
            finish_reason=self.finish_reason,
            tool_calls=calls,
            parts=parts,
            replaced=frozenset(replaced),
            extras=self._extras.merged(),
        )

    def _add_fields(self, delta: dict[str, Any], content: Any, out: list[Delta]) -> None:
        reasoned = False
        for field in _REASONING_FIELDS:
            value = delta.get(field)
            if value:
                text = _text_of(value)
                if text:
                    self._say("reasoning", text, out)
                    self._extras.reasoning_field = field
                    reasoned = True
                    break
        if "reasoning_details" in delta and not reasoned:
            text = "".join(_detail_text(item) for item in _items(delta["reasoning_details"]))
            if text:
                self._say("reasoning", text, out)
                reasoned = True
        if content:
            if content.__class__ is str:
                self._say("text", content, out)
            else:
                self._add_content_parts(_items(content), reasoned, out)
        refusal = delta.get("refusal")
        if refusal.__class__ is str and refusal:
            self._say("refusal", refusal, out)
        calls = delta.get("tool_calls")
        if not calls:
            function = delta.get("function_call")  # the form before tools: one call, without id and index
            if function.__class__ is dict and function:
                calls = [{"index": 0, "function": function}]
        if calls:
            self._add_calls(calls, out)
        if "annotations" in delta:
            self._add_sources(delta["annotations"], out)
        self._extras.keep(delta)

    def _add_calls(self, calls: Any, out: list[Delta]) -> None:
        if self._calls is None:
            self._calls = ToolCallAccumulator(choice=self.index, new_part=self._counter.__next__)
        self._release(out)
        deltas = self._calls.add(calls)
        if deltas:
            self._kind = "tool_call"
            out.extend(deltas)

    def _add_content_parts(self, items: list[Any], reasoned: bool, out: list[Delta]) -> None:
        for item in items:
            if item.__class__ is str:
                self._say("text", item, out)
                continue
            if item.__class__ is not dict:
                continue
            kind = item.get("type")
            if kind == "thinking" or kind == "reasoning":
                text = _text_of(item)
                if text and not reasoned:
                    self._say("reasoning", text, out)
            elif kind == "refusal":
                self._say("refusal", _text_of(item.get("refusal")), out)
            elif kind is None or kind == "text" or kind == "output_text" or kind == "":
                self._say("text", _text_of(item.get("text")), out)

    def _add_sources(self, annotations: Any, out: list[Delta]) -> None:
        for item in _items(annotations):
            if item.__class__ is not dict:
                continue
            item = scrub(item)
            key = encode_json(item)
            if key not in self._sources:  # some servers send all of them again and again
                self._sources[key] = part = next(self._counter)
                out.append(SourceDelta(part, item, self.index))

    def _say(self, kind: ContentKind, text: str, out: list[Delta]) -> None:
        if not text:
            return
        if kind != self._kind:
            self._release(out)
            self._kind = kind
            self._part = -1
        if self._held or not text.isascii():
            text, self._held = hold_surrogate(self._held, text)
            if not text:
                return
        if self._part < 0:
            self._open_part(kind)
        self._pieces.append(text)
        out.append(_new(ContentDelta, (kind, self._part, text, self.index)))

    def _open_part(self, kind: ContentKind) -> None:
        self._part = next(self._counter)
        self._pieces = []
        self._parts.append((self._part, kind, self._pieces))

    def _release(self, out: list[Delta]) -> None:
        """The other half of a surrogate pair can no longer come."""
        if self._held:
            self._held = ""
            if self._part < 0:
                self._open_part(cast("ContentKind", self._kind))
            self._pieces.append("\ufffd")
            out.append(ContentDelta(self._parts[-1][1], self._part, "\ufffd", self.index))

    def _text(self, kind: str) -> str:
        return "".join(piece for _, known, pieces in self._parts if known == kind for piece in pieces)


def _items(value: Any) -> list[Any]:
    """A list as it is; one item that should have been in a list, in one."""
    if value.__class__ is list:
        return list(value)
    return [value] if value.__class__ is dict or value.__class__ is str else []


def _text_of(value: Any) -> str:
    """The text in a piece of content, however it is wrapped."""
    if value.__class__ is str:
        return str(value)
    if value.__class__ is list:
        return "".join(_text_of(item) for item in value)
    if value.__class__ is dict:
        for key in ("text", "thinking", "reasoning", "summary", "content"):
            if value.get(key):
                return _text_of(value[key])
    return ""


def _detail_text(item: Any) -> str:
    """What can be read of an entry of `reasoning_details`; encrypted ones have nothing."""
    if item.__class__ is not dict:
        return ""
    text = item.get("text") or item.get("summary")
    return text if isinstance(text, str) else ""
