"""What stands beside runs and conversations: notes (`streamchat.buffers.notes`), titles given later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamchat.adapters.django.buffer.tx import Tx
from streamchat.adapters.django.models import Conversation
from streamchat.adapters.django.models import Note as NoteRow
from streamchat.buffers.notes import NewNote, Note
from streamchat.buffers.transactional.records import encode_text

__all__ = ["drop_notes", "due_notes", "list_notes", "set_title", "write_notes"]


def write_notes(tx: Tx, notes: Sequence[NewNote]) -> None:
    """See `NoteStore.write_notes`."""
    last = {(note.run_id, note.name): note for note in notes}
    # In one order everywhere, so that two processes never wait for each other's rows.
    for note in (last[key] for key in sorted(last)):
        if note.body is None:
            tx.rows(NoteRow).filter(run_id=note.run_id, name=note.name).delete()
    rows: list[Any] = [
        NoteRow(
            run_id=note.run_id,
            name=note.name,
            body=tx.payloads.put(note.body),
            expires_at=tx.now + int(note.ttl * 1000),
        )
        for note in (last[key] for key in sorted(last))
        if note.body is not None
    ]
    if rows:
        # MySQL knows by itself which key is meant, and must not be told.
        keys = ["run_id", "name"] if tx.features.supports_update_conflicts_with_target else None
        tx.rows(NoteRow).bulk_create(
            rows, update_conflicts=True, update_fields=["body", "expires_at"], unique_fields=keys
        )


def list_notes(tx: Tx, run_id: str) -> list[Note]:
    """See `NoteStore.notes`."""
    return _notes(tx, tx.rows(NoteRow).filter(run_id=run_id).order_by("name"))


def due_notes(tx: Tx, limit: int) -> list[Note]:
    """See `NoteStore.due_notes`."""
    due = tx.rows(NoteRow).filter(expires_at__lte=tx.now)
    return _notes(tx, due.order_by("expires_at", "run_id", "name")[:limit])


def drop_notes(tx: Tx, notes: Sequence[Note]) -> int:
    """See `NoteStore.drop_notes`."""
    gone = 0
    for note in sorted(notes, key=lambda note: (note.run_id, note.name)):
        same = {"run_id": note.run_id, "name": note.name, "expires_at": note.expires_at}
        gone += tx.rows(NoteRow).filter(**same).delete()[0]
    return gone


def _notes(tx: Tx, query: Any) -> list[Note]:
    return [
        Note(row.run_id, row.name, tx.payloads.get(row.body), row.expires_at, row.expires_at <= tx.now)
        for row in query
    ]


def set_title(tx: Tx, conversation_id: str, title: str | None) -> bool:
    """See `TitleStore.set_title`."""
    stored = None if title is None else tx.payloads.put(encode_text(title))
    named = tx.rows(Conversation).filter(conversation_id=conversation_id)
    # Some databases count only rows that have changed.
    return bool(named.update(title=stored)) or named.exists()
