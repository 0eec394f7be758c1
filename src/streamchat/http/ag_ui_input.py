"""What an AG-UI client sends: ``RunAgentInput``, and what is taken of it.

The client sends the whole thread along; of that only what is new counts: the last message where it is a
user's, the results of the page's own tools, and ``resume`` entries. What the client says was said before is
never believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from streamchat.core.jsontext import decode_json, encode_json
from streamchat.http.bodies import ConversationId, Message, Name
from streamchat.http.errors import HTTPError

__all__ = [
    "InputMessage",
    "ResumeEntry",
    "RunAgentInput",
    "StreamedAGUIEvent",
    "Verdict",
    "failure_of",
    "readings_of",
    "user_content_of",
    "verdict",
]


class _Taken(BaseModel):
    # What else a client sends is of no use here, or not known yet.
    model_config = ConfigDict(
        frozen=True, extra="ignore", strict=True, alias_generator=to_camel, populate_by_name=True
    )


class InputMessage(_Taken):
    """A message as the client has it; ``content`` is judged where it is used."""

    id: Annotated[str, StringConstraints(max_length=500)]
    role: Literal["user", "assistant", "tool", "system", "developer", "reasoning", "activity"]
    content: Any = None
    tool_call_id: str | None = None
    error: str | None = None


class ToolDeclaration(_Taken):
    """A tool that the page executes; ``parameters`` is the JSON Schema of an object."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] | None = None


class ContextEntry(_Taken):
    """What the page shows, in words for the model."""

    description: str
    value: str


class ResumeEntry(_Taken):
    """The answer to an interrupt."""

    interrupt_id: Name
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class RunAgentInput(_Taken):
    """The body of ``POST /ag-ui``, after AG-UI 1.0; members that are not listed here are passed over."""

    thread_id: ConversationId
    run_id: Name
    parent_run_id: Name | None = None
    protocol_version: Name | None = None
    messages: list[InputMessage]
    tools: list[ToolDeclaration] = Field(default_factory=list)
    context: list[ContextEntry] = Field(default_factory=list)
    resume: list[ResumeEntry] = Field(default_factory=list)

    @property
    def new_message(self) -> InputMessage | None:
        """The user's message, where that is what comes last."""
        last = self.messages[-1] if self.messages else None
        return last if last is not None and last.role == "user" else None

    def results(self) -> Iterator[InputMessage]:
        """The results of tools, whoever made them."""
        for message in self.messages:
            if message.role == "tool" and message.tool_call_id is not None:
                yield message

    def instructions(self) -> str | None:
        """What the client would have the model told besides the messages; None where there is nothing."""
        said = [
            message.content
            for message in self.messages
            if message.role in ("system", "developer") and isinstance(message.content, str)
        ]
        said += [f"{entry.description}: {entry.value}" for entry in self.context]
        return "\n\n".join(said) or None


class StreamedAGUIEvent(BaseModel):
    """One event of the answer, as AG-UI 1.0 defines it."""

    model_config = ConfigDict(extra="allow")

    type: str


# The user's message.


class _Source(_Taken):
    type: Literal["data", "url", "file"]
    value: str
    mime_type: str | None = None


class _Text(_Taken):
    type: Literal["text"]
    text: str


class _Media(_Taken):
    type: Literal["image", "audio", "document"]
    source: _Source
    metadata: Any = None


class _Binary(_Taken):
    """What clients before 1.0 send for all of these."""

    type: Literal["binary"]
    mime_type: str
    id: str | None = None
    url: str | None = None
    data: str | None = None
    filename: str | None = None

    def media(self) -> _Media:
        """Return it as a part of today's."""
        if self.data is not None:
            source = _Source(type="data", value=self.data, mime_type=self.mime_type)
        elif self.url is not None:
            source = _Source(type="url", value=self.url, mime_type=self.mime_type)
        else:
            source = _Source(type="file", value=self.id or "", mime_type=self.mime_type)
        kind = self.mime_type.partition("/")[0]
        named: Literal["image", "audio", "document"] = "document"
        if kind == "image" and source.type != "file":
            named = "image"
        elif kind == "audio" and source.type == "data":
            named = "audio"
        return _Media(type=named, source=source, metadata={"filename": self.filename})


