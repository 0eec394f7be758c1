"""The argument text of one tool call while it streams: what to append, what to replace, what it is in the
end.

Numbers in comments are the rules of the provider notes (docs: provider quirks). The cost of a fragment does
not depend on what was gathered: the whole text is compared only with fragments that are at least as long,
and each character is looked at once at most to see whether the value is complete.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from streamchat.core.jsontext import (
    encode_json,
    hold_surrogate,
    is_json,
    join_surrogates,
    parse_object,
    scrub,
)

__all__ = ["ArgumentText"]

_WHITESPACE = " \t\n\r"
_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\]')
_SCALAR = 32  # a number or literal longer than this is never looked at: arguments are objects


class ArgumentText:
    """The fragments of one call's arguments, joined by rule 5 and judged by rule 6.

    ``add`` and ``add_object`` return the part of a fragment that purely extends what they returned before;
    once a provider replaced text in another way they return "" (``replaced`` is True) and only ``text()``
    is the truth.
    """

    __slots__ = ("_cumulative", "_fields", "_held", "_other", "_scan", "_size", "fragments", "replaced")

    def __init__(self) -> None:
        self.fragments: list[str] = []
        self.replaced = False
        self._size = 0
        self._held = ""
        self._scan: _Scan | None = None
        self._fields: _Fields | None = None  # instead of fragments while only objects came
        self._cumulative = False
        # The other reading of a fragment that began like the whole buffer.
        self._other: list[str] | None = None

    def __bool__(self) -> bool:
        return bool(self.fragments) or self._fields is not None or bool(self._held)

    def add(self, fragment: str) -> str:
        """Adds text that is not empty; returns what a reader of the deltas must append."""
        if not fragment.isascii() or self._held:
            fragment, self._held = hold_surrogate(self._held, fragment)
            if not fragment:
                return ""
        if self._fields is not None:
            self._become_text()
        size = len(fragment)
        # A short buffer may be a placeholder; a shorter fragment can neither repeat nor extend the buffer.
        if self._size and (size >= self._size or self._size < 8):
            return self._compare(fragment)
        return self._append(fragment)

    def add_literal(self, fragment: str) -> str:
        """Adds text of a tool whose input is not JSON: nothing in it means a repetition."""
        if not fragment.isascii() or self._held:
            fragment, self._held = hold_surrogate(self._held, fragment)
        return self._append(fragment) if fragment else ""

    def add_object(self, value: dict[str, Any]) -> str:
        """Adds arguments that came as an object: encoded, and several merged by key (rule 5)."""
        if self._fields is None:
            known = None
            if self._size and self.complete():
                known = parse_object(self.text())
            if self._size and (known is None or not known):
                return self.add(encode_json(value))
            self._fields = _Fields(known or {})
            if known is None:
                self._fields.merge(value)
                return "" if self.replaced else self._fields.text()
            self.fragments.clear()
        if self._fields.merge(value):
            self.replaced = True
        return ""

    def add_value(self, value: Any) -> str:
        """Adds arguments of any type but text: an object as such, another value as its JSON text."""
        if isinstance(value, Mapping):
            return self.add_object(dict(value))
        return self.add(encode_json(scrub(value)))

    def replace(self, text: str) -> str:
        """Sets the whole text, as a provider's final word; returns the rest that a reader must append."""
        text = join_surrogates(text)
        self._held = ""
        self._other = None
        known = self.text()
        if text == known:
            return ""
        if text.startswith(known) and self._fields is None:
            return self._append(text[len(known) :])
        self._reset(text)
        return ""

    def text(self) -> str:
        """All that was gathered, joined."""
        if self._fields is not None:
            return self._fields.text()
        return "".join(self.fragments)

    def complete(self) -> bool:
        """Whether the text is one complete JSON value. Looks only at what came since the last question."""
        if self._fields is not None:
            return True
        if self._scan is None:
            self._scan = _Scan()
        return self._scan.complete(self.fragments)

    def is_placeholder(self) -> bool:
        """Whether the text is `{}`, which some servers send before the real arguments (rule 5)."""
        if self._fields is not None:
            return self._fields.empty
        return self._size < 8 and self.text().strip(_WHITESPACE) == "{}"

    def is_same(self, fragment: str) -> bool:
        """Whether ``fragment`` repeats the whole text; costs no more than the fragment is long."""
        return len(fragment) == self._size and self.text() == fragment

    def finish(self, cut: bool) -> tuple[str, dict[str, Any] | None]:
        """The raw text and its object, None where it is not one. ``cut``: the provider stopped midway."""
        text = self.text() + ("\ufffd" if self._held else "")
        if not text.strip(_WHITESPACE):
            return text, None if cut else {}  # rule 6: nothing is an empty object
        value = parse_object(text)
        if value is None and self._other is not None:
            other = "".join(self._other)
            value = parse_object(other)
            if value is not None:
                return other, value
        return text, value

    def shown_as(self, final: str) -> bool:
        """Whether the parts returned so far, joined, are ``final``."""
        return not (self.replaced or self._held) and self.text() == final

    def _append(self, fragment: str) -> str:
        self.fragments.append(fragment)
        self._size += len(fragment)
        if self._other is not None:
            self._other.append(fragment)
        return "" if self.replaced else fragment

    def _compare(self, fragment: str) -> str:
        """Rule 5 for a fragment that could say again what is already there."""
        whole = self.text()
        if fragment == whole:
            if self._cumulative or self.complete():
                return ""  # sent again
        elif self.is_placeholder():
            if fragment.lstrip(_WHITESPACE).startswith("{"):
                self._reset(fragment)  # `{}` was a placeholder
                return ""
        elif whole[0] == "{" and fragment.startswith(whole):
            suffix = fragment[len(whole) :]
            # `{"a":` + `{"a":1}}` may also be an object in an object. Once is a doubt that the end settles.
            other = None if self._cumulative else [whole, fragment]
            self._cumulative = True
            self._other = None
            shown = self._append(suffix)
            self._other = other
            return shown
        return self._append(fragment)

    def _reset(self, text: str) -> None:
        self.fragments = [text] if text else []
        self._size = len(text)
        self._fields = None
        self._scan = None
        self.replaced = True

    def _become_text(self) -> None:
        assert self._fields is not None
        text = self._fields.text()
        self._fields = None
        self.fragments = [text]
        self._size = len(text)
        self._scan = None


