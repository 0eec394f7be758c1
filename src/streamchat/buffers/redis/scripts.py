"""The Lua scripts: each is one transaction, because the server runs nothing else meanwhile.

A script may be sent twice (its answer may be lost), so each does the same thing once: an append and a create
recognize themselves by what is stored, a claim by its token, the others change nothing the second time.
Scripts are not rolled back; a server that is full, read-only or cannot save refuses a script at its first
write, or never. So those that fill it begin with a write that needs memory, and those that empty it with one
that needs none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

__all__ = [
    "APPEND",
    "CLAIM",
    "CONVERSATION",
    "CREATE",
    "CREATED",
    "DELETE_CONVERSATION",
    "DELETE_RUN",
    "DROP_NOTES",
    "DUE_NOTES",
    "ENQUEUED",
    "FIND",
    "HEADS",
    "INPUTS",
    "LIST_CONVERSATIONS",
    "LIST_MESSAGES",
    "LIST_NOTES",
    "OWNED",
    "POST",
    "READ",
    "RELEASE",
    "RENEW",
    "RUN",
    "SET_TITLE",
    "TRIM",
    "WRITE_NOTES",
    "Script",
    "part",
]


@dataclass(frozen=True, slots=True)
class Script:
    """A script: its name, its source, and the hash by which the server knows it once it was sent."""

    name: str
    source: bytes
    sha: bytes


def part(name: str) -> bytes:
    """Return the source of one file."""
    return files("streamchat.buffers.redis").joinpath("lua", f"{name}.lua").read_bytes()


def _script(name: str, *parts: str) -> Script:
    source = b"".join(part(one) for one in ("keys", *parts, name))
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode("ascii"))


CREATE = _script("create", "conversations", "messages")
CREATED = _script("created")
CLAIM = _script("claim")
RELEASE = _script("release", "conversations")
APPEND = _script("append", "rule", "conversations", "messages")
RENEW = _script("renew", "rule")
POST = _script("post", "conversations")
TRIM = _script("trim")
DELETE_RUN = _script("delete_run", "conversations", "burying")
DELETE_CONVERSATION = _script("delete_conversation", "burying")
OWNED = _script("owned")
READ = _script("read")
HEADS = _script("heads")
RUN = _script("run")
FIND = _script("find")
ENQUEUED = _script("enqueued")
INPUTS = _script("inputs")
CONVERSATION = _script("conversation")
SET_TITLE = _script("set_title")
LIST_CONVERSATIONS = _script("list_conversations")
LIST_MESSAGES = _script("list_messages")
WRITE_NOTES = _script("write_notes")
LIST_NOTES = _script("list_notes")
DUE_NOTES = _script("due_notes")
DROP_NOTES = _script("drop_notes")
