"""Where tokens come from: models behind OpenAI's two APIs, a fallback over several, the seam for others."""

from __future__ import annotations

from streamchat.models.base import (
    CallDelta,
    ContentDelta,
    FinishedContent,
    Model,
    ModelOutput,
    ModelRequest,
    ModelResult,
    ModelRetry,
    ProviderCall,
    SourceDelta,
    ToolSchema,
)
from streamchat.models.fallback import FallbackModel, unless_bad_request
from streamchat.models.openai_chat import OpenAIChatModel
from streamchat.models.openai_responses import OpenAIResponsesModel
from streamchat.models.retry import RetryPolicy, retries_off

__all__ = [
    "CallDelta",
    "ContentDelta",
    "FallbackModel",
    "FinishedContent",
    "Model",
    "ModelOutput",
    "ModelRequest",
    "ModelResult",
    "ModelRetry",
    "OpenAIChatModel",
    "OpenAIResponsesModel",
    "ProviderCall",
    "RetryPolicy",
    "SourceDelta",
    "ToolSchema",
    "retries_off",
    "unless_bad_request",
]
