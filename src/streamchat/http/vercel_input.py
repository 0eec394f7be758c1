"""What ``useChat`` sends, and what of it is taken: the last message, and what a client decided in it.

The body holds the whole conversation as the page knows it. Of that, a user's last message is new, or an
assistant's last message holds answers; the rest says only where in the conversation the page stands. Parts
that no user writes (reasoning, tools, data) are passed over, in a user's message as everywhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from streamchat.buffers.base import MessageRecord
from streamchat.events import dump_json
from streamchat.http.bodies import ConversationId, JSONObject, Name, Words
from streamchat.http.errors import HTTPError
from streamchat.http.incoming import Answers, Approval, NewMessage, Regenerate, ToolOutput, Wanted

__all__ = [
    "VercelBody",
    "VercelChunk",
    "VercelMessage",
    "VercelMessages",
    "answered_in",
    "idempotency_key_of",
    "wanted_of",
]

_MOST_PARTS = 100
_AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "vnd.wave": "wav"}

_Id: TypeAlias = Annotated[str, StringConstraints(max_length=200)]


class _Body(BaseModel):
    # Pages send what they like besides (`body` of `sendMessage`).
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class VercelChunk(BaseModel):
    """One chunk of a UI message stream, the data of one frame; the last frame's is ``[DONE]``."""

    model_config = ConfigDict(extra="allow")

    type: str


class VercelMessages(BaseModel):
    """A chat as a page opens it: UI messages, each with ``id``, ``role`` and ``parts``."""

    messages: list[dict[str, Any]]


class VercelMessage(_Body):
    """A message as the page has it; its parts are judged when they are used."""

    id: _Id = ""
    role: Literal["system", "user", "assistant"]
    parts: list[dict[str, Any]] = Field(default_factory=list)


class VercelApproval(_Body):
    """A decision beside the messages: for versions without approvals, and with edited arguments."""

    toolCallId: Name
    approved: bool
    reason: Words | None = None
    arguments: JSONObject | None = None


class VercelBody(_Body):
    """What ``DefaultChatTransport`` sends: the chat's ``id``, the conversation, and why.

    ``message`` may stand in place of ``messages`` where a page sends only the last one. ``approvals`` is what
    a page may add: decisions on calls, also with edited ``arguments``.
    """

    id: ConversationId
    messages: Annotated[list[VercelMessage], Field(min_length=1)] | None = None
    message: VercelMessage | None = None
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    messageId: _Id | None = None
    approvals: Annotated[list[VercelApproval], Field(max_length=100)] = Field(default_factory=list)

    def conversation(self) -> Sequence[VercelMessage]:
        """The messages, at least one. Raises `HTTPError` 422."""
        if self.messages is not None:
            return self.messages
        if self.message is not None:
            return [self.message]
        raise _invalid("body", "give messages, at least one")


def idempotency_key_of(body: VercelBody) -> str | None:
    """Return a key for the last message, if it is a new one with an id: sent twice, it is answered once."""
    last = body.conversation()[-1]
    if last.role != "user" or not last.id or body.messageId or body.trigger != "submit-message":
        return None
    content = dump_json([body.id, last.id, last.parts])
    return f"vercel:{hashlib.sha256(content).hexdigest()}"


def wanted_of(body: VercelBody, stored: Sequence[MessageRecord]) -> Wanted:
    """Return what a request asks for; ``stored`` are the conversation's own messages.

    Raises `HTTPError` 422 for a message that cannot be taken.
    """
    messages = body.conversation()
    answers = {row.message_id: row for row in stored if row.role == "assistant"}
    if body.trigger == "regenerate-message":
        regenerate = _regenerated(body, messages, stored, answers)
        if regenerate is not None:
            return regenerate
    elif messages[-1].role == "assistant" or body.approvals:
        return _answers(body)
    last = messages[-1]
    if last.role != "user":
        raise _invalid("messages.role", f"the last message must be a user's, not of role {last.role}")
    content = list(_content(last))
    if body.trigger == "submit-message" and body.messageId:
        if body.messages is None:
            raise _invalid("body", "an edited message comes with those before it")
        return NewMessage(content, follows=_before(messages, answers) or "")
    return NewMessage(content)


