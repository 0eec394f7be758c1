"""Checks of what an application gives: each raises `InvalidInput` that names the field, the value that was
received and what to give."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Set
from typing import Any, TypeAlias, cast

from streamchat.errors import InvalidInput
from streamchat.events import dump_json

__all__ = [
    "Refuse",
    "check_callable",
    "check_choice",
    "check_flag",
    "check_instance",
    "check_json",
    "check_names",
    "check_number",
]

Refuse: TypeAlias = Callable[..., InvalidInput]
"""Makes the error of a text and a ``field``."""


def check_number(
    field: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    whole: bool = False,
    none: bool = False,
    finite: bool = False,
    error: Refuse = InvalidInput,
) -> None:
    """Raise for what is no number (``whole``: an integer) of at least ``least``, or greater than ``above``,
    and of at most ``most``.

    With ``none``, None is taken. True and False are no numbers, nor is NaN; ``finite`` refuses infinity.
    """
    if none and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        fits = False
    else:
        fits = (least is None or value >= least) and (above is None or value > above)
        fits = fits and (most is None or value <= most)
        fits = fits and not math.isnan(value) and not (finite and math.isinf(value))
    if not fits:
        bound = f" above {above:g}" if above is not None else "" if least is None else f", {least:g} or above"
        bound += "" if most is None else f", at most {most:,.0f}"
        also = ", or None for no limit" if none else ""
        kind = "a whole number" if whole else "a number"
        raise error(f"{field}={_shown(value)} must be {kind}{bound}{also}", field=field)


def check_instance(
    field: str,
    value: object,
    kind: type[Any] | tuple[type[Any], ...],
    give: str,
    *,
    none: bool = False,
    secret: bool = False,
    error: Refuse = InvalidInput,
) -> None:
    """Raise for what is no instance of ``kind``; ``give`` says what to give instead. A ``secret`` value is
    not shown."""
    if not (isinstance(value, kind) or (none and value is None)):
        shown = field if secret else f"{field}={_shown(value)}"
        raise error(f"{shown} is of type {type(value).__name__}: give {give}", field=field)


def check_flag(field: str, value: object, *, error: Refuse = InvalidInput) -> None:
    """Raise for what is neither True nor False."""
    check_instance(field, value, bool, "True or False", error=error)


def check_choice(
    field: str, value: object, choices: tuple[str, ...], *, error: Refuse = InvalidInput
) -> None:
    """Raise for what is none of ``choices``."""
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise error(f"{field}={_shown(value)} must be one of {known}", field=field)


def check_names(field: str, value: object, give: str, *, error: Refuse = InvalidInput) -> None:
    """Raise for what is no list, tuple or set of text (text alone is none)."""
    check_instance(field, value, (list, tuple, Set), give, error=error)
    for each in cast("Collection[object]", value):
        check_instance(field, each, str, give, error=error)


def check_callable(
    field: str,
    value: object,
    give: str,
    *,
    none: bool = False,
    error: Refuse = InvalidInput,
) -> None:
    """Raise for what cannot be called; ``give`` says what to give instead."""
    if not (callable(value) or (none and value is None)):
        raise error(f"{field}={_shown(value)} is of type {type(value).__name__}: give {give}", field=field)


def check_json(field: str, value: object, encode: Callable[[Any], bytes] = dump_json) -> bytes:
    """Return the JSON that ``encode`` makes; raise for what it cannot make JSON of."""
    try:
        return encode(value)
    except (InvalidInput, TypeError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(
            f"{field} must hold JSON values only (objects with text keys, lists, text, numbers, booleans and "
            f"None): {reason:.300}",
            field=field,
        ) from error


def _shown(value: object) -> str:
    return f"{value!r:.100}"
