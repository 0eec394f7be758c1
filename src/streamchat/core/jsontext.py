"""JSON as providers send it: a tolerant decoder for chunks, a strict one for arguments, and split surrogates.

The fast parsers (jiter, which openai brings, for bytes; pydantic's for text) refuse halves of surrogate
pairs, which some providers stream; the standard library's takes them, so it is asked where the fast ones
fail. What it lets through and JSON does not know (NaN, Infinity) is refused in arguments.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jiter
from pydantic_core import from_json

__all__ = [
    "decode_json",
    "encode_json",
    "hold_surrogate",
    "is_json",
    "join_surrogates",
    "parse_object",
    "scrub",
]

_SURROGATE = re.compile("[\ud800-\udfff]")
_TOO_DEEP = "recursion limit"
_MAY_OVERFLOW = re.compile(r"[eE]\+?\d{3}|\d{300}")


def decode_json(data: bytes | str) -> Any:
    """The value that ``data`` holds; text in it may hold halves of surrogate pairs. Raises ``ValueError``."""
    try:
        return jiter.from_json(data) if isinstance(data, bytes) else from_json(data)
    except (ValueError, TypeError) as error:
        if _TOO_DEEP in str(error):  # what is deeper than its bound would break those who walk the value
            raise
    try:
        return json.loads(data if isinstance(data, str) else _lenient_text(data))
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def _lenient_text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def encode_json(value: Any) -> str:
    """``value`` as compact JSON text; characters outside ASCII stay as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object in ``text``, unwrapped once if it is a string that holds one; else None.

    Strict: NaN, Infinity and numbers too large for a float are refused; integers keep all their digits (up to
    Python's own bound). Halves of surrogate pairs that stay alone become U+FFFD.
    """
    value = _parse_strict(text)
    if isinstance(value, str):
        value = _parse_strict(value)
    return value if isinstance(value, dict) else None


def is_json(text: str) -> bool:
    """Whether ``text`` is one complete JSON value."""
    return _parse_strict(text) is not _INVALID


def join_surrogates(text: str) -> str:
    """``text`` with halves of surrogate pairs joined where both are there; a lone one becomes U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def hold_surrogate(held: str, text: str) -> tuple[str, str]:
    """What of ``held + text`` can be shown now, and a high surrogate at its end that must wait for its
    other half.

    ``held`` is what the last call gave back to wait: "" or one character. A half that stays alone becomes
    U+FFFD.
    """
    text = held + text
    if text and "\ud800" <= text[-1] <= "\udbff":
        return join_surrogates(text[:-1]), text[-1]
    return join_surrogates(text), ""


def scrub(value: Any) -> Any:
    """``value`` (JSON data) without halves of surrogate pairs, so that it can be written as UTF-8."""
    if isinstance(value, str):
        return join_surrogates(value)
    if isinstance(value, dict):
        return {scrub(key): scrub(item) for key, item in value.items()}
    if isinstance(value, list):
        return [scrub(item) for item in value]
    return value


_INVALID: Any = object()


def _reject(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:40]} is too large for a float")
    return number


def _parse_strict(text: str) -> Any:
    if not _MAY_OVERFLOW.search(text):
        try:
            return from_json(text, allow_inf_nan=False)
        except (ValueError, TypeError) as error:  # the latter for text that UTF-8 cannot carry
            if _TOO_DEEP in str(error):
                return _INVALID
    try:
        return scrub(json.loads(text, parse_constant=_reject, parse_float=_finite))
    except (ValueError, RecursionError):
        return _INVALID
