"""Which text can be an id in every store, and the error for what cannot."""

from __future__ import annotations

from streamchat.errors import InvalidInput

__all__ = ["LONGEST_ID", "check_id", "is_storable"]

LONGEST_ID = 191
"""Characters: with four bytes each, MySQL has room for no more of them in a key of its older row formats."""


def is_storable(value: object) -> bool:
    """Say whether every store can keep ``value`` as an id: text of at most `LONGEST_ID` characters without
    NUL (PostgreSQL has none) and lone surrogates (UTF-8 has none).

    What is not storable cannot exist: who looks it up finds nothing.
    """
    if not isinstance(value, str) or len(value) > LONGEST_ID or "\0" in value:
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def check_id(field: str, value: object) -> None:
    """Raise `InvalidInput`, which names ``field``, for what cannot be stored as an id."""
    if is_storable(value):
        return
    if not isinstance(value, str):
        problem = f"{field}={value!r:.100} is no text: give a str"
    elif len(value) > LONGEST_ID:
        problem = (
            f"{field}={value[:40]!r}… has {len(value)} characters: an id has at most {LONGEST_ID}; "
            f"give a shorter one (a hash of it will do)"
        )
    else:
        problem = (
            f"{field}={value!r} holds NUL or a lone surrogate, which not every store can keep: "
            f"give an id without them"
        )
    raise InvalidInput(problem, field=field)
