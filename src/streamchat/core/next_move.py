"""What becomes of a tool call when somebody goes on with its run: it starts, it starts again, or it does not.

A call with a ``tool_started`` and no result was cut off. Whether it took effect is not known, so only a tool
that may run twice runs again; this is what keeps all others to one start.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Move", "next_move"]

Move: TypeAlias = Literal["start", "start_again", "reconcile", "unknown", "refuse"]


def next_move(*, started: bool, known: bool, fits: bool, idempotent: bool) -> Move:
    """Say what to do about a call that has no result; ``started`` tells whether a start of it is stored.

    ``known``: its tool is registered here. ``fits``: it could be run, as far as its name and arguments go.

    ``start``: it was never started, and is now. ``refuse``: it was never started and cannot be. All others
    were cut off: ``start_again`` under the same idempotency key, ``reconcile`` asks the tool's hook what
    became of it (``unknown`` where it has none), ``unknown``: nobody here can tell.
    """
    if not started:
        return "start" if known and fits else "refuse"
    if not known or (idempotent and not fits):
        return "unknown"
    return "start_again" if idempotent else "reconcile"
