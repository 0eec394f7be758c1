"""The seam to where tokens come from: a `Model` turns a request into batches of deltas and one result.

A model yields *lists*: all that one read of the network brought, so that a burst of chunks costs one
hand-over. It retries by itself while nothing was yielded that a reader could have seen; after that it raises
`ModelError`, and the orchestrator withdraws what came and asks again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from streamchat.core.accumulator import CallDelta, ContentDelta, SourceDelta, ToolCall
from streamchat.messages import ModelMessage, Usage

__all__ = [
    "CallDelta",
    "ContentDelta",
    "FinishedContent",
    "Model",
    "ModelOutput",
    "ModelRequest",
    "ModelResult",
    "ModelRetry",
    "ProviderCall",
    "SourceDelta",
    "ToolSchema",
]


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """A tool as the model is told of it: ``parameters`` is a JSON Schema; ``strict`` asks for strict mode."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What one model call is asked.

    ``options`` go to the provider as they are (temperature, tool_choice, …). ``attempt`` counts from 0 and
    grows when the orchestrator asks again after a failure in mid-stream.
    """

    messages: Sequence[ModelMessage]
    tools: Sequence[ToolSchema] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    step: int = 1
    attempt: int = 0
    run_id: str | None = None
    conversation_id: str | None = None


class ModelRetry(NamedTuple):
    """Notice that the model failed before its first token and will be asked again in ``seconds``."""

    attempt: int
    seconds: float
    code: str


class FinishedContent(NamedTuple):
    """A content part as it finally stands; ``replaced`` where ``text`` is not what its deltas joined are."""

    part: int
    kind: str
    text: str
    replaced: bool = False


class ProviderCall(NamedTuple):
    """A call that the provider ran itself (web search, code): shown, never run here."""

    part: int
    id: str
    name: str
    arguments: dict[str, Any] | None
    output: Any


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The last item of every model stream: what the model's share of the step came to.

    ``parts`` numbers are local to the step and start at 0, as in the deltas. ``extras`` is kept with the log,
    shown to nobody, and given back to the provider with the assistant's message on later requests.
    """

    finish_reason: str | None
    parts: tuple[FinishedContent, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    provider_calls: tuple[ProviderCall, ...] = ()
    usage: Usage | None = None
    extras: dict[str, Any] | None = None


ModelOutput: TypeAlias = ContentDelta | CallDelta | SourceDelta | ModelRetry | ModelResult


@runtime_checkable
class Model(Protocol):
    """Where tokens come from. Implementations are shared by all runs and hold no state of one."""

    @property
    def name(self) -> str:
        """The model's name, as it stands in ``run_started`` and in usage."""
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        """Ask the model; yield batches of output, the last item of the last batch being a `ModelResult`.

        Raises `ModelError` when the provider cannot be asked or its stream ends badly. Cancelled or closed,
        it closes the provider's response before it returns.
        """
        ...
