"""What is said in a conversation: the parts of a message, and messages as a model is given them.

Two shapes live here. *Content parts* are what a reader sees: a stored message is a list of them, ordered by
``part``. A *model message* is what is sent to a provider; `streamchat.core.history` makes these from those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from streamchat.errors import InvalidInput

__all__ = [
    "CallApproval",
    "CallJob",
    "CallState",
    "ContentPart",
    "FilePart",
    "MessageCall",
    "ModelMessage",
    "ReasoningPart",
    "RefusalPart",
    "SourcePart",
    "TextPart",
    "ToolCallPart",
    "Usage",
    "model_messages",
    "parse_content",
]

CallState: TypeAlias = Literal["streaming", "called", "approval", "running", "deferred", "done"]
"""Where a call stands: seen in deltas, complete, with a person, at work, waiting for its job, answered."""


class Usage(BaseModel):
    """Tokens that model calls took, summed; ``provider`` and ``model`` are None where they differ."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    provider: str | None = None
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Sum the tokens of both."""
        return Usage(
            provider=self.provider if self.provider == other.provider else None,
            model=self.model if self.model == other.model else None,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    part: int = 0
    step: int = 0


class TextPart(_Part):
    """Text that the model wrote for the reader."""

    type: Literal["text"] = "text"
    text: str


class ReasoningPart(_Part):
    """What the model let be seen of its reasoning."""

    type: Literal["reasoning"] = "reasoning"
    text: str


class RefusalPart(_Part):
    """The model's own words for not doing what was asked."""

    type: Literal["refusal"] = "refusal"
    text: str


class CallApproval(BaseModel):
    """What a person was asked about a call, and what they said.

    ``approved`` is None until somebody has decided; it stays None when the time ran out or the run was ended
    first. ``expires_at`` is milliseconds since the epoch.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    approval_id: str
    message: str | None = None
    expires_at: int | None = None
    approved: bool | None = None
    reason: str | None = None
    by: str | None = None


class CallJob(BaseModel):
    """The background job that a call has begun.

    ``message`` is what the model is told of it meanwhile. ``ended_in`` is the number of the run's newest step
    when the job's result came: where that is a later step than the call's, the model had been told of the
    job already. ``expires_at`` is milliseconds since the epoch.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    message: Any = None
    expires_at: int | None = None
    ended_in: int | None = None


class ToolCallPart(_Part):
    """A tool call with its state and, once there is one, its result.

    ``arguments`` is None while ``problem`` is set or the arguments are still streaming; ``arguments_text``
    then holds the raw text. ``output`` and ``error`` are those of the tool's result, or of the job that came
    of it. ``approval`` is set once a person was asked, ``job`` once the call was deferred.
    """

    type: Literal["tool_call"] = "tool_call"
    call_id: str
    provider_call_id: str | None = None
    name: str = ""
    arguments: dict[str, Any] | None = None
    arguments_text: str | None = None
    problem: str | None = None
    executed_by: Literal["server", "client", "provider"] = "server"
    state: CallState = "called"
    attempts: int = 0
    outcome: str | None = None
    output: Any = None
    error: str | None = None
    job_id: str | None = None
    duration: float | None = None
    progress: dict[str, Any] | None = None
    approval: CallApproval | None = None
    job: CallJob | None = None


class SourcePart(_Part):
    """A citation."""

    type: Literal["source"] = "source"
    url: str | None = None
    title: str | None = None
    source_id: str | None = None
    data: dict[str, Any] | None = None


class FilePart(_Part):
    """A file, by URL (a ``data:`` URL holds small ones whole)."""

    type: Literal["file"] = "file"
    url: str | None = None
    media_type: str | None = None
    name: str | None = None
    data: dict[str, Any] | None = None


ContentPart: TypeAlias = Annotated[
    TextPart | ReasoningPart | RefusalPart | ToolCallPart | SourcePart | FilePart, Field(discriminator="type")
]

_CONTENT: TypeAdapter[tuple[ContentPart, ...]] = TypeAdapter(tuple[ContentPart, ...])


def parse_content(data: bytes | str) -> tuple[ContentPart, ...]:
    """Read content parts from their JSON; raises pydantic's ``ValidationError`` on anything else."""
    return _CONTENT.validate_json(data)


class MessageCall(BaseModel):
    """A tool call as it stands in a model message; ``arguments`` is the JSON text for the provider."""

    model_config = ConfigDict(frozen=True)

    call_id: str
    provider_call_id: str | None = None
    name: str
    arguments: str
    extra: dict[str, Any] | None = None


class ModelMessage(BaseModel):
    """One message as a model is given it.

    ``content`` is text, or a list of parts as the Chat Completions API takes them (``{"type": "text", …}``,
    ``{"type": "image_url", …}``). ``call_id`` is set on ``tool`` messages and names the call they answer.
    ``extras`` holds what a provider wants to get back with an assistant's message (encrypted reasoning, ids);
    it is keyed by the provider API that it came from and is never shown to a client.
    """

    model_config = ConfigDict(frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] = ""
    calls: tuple[MessageCall, ...] = ()
    call_id: str | None = None
    extras: dict[str, Any] | None = None


def model_messages(messages: str | Sequence[ModelMessage | Mapping[str, Any]]) -> list[ModelMessage]:
    """Take messages in the forms people have them and return model messages.

    A string is one user message; a mapping is a Chat Completions message (``role``, ``content``,
    ``tool_calls``, ``tool_call_id``). Raises `InvalidInput` naming the position for anything else.
    """
    if isinstance(messages, str):
        return [ModelMessage(role="user", content=messages)]
    # Anything that can be gone through will do, but for what would give its characters or its keys.
    if isinstance(messages, bytes | Mapping | ModelMessage) or not isinstance(messages, Iterable):
        raise InvalidInput(
            f"messages={messages!r:.100} is of type {type(messages).__name__}: give text, or a list of "
            f"messages, as [{{'role': 'user', 'content': '…'}}]",
            field="messages",
        )
    return [m if isinstance(m, ModelMessage) else _from_mapping(i, m) for i, m in enumerate(messages)]


def _from_mapping(position: int, message: Mapping[str, Any]) -> ModelMessage:
    try:
        calls = tuple(
            MessageCall(
                call_id=call["id"],
                provider_call_id=call["id"],
                name=call["function"]["name"],
                arguments=call["function"]["arguments"],
            )
            for call in message.get("tool_calls") or ()
        )
        return ModelMessage(
            role=message["role"],
            content=message.get("content") or "",
            calls=calls,
            call_id=message.get("tool_call_id"),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidInput(
            f"messages[{position}] is not a Chat Completions message "
            f"(role, content, tool_calls, tool_call_id): {type(error).__name__}: {error}",
            field=f"messages.{position}",
        ) from error
