"""Where tokens come from: models behind OpenAI's two APIs, a fallback over several, the seam for others."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from streamchat.models.base import (
    CallDelta,
    ContentDelta,
    CustomOutput,
    FinishedContent,
    Model,
    ModelOutput,
    ModelRequest,
    ModelResult,
    ModelRetry,
    NextStep,
    OutputSchema,
    ProviderCall,
    SourceDelta,
    ToolSchema,
    WorkflowProgress,
    WorkflowSource,
    WorkflowStep,
)
from streamchat.models.fallback import FallbackModel, unless_bad_request
from streamchat.models.retry import RetryPolicy, retries_off

if TYPE_CHECKING:
    from streamchat.models.langgraph import from_langgraph
    from streamchat.models.openai_chat import OpenAIChatModel
    from streamchat.models.openai_responses import OpenAIResponsesModel
    from streamchat.models.workflow import WorkflowModel

__all__ = [
    "CallDelta",
    "ContentDelta",
    "CustomOutput",
    "FallbackModel",
    "FinishedContent",
    "Model",
    "ModelOutput",
    "ModelRequest",
    "ModelResult",
    "ModelRetry",
    "NextStep",
    "OpenAIChatModel",
    "OpenAIResponsesModel",
    "OutputSchema",
    "ProviderCall",
    "RetryPolicy",
    "SourceDelta",
    "ToolSchema",
    "WorkflowModel",
    "WorkflowProgress",
    "WorkflowSource",
    "WorkflowStep",
    "from_langgraph",
    "retries_off",
    "unless_bad_request",
]

# These import openai or langgraph, which take longer than all else together (`import streamchat` alone, and
# every pytest where it is installed, do without), or the tools, which import this package.
_LATE = {
    "OpenAIChatModel": "streamchat.models.openai_chat",
    "OpenAIResponsesModel": "streamchat.models.openai_responses",
    "WorkflowModel": "streamchat.models.workflow",
    "from_langgraph": "streamchat.models.langgraph",
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
