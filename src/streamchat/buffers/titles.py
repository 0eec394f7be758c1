"""Titles given to conversations later on; a buffer offers it by having the method of `TitleStore`."""

from __future__ import annotations

from typing import Protocol, cast

from streamchat.buffers.base import EventBuffer

__all__ = ["TitleStore", "titles_of"]


class TitleStore(Protocol):
    """Keeps a conversation's title beyond that of `NewRun`."""

    async def set_title(self, conversation_id: str, title: str | None) -> bool:
        """Give a conversation another title, or none; its place among the others stays.

        Returns whether there is such a conversation. May raise `BufferUnavailable` and be called again.
        """
        ...


def titles_of(buffer: EventBuffer) -> TitleStore | None:
    """Return the buffer as the `TitleStore` that it may be, or None."""
    return cast(TitleStore, buffer) if callable(getattr(buffer, "set_title", None)) else None
