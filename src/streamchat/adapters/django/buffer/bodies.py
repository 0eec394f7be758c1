"""Everything that is done inside of transactions, in one place: `Bodies` over Django's ORM."""

from __future__ import annotations

from streamchat.adapters.django.buffer.noting import (
    drop_notes,
    due_notes,
    list_notes,
    set_title,
    write_notes,
)
from streamchat.adapters.django.buffer.reading import (
    find_active,
    list_conversations,
    list_enqueued,
    list_inputs,
    list_messages,
    read_conversation,
    read_run,
)
from streamchat.adapters.django.buffer.removing import delete_conversation, delete_owner, delete_run, trim
from streamchat.adapters.django.buffer.running import claim, create, created, post, renew

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
