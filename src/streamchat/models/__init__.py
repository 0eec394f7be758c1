"""Where tokens come from: models behind OpenAI's two APIs, a fallback over several, the seam for others."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from streamchat.models.base import (
    CallDelta,
    ContentDelta,
    FinishedContent,
    Model,
    ModelOutput,
    ModelRequest,
    ModelResult,
    ModelRetry,
    OutputSchema,
    ProviderCall,
    SourceDelta,
    ToolSchema,
)
from streamchat.models.fallback import FallbackModel, unless_bad_request
from streamchat.models.retry import RetryPolicy, retries_off

if TYPE_CHECKING:
    from streamchat.models.openai_chat import OpenAIChatModel
    from streamchat.models.openai_responses import OpenAIResponsesModel

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
    "OutputSchema",
    "ProviderCall",
    "RetryPolicy",
    "SourceDelta",
    "ToolSchema",
    "retries_off",
    "unless_bad_request",
]

# These import openai, which takes longer than all else together; `import streamchat` alone, and every pytest
# where it is installed, do without.
_LATE = {
    "OpenAIChatModel": "streamchat.models.openai_chat",
    "OpenAIResponsesModel": "streamchat.models.openai_responses",
}

# (not for type checkers, to whom it would say that any name is here)
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found = getattr(import_module(_LATE[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATE})
