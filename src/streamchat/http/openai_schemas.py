"""What the endpoints under ``/v1`` answer with, as types: the parts of OpenAI's that this server fills."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["ChatCompletionAnswer", "ModelAnswer", "ModelsAnswer"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Message(_Answer):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    annotations: list[dict[str, Any]] | None = None


class _Choice(_Answer):
    index: int
    message: _Message
    logprobs: None
    finish_reason: Literal["stop", "length", "content_filter", "tool_calls"]


class _Usage(_Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]


class ChatCompletionAnswer(_Answer):
    """A whole answer; with ``stream`` it comes as ``chat.completion.chunk`` events instead."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_Choice]
    usage: _Usage


class ModelAnswer(_Answer):
    """The agent, under a name that it is offered by."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsAnswer(_Answer):
    """All names that the agent is offered by."""

    object: Literal["list"]
    data: list[ModelAnswer]
