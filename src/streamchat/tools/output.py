"""From what a tool returned to a JSON value for the log."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from pydantic_core import to_jsonable_python

from streamchat.core.jsontext import encode_json, join_surrogates
from streamchat.errors import StreamChatError

__all__ = ["OutputUnusable", "json_value", "limit_output"]

DEEPEST = 100
"""How deeply lists and objects of an output may be nested; decoders downstream have limits of their own."""

_LEAST_TEXT = 16
"""Bytes of a text that a note at its end must leave room for."""

_REPLACEMENT = "\ufffd"
_LISTS = (list, tuple, set, frozenset, deque)


class OutputUnusable(StreamChatError):
    """What a tool returned cannot be passed on; the text is made for the model and names no contents."""

    code = "tool_output"


def json_value(value: Any) -> Any:
    """Turn ``value`` into plain JSON: dicts with text keys, lists, text, numbers, booleans and None.

    Takes what pydantic takes: models, dataclasses, dates, enums, sets, UUIDs, decimals. Bytes are text if
    they are UTF-8. NUL and lone surrogates become U+FFFD, since not every store and client can carry them;
    NaN and the infinities become text of that name, since JSON has no such numbers. Raises `OutputUnusable`
    for anything else (an iterator too: it may have no end), and beyond 100 levels of nesting.
    """
    return _plain(value, 0)


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return _text(value)
    if value is None or kind is bool or kind is int:
        return value
    if kind is float:
        return value if math.isfinite(value) else str(value).replace("inf", "Infinity").replace("nan", "NaN")
    if isinstance(value, (dict, *_LISTS)):
        if depth >= DEEPEST:
            raise OutputUnusable(f"it is nested more than {DEEPEST} levels deep")
        if isinstance(value, dict):
            return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
        return [_plain(item, depth + 1) for item in value]
    return _other(value, depth)


def _other(value: Any, depth: int) -> Any:
    if hasattr(value, "__next__"):
        raise OutputUnusable(f"an iterator of type {type(value).__name__} cannot be written as JSON")
    try:
        plain = to_jsonable_python(value)
    except UnicodeDecodeError:
        raise OutputUnusable("bytes that are not UTF-8 cannot be written as JSON") from None
    except Exception as error:
        raise OutputUnusable(f"a value of type {type(value).__name__} cannot be written as JSON") from error
    # Subclasses of the plain types come back as they are; without this, that would have no end.
    if isinstance(plain, str):
        plain = str.__str__(plain)
    elif isinstance(plain, int) and not isinstance(plain, bool):
        plain = int.__int__(plain)
    elif isinstance(plain, float):
        plain = float.__float__(plain)
    return _plain(plain, depth)


def _key(key: Any) -> str:
    if type(key) is str:
        return _text(key)
    try:
        (written,) = to_jsonable_python({key: None})
    except Exception as error:
        raise OutputUnusable(f"a key of type {type(key).__name__} cannot be written as JSON") from error
    return _text(written)


def _text(text: str) -> str:
    return join_surrogates(text).replace("\0", _REPLACEMENT)


def limit_output(output: Any, most: int | None) -> Any:
    """Hold ``output`` (a JSON value) to ``most`` bytes of UTF-8; None is no limit.

    Text is cut between two characters, with a note at its end that says so, both together within ``most``
    bytes; where the note would leave no room for the text, it is short, or left out. Anything else is
    measured as JSON; too large, it raises `OutputUnusable`: half an object is no object.
    """
    try:
        size = len((output if isinstance(output, str) else encode_json(output)).encode())
    except ValueError as error:  # an integer of more digits than Python writes
        raise OutputUnusable("it holds a number that is too long") from error
    if most is None or size <= most:
        return output
    if not isinstance(output, str):
        raise OutputUnusable(f"it takes {size} bytes of JSON and at most {most} are passed on; ask for less")
    notes = (f"\n[cut: {size} bytes, of which at most {most} are passed on]", "\n[cut]", "")
    note = next(text for text in notes if len(text) + min(len(text), _LEAST_TEXT) <= most)
    return output.encode()[: most - len(note)].decode("utf-8", "ignore") + note
