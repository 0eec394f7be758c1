"""Cursors: where a client has got to in a run's log, and whether it can go on from there.

The last id that a client has seen, ``generation.seq``, is its cursor; it is exclusive. Sequence numbers alone
would lie: after a lossy failover the same numbers are written again with other events. So a cursor also names
the generation, the random token of whoever wrote that event, and a log keeps which generation owns which
numbers (its segments) for ever.

Generations of one run begin with the same characters. Hence a cursor that comes from another run (which says
nothing about this one) is told apart from one that names events of this run which the store has lost (whose
reader must throw them away).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from streamchat.core.given import check_instance
from streamchat.errors import CursorInvalid

__all__ = [
    "MAX_SEQ",
    "RUN_PART",
    "Cursor",
    "Position",
    "Reset",
    "ResetReason",
    "next_generation",
    "owner_of",
    "parse_cursor",
    "resolve",
]

MAX_SEQ = 2**53
"""The largest seq: beyond it, JavaScript's numbers are not exact."""

RUN_PART = 8
"""How many of its first characters a generation shares with the run's other generations."""

ResetReason: TypeAlias = Literal["trimmed", "unknown", "diverged"]

_CURSOR = re.compile(r"([a-z0-9_-]{1,64})\.(0|[1-9][0-9]{0,15})")


class Cursor(NamedTuple):
    """The last event that a client has: ``seq``, as written by ``generation``. seq 0 is before the first
    event."""

    generation: str
    seq: int

    def __str__(self) -> str:
        return f"{self.generation}.{self.seq}"


class Position(NamedTuple):
    """The log can be read on, from the event behind seq ``after``."""

    after: int


class Reset(NamedTuple):
    """The log cannot be read on from the cursor: the client must replace all that it has.

    ``trimmed``: events behind the cursor are gone. ``unknown``: the log has never got there, as far as the
    store knows. ``diverged``: others events stand there than the client has seen.
    """

    reason: ResetReason


def parse_cursor(text: str) -> Cursor:
    """Read ``generation.seq``.

    The generation is 1 to 64 of lowercase ASCII letters, digits, ``-`` and ``_``; the seq is decimal without
    leading zeros, at most 2**53. Raises `CursorInvalid` for anything else, surrounding blanks included.
    """
    check_instance(
        "last_event_id", text, str, "a cursor as text: the id of the last event", error=CursorInvalid
    )
    match = _CURSOR.fullmatch(text)
    if match is None or int(match[2]) > MAX_SEQ:
        shown = text if len(text) <= 80 else text[:80] + "…"
        raise CursorInvalid(
            f"the cursor {shown!r} is not of the form generation.seq: "
            f"send the last event's id back as it came, or none to read from the start",
            field="last_event_id",
        )
    return Cursor(match[1], int(match[2]))


def next_generation(first: str, token: str) -> str:
    """Return the generation of a new claim: the run's part of its ``first`` generation, then a random
    ``token``."""
    return first[:RUN_PART] + token


def owner_of(seq: int, segments: Sequence[tuple[str, int]]) -> str | None:
    """Return the generation that wrote (or will write) ``seq``; None where there are no segments.

    ``segments`` are (generation, first seq), ascending. One that was claimed and never appended to begins
    where its successor does, and owns nothing. seq 0 belongs to the first.
    """
    if not segments:
        return None
    owner = segments[0][0]
    for generation, first_seq in segments:
        if first_seq > seq:
            break
        owner = generation
    return owner


def resolve(
    cursor: Cursor | None, segments: Sequence[tuple[str, int]], first_seq: int, last_seq: int
) -> Position | Reset:
    """Say where a reader with ``cursor`` goes on; the other three describe the log as `Page` does.

    Valid is a cursor whose generation owns its seq, if that is at most ``last_seq``; it stays valid over
    later claims, and over a trim as long as all events behind it are stored. None, and a cursor of another
    run, mean the start.
    """
    after = 0
    if cursor is not None and _same_run(cursor, segments):
        if cursor.seq > last_seq:
            return Reset("unknown")
        if owner_of(cursor.seq, segments) != cursor.generation:
            return Reset("diverged")
        after = cursor.seq
    return Position(after) if after + 1 >= first_seq else Reset("trimmed")


def _same_run(cursor: Cursor, segments: Sequence[tuple[str, int]]) -> bool:
    return bool(segments) and cursor.generation[:RUN_PART] == segments[0][0][:RUN_PART]