_Part: TypeAlias = Annotated[_Text | _Media | _Binary, Field(discriminator="type")]
_PARTS: TypeAdapter[list[_Part]] = TypeAdapter(list[_Part])
_TEXTS: TypeAdapter[list[_Text]] = TypeAdapter(list[_Text])
_MESSAGE: TypeAdapter[Any] = TypeAdapter(Message)


def user_content_of(message: InputMessage, position: int) -> str | list[dict[str, Any]]:
    """Return a user's message as text or as Chat Completions parts.

    Raises `HTTPError` 422 with the field for an empty one, and for parts that cannot be passed on.
    """
    where = f"messages.{position}.content"
    try:
        content = message.content
        if not isinstance(content, str):
            content = [_chat_part(part) for part in _PARTS.validate_python(content)]
        checked: Any = _MESSAGE.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = next((str(item) for item in first["loc"] if isinstance(item, int)), None)
        field = where if place is None else f"{where}.{place}"
        raise HTTPError(422, "invalid_input", f"{field}: {first['msg'][:300]}.", field=field) from None
    return checked if isinstance(checked, str) else [part.model_dump(exclude_none=True) for part in checked]


def _chat_part(part: _Text | _Media | _Binary) -> dict[str, Any]:
    if isinstance(part, _Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, _Binary):
        part = part.media()
    source = part.source
    url = source.value
    if source.type == "data":
        url = f"data:{source.mime_type or 'application/octet-stream'};base64,{source.value}"
    if part.type == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    if part.type == "audio" and source.type == "data":
        form = (source.mime_type or "audio/wav").rpartition("/")[2].removeprefix("x-")
        form = {"mpeg": "mp3"}.get(form, form)
        return {"type": "input_audio", "input_audio": {"data": source.value, "format": form}}
    if source.type == "file":
        return {"type": "file", "file": {"file_id": source.value}}
    name = part.metadata.get("filename") if isinstance(part.metadata, Mapping) else None
    named = {"filename": name} if isinstance(name, str) else {}
    return {"type": "file", "file": {"file_data": url, **named}}


# Answers.


class Verdict(BaseModel):
    """A person's decision, from a resume entry."""

    approved: bool
    reason: str | None = None
    arguments: dict[str, Any] | None = None


def verdict(entry: ResumeEntry) -> Verdict | None:
    """Read a resume entry's payload: true or false, or an object with ``approved``, ``reason`` and
    ``editedArgs``; None for any other. What was cancelled is not approved."""
    if entry.status == "cancelled":
        return Verdict(approved=False)
    payload = entry.payload
    if isinstance(payload, bool):
        return Verdict(approved=payload)
    if not isinstance(payload, dict):
        return None
    fields = {name: payload.get(key) for name, key in _PAYLOAD.items()}
    try:
        return Verdict.model_validate(fields, strict=True)
    except ValidationError:
        return None


_PAYLOAD = {"approved": "approved", "reason": "reason", "arguments": "editedArgs"}


def readings_of(message: InputMessage) -> list[Any]:
    """Return what a tool's result may mean, the likeliest first: text that is JSON as its value, then as
    text."""
    text = _text(message.content)
    if text is None:
        return [message.content]
    try:
        value = decode_json(text)
    except ValueError:
        return [text]
    return [text] if isinstance(value, str) else [value, text]


def failure_of(message: InputMessage) -> str:
    """Return a tool's result as text, for the model: why there is none, where it is none."""
    text = _text(message.content)
    return (encode_json(message.content) if text is None else text) or "The tool gave no result."


def _text(content: Any) -> str | None:
    """The text of a tool's message, which may come in parts; None for what is not text alone."""
    if isinstance(content, str):
        return content
    try:
        return "".join(part.text for part in _TEXTS.validate_python(content))
    except ValidationError:
        return None
