"""What an OpenAI client asks for: the body of ``POST /v1/chat/completions``, and what is taken of it.

Clients of this kind send all that was said each time, from memory of their own, so it is read as what it is:
text from outside. The last message is what is asked, or the results of tools that this server had asked for.
What came before it is what a *new* conversation begins with, as text of the user and of the assistant; a
conversation that the server knows goes by its own log. Tool calls and results in between are dropped: what a
tool came to, only the log knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from streamchat.http.bodies import JSONObject, Message, TextInput
from streamchat.http.errors import HTTPError
from streamchat.http.openai_options import OpenAIOptions
from streamchat.messages import ModelMessage
from streamchat.wire.openai_answer import call_id_of

__all__ = ["ChatCompletionBody", "NewTurn", "ToolAnswers", "read_turn"]


class _Taken(BaseModel):
    # What else a client sends is of no use here, or not known yet.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Refusal(_Taken):
    type: Literal["refusal"]
    refusal: str


def _part(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "refusal" if kind == "refusal" else "text"


class _TextPart(_Taken):
    type: Literal["text"] = "text"
    text: str


_Texts: TypeAlias = (
    str
    | list[
        Annotated[
            Annotated[_TextPart, Tag("text")] | Annotated[_Refusal, Tag("refusal")], Discriminator(_part)
        ]
    ]
)


class UserMessage(_Taken):
    """What the user says."""

    role: Literal["user"]
    content: Message


class AssistantMessage(_Taken):
    """What the client says that the assistant has said; calls in it are not looked at."""

    role: Literal["assistant"]
    content: _Texts | None = None


class SystemMessage(_Taken):
    """Instructions of the client's own."""

    role: Literal["system", "developer"]
    content: _Texts


class ToolMessage(_Taken):
    """What a tool that the client carries out came to."""

    role: Literal["tool"]
    tool_call_id: Annotated[str, Field(max_length=400)]
    content: _Texts


class FunctionMessage(_Taken):
    """The form before tools; never asked for here."""

    role: Literal["function"]


AnyMessage: TypeAlias = Annotated[
    UserMessage | AssistantMessage | SystemMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]


class Function(_Taken):
    """A function that the client offers."""

    name: str
    description: str | None = None
    parameters: JSONObject | None = None


class FunctionTool(_Taken):
    """A tool that the client carries out."""

    type: Literal["function"]
    function: Function


class StreamOptions(_Taken):
    """What a stream brings beside the answer."""

    include_usage: bool | None = None


class _Typed(_Taken):
    type: str


class ChatCompletionBody(_Taken):
    """What OpenAI's clients send. Sampling parameters are the agent's own affair and are not looked at."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=10_000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Any = None
    metadata: JSONObject | None = None
    n: int | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    response_format: _Typed | None = None
    functions: list[Any] | None = None
    user: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def declared(self) -> list[Function]:
        """The tools that are on offer."""
        if self.tool_choice == "none":
            return []
        return [tool.function for tool in self.tools or ()]

    @property
    def conversation_id(self) -> str | None:
        """The conversation that the client's metadata names."""
        named = (self.metadata or {}).get("conversation_id")
        return named if isinstance(named, str) and named else None


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A message to answer; ``position`` is where in the body's messages it stands."""

    content: str | list[dict[str, Any]]
    history: tuple[ModelMessage, ...] = ()
    system_message: str | None = None
    position: int = 0


@dataclass(frozen=True, slots=True)
class ToolAnswers:
    """Results of calls that a run waits for, by the run's ids."""

    run_id: str
    results: Sequence[tuple[str, str]] = field(default_factory=list)


def read_turn(
    body: ChatCompletionBody, options: OpenAIOptions, *, takes_system: bool
) -> NewTurn | ToolAnswers:
    """Return what is asked; pure. ``takes_system`` says whether clients may give instructions.

    Raises `HTTPError` 400 for what is not done here, naming the field.
    """
    _refuse_unsupported(body, options)
    system = _system_message(body, options, takes_system=takes_system)
    messages = body.messages
    last = messages[-1]
    if isinstance(last, ToolMessage):
        return _tool_answers(messages)
    if not isinstance(last, UserMessage):
        raise HTTPError(
            400,
            "invalid_messages",
            "The last message must be the user's, or the result of a tool.",
            field=f"messages.{len(messages) - 1}",
        )
    return NewTurn(
        _content(last),
        _history(messages[:-1]),
        system,
        len(messages) - 1,
    )


def _refuse_unsupported(body: ChatCompletionBody, options: OpenAIOptions) -> None:
    asked: dict[str, bool] = {
        "n": body.n not in (None, 1),
        "logprobs": bool(body.logprobs),
        "modalities": body.modalities not in (None, [], ["text"]),
        "response_format": body.response_format is not None and body.response_format.type != "text",
        "functions": bool(body.functions),
        "tools": bool(body.declared) and not options.client_tools,
        "tool_choice": body.tool_choice not in (None, "auto", "none"),
    }
    for name, refused in asked.items():
        if refused:
            raise HTTPError(400, "unsupported_parameter", f"This is not supported here: {name}.", field=name)


def _system_message(body: ChatCompletionBody, options: OpenAIOptions, *, takes_system: bool) -> str | None:
    texts: list[str] = []
    for position, message in enumerate(body.messages):
        if isinstance(message, FunctionMessage):
            raise HTTPError(
                400, "unsupported_parameter", "There are no functions here.", field=f"messages.{position}"
            )
        if isinstance(message, SystemMessage):
            if not takes_system and options.system_messages == "refuse":
                raise HTTPError(
                    400,
                    "system_message_refused",
                    "System messages are not taken from clients here.",
                    field=f"messages.{position}",
                )
            texts.append(_text(message.content))
    return "\n\n".join(filter(None, texts)) or None if takes_system else None


def _tool_answers(messages: Sequence[Any]) -> ToolAnswers:
    results: dict[str, str] = {}
    run_ids: set[str] = set()
    position = len(messages)
    while position and isinstance(messages[position - 1], ToolMessage):
        position -= 1
        message: ToolMessage = messages[position]
        ids = call_id_of(message.tool_call_id)
        where = f"messages.{position}.tool_call_id"
        if ids is None:
            raise HTTPError(400, "unknown_tool_call", "No such call was made here.", field=where)
        run_ids.add(ids[0])
        if len(run_ids) > 1 or ids[1] in results:
            raise HTTPError(400, "unknown_tool_call", "These are not the calls of one answer.", field=where)
        results[ids[1]] = _text(message.content)
    return ToolAnswers(run_ids.pop(), list(results.items())[::-1])


def _history(messages: Iterable[Any]) -> tuple[ModelMessage, ...]:
    said: list[ModelMessage] = []
    for message in messages:
        if isinstance(message, UserMessage):
            said.append(ModelMessage(role="user", content=_content(message)))
        elif isinstance(message, AssistantMessage):
            text = _text(message.content or "")
            if text:
                said.append(ModelMessage(role="assistant", content=text))
    return tuple(said)


def _content(message: UserMessage) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    if all(isinstance(part, TextInput) for part in message.content):
        return "".join(part.text for part in message.content if isinstance(part, TextInput))
    return [part.model_dump(exclude_none=True) for part in message.content]


def _text(content: str | Sequence[Any]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content if isinstance(part, _TextPart))
