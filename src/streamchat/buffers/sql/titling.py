"""Titles of conversations: see `streamchat.buffers.titles`."""

from __future__ import annotations

from sqlalchemy import update

from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.transactional.records import encode_text

__all__ = ["set_title"]


def set_title(tx: Tx, conversation_id: str, title: str | None) -> bool:
    """See `TitleStore.set_title`."""
    conversations = tx.schema.conversations
    stored = None if title is None else tx.payloads.put(encode_text(title))
    named = conversations.c.conversation_id == conversation_id
    return bool(tx.connection.execute(update(conversations).where(named).values(title=stored)).rowcount)
