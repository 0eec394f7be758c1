"""Reads a run's log whole."""

from __future__ import annotations

from streamchat.buffers.base import EventBuffer
from streamchat.events import StoredEvent

__all__ = ["read_log"]


async def read_log(buffer: EventBuffer, run_id: str, limit: int = 1000) -> list[StoredEvent]:
    """Read all that is stored of a run; raises `RunNotFound`."""
    events: list[StoredEvent] = []
    after = 0
    while True:
        page = await buffer.read(run_id, after, limit)
        events += page.events
        if not page.events or page.events[-1].seq >= page.last_seq:
            return events
        after = page.events[-1].seq
