"""Everything that is done inside of transactions, in one place: `Bodies` over SQLAlchemy."""

from __future__ import annotations

from streamchat.buffers.sql.noting import drop_notes, due_notes, list_notes, write_notes
from streamchat.buffers.sql.queries import (
    find_active,
    list_conversations,
    list_enqueued,
    list_inputs,
    list_messages,
    read_conversation,
    read_run,
)
from streamchat.buffers.sql.removing import delete_conversation, delete_owner, delete_run, trim
from streamchat.buffers.sql.running import claim, create, created, post, renew
from streamchat.buffers.sql.titling import set_title

__all__ = [
    "claim",
    "create",
    "created",
    "delete_conversation",
    "delete_owner",
    "delete_run",
    "drop_notes",
    "due_notes",
    "find_active",
    "list_conversations",
    "list_enqueued",
    "list_inputs",
    "list_messages",
    "list_notes",
    "post",
    "read_conversation",
    "read_run",
    "renew",
    "set_title",
    "trim",
    "write_notes",
]