def _before(messages: Sequence[VercelMessage], answers: Mapping[str, MessageRecord]) -> str | None:
    """The last answer of ours that the page shows before its last message."""
    known = [message.id for message in messages[:-1] if message.id in answers]
    return known[-1] if known else None


def _regenerated(
    body: VercelBody,
    messages: Sequence[VercelMessage],
    stored: Sequence[MessageRecord],
    answers: Mapping[str, MessageRecord],
) -> Regenerate | None:
    """The answer that is to be made anew: the one named, else the newest to the page's last message.

    None where the page's last message was never stored, because it was refused: it is then a new one.
    """
    if body.messageId in answers:
        return Regenerate(body.messageId)
    if body.messages is None:
        return Regenerate()
    shown = _before(messages, answers)
    asked = {row.message_id for row in stored if row.role == "user" and row.parent_id == shown}
    for row in reversed(stored):
        if row.role == "assistant" and row.parent_id in asked:
            return Regenerate(row.message_id)
    return None


def answered_in(body: VercelBody) -> VercelMessage:
    """Return the message that holds the page's answers: the answer that is named, else the last one."""
    messages = body.conversation()
    named = [known for known in messages if known.role == "assistant" and known.id == body.messageId]
    return [*messages, *named][-1]


def _answers(body: VercelBody) -> Answers:
    message = answered_in(body)
    given: list[Approval | ToolOutput] = [
        Approval(each.toolCallId, each.approved, each.reason, each.arguments) for each in body.approvals
    ]
    decided = {each.call for each in given}
    if message.role == "assistant":
        found = (_answer(part) for part in message.parts)
        given += [each for each in found if each is not None and each.call not in decided]
    shown = [call for part in message.parts if isinstance(call := part.get("toolCallId"), str)]
    return Answers(given, message.id if message.role == "assistant" else None, shown)


def _answer(part: Mapping[str, Any]) -> Approval | ToolOutput | None:
    """What a part of the page's copy may answer; whether the call waits for it is for the log to say."""
    kind, call_id = part.get("type"), part.get("toolCallId")
    if not isinstance(kind, str) or not isinstance(call_id, str):
        return None
    if not (kind.startswith("tool-") or kind == "dynamic-tool"):
        return None
    match part.get("state"):
        case "approval-responded":
            approval = part.get("approval")
            if isinstance(approval, Mapping) and isinstance(approval.get("approved"), bool):
                return Approval(call_id, approval["approved"], _text(approval.get("reason")))
        case "output-available":
            return ToolOutput(call_id, output=part.get("output"))
        case "output-error":
            return ToolOutput(call_id, error=_text(part.get("errorText")) or "The tool has failed.")
    return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _content(message: VercelMessage) -> Iterator[dict[str, Any]]:
    """A user's parts as the Chat Completions API takes them."""
    if len(message.parts) > _MOST_PARTS:
        raise _invalid("messages.parts", f"a message has at most {_MOST_PARTS} parts")
    for part in message.parts:
        match part.get("type"):
            case "text":
                text = part.get("text")
                if not isinstance(text, str):
                    raise _invalid("messages.parts", "a text part needs text")
                if text:
                    yield {"type": "text", "text": text}
            case "file":
                yield _file(part)


def _file(part: Mapping[str, Any]) -> dict[str, Any]:
    url, media_type = part.get("url"), part.get("mediaType")
    if not isinstance(url, str) or not isinstance(media_type, str):
        raise _invalid("messages.parts", "a file part needs url and mediaType")
    kind, _, subtype = media_type.lower().partition("/")
    is_data = url[:5].lower() == "data:"
    # Of other kinds of URL some run in a page, or reach the provider's own network.
    if kind == "image" and (is_data or url[:8].lower().startswith(("http://", "https://"))):
        return {"type": "image_url", "image_url": {"url": url}}
    if not is_data:
        raise _invalid("messages.parts", "a file that is no image comes as a data: URL")
    if kind == "audio":
        data = url.partition(",")[2]
        return {
            "type": "input_audio",
            "input_audio": {"data": data, "format": _AUDIO_FORMATS.get(subtype, subtype)},
        }
    name = _text(part.get("filename"))
    return {"type": "file", "file": {"file_data": url, **({"filename": name} if name else {})}}


def _invalid(field: str, message: str) -> HTTPError:
    return HTTPError(422, "invalid_input", f"{field}: {message}.", field=field)
