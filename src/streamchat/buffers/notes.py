"""Notes: what stands beside a run for a while, as who is connected, or what is still to be told elsewhere.

A note has an expiry, and past it is *due*: any process may act on it, then rewrites or drops it. So a process
that dies leaves nothing undone that it had noted. Notes are no part of a run's log, are written rarely and in
batches, and their content is the service's. A buffer offers them by having the methods of `NoteStore`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

from streamchat.buffers.base import EventBuffer
from streamchat.buffers.shared import Clock, now_ms

__all__ = ["LocalNotes", "NewNote", "Note", "NoteStore", "notes_of"]


class NewNote(NamedTuple):
    """A note to write, due in ``ttl`` seconds (0: at once). Without a ``body`` what stands there is
    removed."""

    run_id: str
    name: str
    body: bytes | None
    ttl: float = 0.0


@dataclass(frozen=True, slots=True)
class Note:
    """A note as stored. ``expires_at`` is milliseconds by the store's clock, by which ``expired`` was
    judged."""

    run_id: str
    name: str
    body: bytes
    expires_at: int
    expired: bool


class NoteStore(Protocol):
    """Keeps notes by (run, name). Every method may raise `BufferUnavailable` and be called again."""

    async def write_notes(self, notes: Sequence[NewNote]) -> None:
        """Write, replace or remove notes in one transaction; of two for the same name the later one stands.

        The run need not exist: something may be noted before it is created. Names are ASCII, at most 191
        characters.
        """
        ...

    async def notes(self, run_id: str) -> list[Note]:
        """Return all notes of a run, by name; none where it is unknown."""
        ...

    async def due_notes(self, limit: int = 100) -> list[Note]:
        """Return notes of any runs whose time is over (``expires_at`` <= now), those that expired first in
        front."""
        ...

    async def drop_notes(self, notes: Sequence[Note]) -> int:
        """Remove those of these notes that were not written anew since (``expires_at`` is the same); return
        how many went."""
        ...


class LocalNotes:
    """A `NoteStore` in this process, gone with it: enough where no other process shares the buffer."""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._now = clock
        self._notes: dict[str, dict[str, tuple[bytes, int]]] = {}

    async def write_notes(self, notes: Sequence[NewNote]) -> None:
        """Write, replace or remove notes; see `NoteStore.write_notes`."""
        now = self._now()
        for note in notes:
            if note.body is None:
                self._remove(note.run_id, note.name)
            else:
                named = self._notes.setdefault(note.run_id, {})
                named[note.name] = (note.body, now + int(note.ttl * 1000))

    async def notes(self, run_id: str) -> list[Note]:
        """Return all notes of a run, by name."""
        return sorted(self._all([run_id]), key=lambda note: note.name)

    async def due_notes(self, limit: int = 100) -> list[Note]:
        """Return notes whose time is over; see `NoteStore.due_notes`."""
        due = [note for note in self._all(list(self._notes)) if note.expired]
        due.sort(key=lambda note: (note.expires_at, note.run_id, note.name))
        return due[:limit]

    async def drop_notes(self, notes: Sequence[Note]) -> int:
        """Remove notes that were not written anew; see `NoteStore.drop_notes`."""
        gone = 0
        for note in notes:
            there = self._notes.get(note.run_id, {}).get(note.name)
            if there is not None and there[1] == note.expires_at:
                self._remove(note.run_id, note.name)
                gone += 1
        return gone

    def forget_notes(self, run_id: str) -> None:
        """Remove all notes of a run that is deleted."""
        self._notes.pop(run_id, None)

    def _all(self, run_ids: Iterable[str]) -> list[Note]:
        now = self._now()
        return [
            Note(run_id, name, body, expires_at, expires_at <= now)
            for run_id in run_ids
            for name, (body, expires_at) in self._notes.get(run_id, {}).items()
        ]

    def _remove(self, run_id: str, name: str) -> None:
        named = self._notes.get(run_id, {})
        if named.pop(name, None) is not None and not named:
            del self._notes[run_id]


def notes_of(buffer: EventBuffer) -> NoteStore | None:
    """Return the buffer as the `NoteStore` that it may be, or None."""
    names = ("write_notes", "notes", "due_notes", "drop_notes")
    if all(callable(getattr(buffer, name, None)) for name in names):
        return cast(NoteStore, buffer)
    return None
