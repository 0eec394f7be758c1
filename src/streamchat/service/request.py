"""What a run was asked, in the form that is stored with it: all that a fresh process needs to go on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from streamchat.buffers.base import MessageRecord
from streamchat.core.history import messages_of_content
from streamchat.errors import InvalidInput
from streamchat.events import dump_json
from streamchat.messages import (
    ContentPart,
    FilePart,
    ModelMessage,
    TextPart,
    parse_content,
)
from streamchat.tools import ClientTool

__all__ = [
    "RunRequest",
    "RunTerms",
    "conversation_path",
    "model_history",
    "stored_content",
    "user_content",
]

_PART_TYPES = ("text", "image_url", "input_audio", "file")


class RunRequest(BaseModel):
    """Stored with the run and seen by the server only: messages as sent (the system prompt first), and
    options.

    ``tools`` maps the names of the tools on offer to digests of their parameters. ``user_message_id`` is
    the message that the run answers, ``previous_message_id`` the one before that. ``grace`` is after how many
    seconds without readers it is cancelled (None: never). ``later`` stands for messages that are made when
    the run begins, from what its conversation holds by then and ``system_message``: runs before it were not
    over. ``client_tools`` are those that this run's client declared, and carries out. ``output_type`` names
    the type that the answer is to have. ``previous_runs`` are those whose answers come before this one
    on its branch of the conversation, oldest first; None in what an older version stored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    messages: tuple[ModelMessage, ...]
    tools: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, Any] | None = None
    client_id: str | None = None
    user_message_id: str | None = None
    previous_message_id: str | None = None
    grace: float | None = None
    client_tools: tuple[ClientTool, ...] = ()
    later: bool = False
    system_message: str | None = None
    output_type: str | None = None
    previous_runs: tuple[str, ...] | None = None

    def encode(self) -> bytes:
        """Return it as JSON."""
        return dump_json(self.model_dump(mode="json", exclude_none=True))


class RunTerms(BaseModel):
    """The small things in a stored request, for who does not need the messages."""

    grace: float | None = None
    previous_message_id: str | None = None
    client_tools: tuple[ClientTool, ...] = ()

    @classmethod
    def of(cls, request: bytes) -> RunTerms:
        """Read them; a request that does not read has none."""
        try:
            return cls.model_validate_json(request)
        except ValueError:
            return cls()


def user_content(message: str | Sequence[Mapping[str, Any]], most: int) -> list[dict[str, Any]]:
    """Check a user's message and return it as Chat Completions parts.

    Raises `InvalidInput` for an empty one, one whose text is longer than ``most`` characters, and unknown
    parts.
    """
    if isinstance(message, str):
        message = [{"type": "text", "text": message}]
    if not isinstance(message, list | tuple) or not message:
        raise InvalidInput("the message must be text, or a list of at least one part", field="message")
    length = 0
    parts: list[dict[str, Any]] = []
    for position, part in enumerate(message):
        where = f"message.{position}"
        if not isinstance(part, Mapping) or part.get("type") not in _PART_TYPES:
            raise InvalidInput(f"a part's type must be one of {', '.join(_PART_TYPES)}", field=where)
        if part["type"] == "text":
            text = part.get("text")
            if not isinstance(text, str):
                raise InvalidInput("a text part needs text", field=f"{where}.text")
            length += len(text)
        elif not isinstance(part.get(part["type"]), Mapping):
            raise InvalidInput(f"this part needs an object {part['type']}", field=f"{where}.{part['type']}")
        parts.append(dict(part))
    if length > most:
        raise InvalidInput(f"the message has {length} characters; {most} are allowed", field="message")
    if length == 0 and all(part["type"] == "text" for part in parts):
        raise InvalidInput("the message is empty", field="message")
    return parts


def stored_content(parts: Iterable[Mapping[str, Any]]) -> bytes:
    """Return a user's parts as the content of a message row."""
    content: list[ContentPart] = []
    for number, part in enumerate(parts):
        if part["type"] == "text":
            content.append(TextPart(part=number, text=part["text"]))
        else:
            content.append(FilePart(part=number, data=dict(part)))
    return dump_json([part.model_dump(exclude_none=True) for part in content])


def conversation_path(rows: Sequence[MessageRecord], leaf_id: str | None) -> list[MessageRecord]:
    """Return the messages from the first to the active leaf; a conversation that was never edited is all of
    them."""
    by_id = {row.message_id: row for row in rows}
    path: list[MessageRecord] = []
    at = by_id.get(leaf_id or "")
    while at is not None:
        path.append(at)
        at = by_id.get(at.parent_id or "")
    return path[::-1]


def model_history(rows: Iterable[MessageRecord]) -> list[ModelMessage]:
    """Turn a conversation's messages into what the model is given of them."""
    out: list[ModelMessage] = []
    for row in rows:
        content = parse_content(row.content)
        if row.role == "assistant":
            private = None if row.private is None else _object(row.private)
            out += messages_of_content(content, private)
        else:
            out.append(ModelMessage(role=row.role, content=_plain(content)))
    return out


def _object(data: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(data)
    return value


def _plain(content: Sequence[ContentPart]) -> str | list[dict[str, Any]]:
    if len(content) == 1 and isinstance(content[0], TextPart):
        return content[0].text
    parts: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        elif isinstance(part, FilePart) and part.data is not None:
            parts.append(part.data)
    return parts