class _Scan:
    """Whether fragments make up one complete JSON value, reading each of them once."""

    __slots__ = ("_closed", "_depth", "_escaped", "_in_string", "_kind", "_read", "_valid")

    def __init__(self) -> None:
        self._read = 0  # fragments read
        self._kind = ""  # the first character of the value
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._closed = False
        # Known once the value is closed; False as well when something follows it.
        self._valid: bool | None = None

    def complete(self, fragments: list[str]) -> bool:
        while self._read < len(fragments):
            text = fragments[self._read]
            self._read += 1
            start = 0
            if not self._kind:
                stripped = text.lstrip(_WHITESPACE)
                if not stripped:
                    continue
                self._kind = stripped[0]
                start = len(text) - len(stripped)
            if self._kind in '{["' and self._valid is not False:
                self._walk(text, start)
        if self._kind and self._kind not in '{["':
            text = "".join(fragments) if len(fragments) <= _SCALAR else ""
            return bool(text) and len(text) <= _SCALAR and is_json(text)
        if self._closed and self._valid is None:
            self._valid = is_json("".join(fragments))
        return self._closed and self._valid is True

    def _walk(self, text: str, at: int) -> None:
        while True:
            if self._closed:
                if text[at:].strip(_WHITESPACE):
                    self._valid = False
                return
            if self._escaped:
                if at >= len(text):
                    return
                self._escaped = False
                at += 1
            found = (_INSIDE if self._in_string else _OUTSIDE).search(text, at)
            if found is None:
                return
            at = found.end()
            sign = found.group()
            if sign == '"':
                self._in_string = not self._in_string
            elif sign == "\\":
                self._escaped = True
            else:
                self._depth += 1 if sign in "{[" else -1
            self._closed = not self._depth and not self._in_string


class _Fields:
    """Objects merged by key: objects in objects too; texts of one key extend, anything else is replaced."""

    __slots__ = ("_fields",)

    def __init__(self, start: dict[str, Any]) -> None:
        self._fields: dict[str, Any] = {}
        _merge(self._fields, start)

    def merge(self, value: dict[str, Any]) -> bool:
        """Merges ``value``; whether that changed anything."""
        return _merge(self._fields, value)

    @property
    def empty(self) -> bool:
        return not self._fields

    def text(self) -> str:
        return encode_json(scrub(_plain(self._fields)))


class _Text:
    """A text that grows, in pieces so that growth stays cheap."""

    __slots__ = ("pieces", "size")

    def __init__(self, text: str) -> None:
        self.pieces = [text]
        self.size = len(text)

    def extend(self, text: str) -> bool:
        if len(text) >= self.size:  # it may be the same again, or the same and more
            whole = "".join(self.pieces)
            if text.startswith(whole):
                text = text[self.size :]
        self.pieces.append(text)
        self.size += len(text)
        return bool(text)


def _merge(known: dict[str, Any], new: dict[str, Any]) -> bool:
    changed = False
    for key, value in new.items():
        present = known.get(key)
        if isinstance(value, str) and isinstance(present, _Text):
            changed |= present.extend(value)
        elif isinstance(value, dict) and isinstance(present, dict):
            changed |= _merge(present, value)
        else:
            if isinstance(value, str):
                value = _Text(value)
            elif isinstance(value, dict):
                fields: dict[str, Any] = {}
                _merge(fields, value)
                value = fields
            elif key in known and present == value:
                continue
            known[key] = value
            changed = True
    return changed


def _plain(value: Any) -> Any:
    if isinstance(value, _Text):
        return "".join(value.pieces)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
