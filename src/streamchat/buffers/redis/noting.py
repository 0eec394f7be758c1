"""Notes beside runs: see `streamchat.buffers.notes`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamchat.buffers.codec import Payloads
from streamchat.buffers.notes import NewNote, Note
from streamchat.buffers.redis.lanes import Argument
from streamchat.buffers.redis.records import fields, raw, text
from streamchat.buffers.redis.scripts import DROP_NOTES, DUE_NOTES, LIST_NOTES, WRITE_NOTES, Script

__all__ = ["RedisNotes"]


class RedisNotes:
    """The `NoteStore` part of `RedisEventBuffer`."""

    _payloads: Payloads

    async def _write(self, script: Script, *arguments: Argument, size: int = 0) -> Any:
        raise NotImplementedError

    async def _read(self, script: Script, *arguments: Argument) -> Any:
        raise NotImplementedError

    async def write_notes(self, notes: Sequence[NewNote]) -> None:
        """Write, replace or remove notes; see `NoteStore.write_notes`."""
        arguments: list[Argument] = []
        for note in notes:
            body = b"" if note.body is None else b"=" + self._payloads.put(note.body)
            arguments += [raw(note.run_id), raw(note.name), int(note.ttl * 1000), body]
        if arguments:
            await self._write(WRITE_NOTES, *arguments)

    async def notes(self, run_id: str) -> list[Note]:
        """Return all notes of a run, by name."""
        now, flat = await self._read(LIST_NOTES, raw(run_id))
        return [
            self._note(run_id, text(name), stored, int(now)) for name, stored in sorted(fields(flat).items())
        ]

    async def due_notes(self, limit: int = 100) -> list[Note]:
        """Return notes whose time is over; see `NoteStore.due_notes`."""
        now, found = await self._read(DUE_NOTES, limit)
        return [self._note(text(run_id), text(name), stored, int(now)) for run_id, name, stored in found]

    async def drop_notes(self, notes: Sequence[Note]) -> int:
        """Remove notes that were not written anew; see `NoteStore.drop_notes`."""
        arguments: list[Argument] = []
        for note in notes:
            arguments += [raw(note.run_id), raw(note.name), note.expires_at]
        return int(await self._write(DROP_NOTES, *arguments)) if arguments else 0

    def _note(self, run_id: str, name: str, stored: bytes, now: int) -> Note:
        expires, _, body = stored.partition(b"=")
        return Note(run_id, name, self._payloads.get(body), int(expires), int(expires) <= now)
