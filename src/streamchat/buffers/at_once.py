"""What a store may offer beside the protocol: to append without being awaited, where it need not wait for
anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from streamchat.buffers.base import Appended, EventBuffer, Lease, NewEvent

__all__ = ["AppendNow", "AppendsNow", "append_now_of"]

AppendNow: TypeAlias = Callable[[Lease, Sequence[NewEvent]], Appended | None]


class AppendsNow(Protocol):
    """An `EventBuffer` that lives in this process and can write between two awaits."""

    def append_now(self, lease: Lease, events: Sequence[NewEvent]) -> Appended | None:
        """Write a part of an answer, with nothing beside the events, by the rules of `EventBuffer.append`.

        None: nothing was done, and the caller awaits `append` with the same events, which also says what is
        wrong with them. Now and then it is None so that others get their turn.
        """
        ...


def append_now_of(buffer: EventBuffer) -> AppendNow | None:
    """Return the buffer's ``append_now``, or None where it has none.

    One that wraps another and passes on what it does not know must not be passed by: it is the class that
    counts.
    """
    if getattr(type(buffer), "append_now", None) is None:
        return None
    found: AppendNow = buffer.append_now  # type: ignore[attr-defined]
    return found
