"""Notes beside runs: see `streamchat.buffers.notes`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, Table, delete, insert, select
from sqlalchemy.dialects import mysql, postgresql, sqlite

from streamchat.buffers.notes import NewNote, Note
from streamchat.buffers.sql.transaction import Tx

__all__ = ["drop_notes", "due_notes", "list_notes", "write_notes"]


def write_notes(tx: Tx, notes: Sequence[NewNote]) -> None:
    """See `NoteStore.write_notes`."""
    table = tx.schema.notes
    last = {(note.run_id, note.name): note for note in notes}
    # In one order everywhere, so that two processes never wait for each other's rows.
    for note in (last[key] for key in sorted(last)):
        if note.body is None:
            named = (table.c.run_id == note.run_id, table.c.name == note.name)
            tx.connection.execute(delete(table).where(*named))
    rows = [
        {
            "run_id": note.run_id,
            "name": note.name,
            "body": tx.payloads.put(note.body),
            "expires_at": tx.now + int(note.ttl * 1000),
        }
        for note in (last[key] for key in sorted(last))
        if note.body is not None
    ]
    if rows:
        tx.connection.execute(_upsert(tx.connection.dialect.name, table), rows)


def _upsert(dialect: str, table: Table) -> Any:
    keys, values = ("run_id", "name"), ("body", "expires_at")
    if dialect == "sqlite":
        lite = sqlite.insert(table)
        return lite.on_conflict_do_update(
            index_elements=keys, set_={name: lite.excluded[name] for name in values}
        )
    if dialect == "postgresql":
        postgres = postgresql.insert(table)
        return postgres.on_conflict_do_update(
            index_elements=keys, set_={name: postgres.excluded[name] for name in values}
        )
    if dialect in ("mysql", "mariadb"):
        my = mysql.insert(table)
        return my.on_duplicate_key_update({name: my.inserted[name] for name in values})
    return insert(table)


def list_notes(tx: Tx, run_id: str) -> list[Note]:
    """See `NoteStore.notes`."""
    table = tx.schema.notes
    return _notes(tx, select(table).where(table.c.run_id == run_id).order_by(table.c.name))


def due_notes(tx: Tx, limit: int) -> list[Note]:
    """See `NoteStore.due_notes`."""
    table = tx.schema.notes
    due = select(table).where(table.c.expires_at <= tx.now)
    return _notes(tx, due.order_by(table.c.expires_at, table.c.run_id, table.c.name).limit(limit))


def drop_notes(tx: Tx, notes: Sequence[Note]) -> int:
    """See `NoteStore.drop_notes`."""
    table = tx.schema.notes
    gone = 0
    for note in sorted(notes, key=lambda note: (note.run_id, note.name)):
        same = (
            table.c.run_id == note.run_id,
            table.c.name == note.name,
            table.c.expires_at == note.expires_at,
        )
        gone += tx.connection.execute(delete(table).where(*same)).rowcount
    return gone


def _notes(tx: Tx, query: Select[Any]) -> list[Note]:
    return [
        Note(row.run_id, row.name, tx.payloads.get(row.body), row.expires_at, row.expires_at <= tx.now)
        for row in tx.connection.execute(query)
    ]
