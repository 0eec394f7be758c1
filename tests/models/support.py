"""Helpers of the model tests: ask a model, keep all that it yields."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from streamchat.errors import ModelError
from streamchat.messages import ModelMessage, model_messages
from streamchat.models import (
    ContentDelta,
    Model,
    ModelOutput,
    ModelRequest,
    ModelResult,
    ModelRetry,
    RetryPolicy,
    ToolSchema,
)

AT_ONCE = RetryPolicy(attempts=3, initial=0.0, maximum=0.0)
OFF = RetryPolicy.off()

WEATHER = ToolSchema(
    "weather", "Current weather.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


@dataclass
class Heard:
    """What a model said, also when it ended with an error."""

    batches: list[Sequence[ModelOutput]] = field(default_factory=list)
    error: ModelError | None = None

    @property
    def items(self) -> list[ModelOutput]:
        return [item for batch in self.batches for item in batch]

    @property
    def result(self) -> ModelResult:
        assert isinstance(self.items[-1], ModelResult), (self.items[-1:], self.error)
        return self.items[-1]

    @property
    def notices(self) -> list[ModelRetry]:
        return [item for item in self.items if isinstance(item, ModelRetry)]

    @property
    def failure(self) -> ModelError:
        assert self.error is not None
        return self.error

    def text(self, kind: str = "text") -> str:
        return "".join(
            item.text for item in self.items if isinstance(item, ContentDelta) and item.kind == kind
        )


def asking(messages: str | Sequence[ModelMessage | dict[str, Any]] = "hi", **fields: Any) -> ModelRequest:
    return ModelRequest(model_messages(messages), **fields)


async def ask(model: Model, request: ModelRequest | str = "hi") -> Heard:
    """All that the model says; a `ModelError` at the end is kept."""
    heard = Heard()
    try:
        async with aclosing(model.stream(asking(request) if isinstance(request, str) else request)) as stream:
            async for batch in stream:
                assert batch, "an empty batch"
                heard.batches.append(batch)
    except ModelError as error:
        heard.error = error
    return heard
