"""Streaming chat for Python backends: every answer is a run, an append-only log of typed events.

The map, from the provider's bytes to the client:

- `streamchat.models`: where tokens come from (`OpenAIChatModel`, `OpenAIResponsesModel`, `FallbackModel`)
- `streamchat.tools`: functions that a model may call (`ToolRegistry`, `ToolContext`)
- `orchestrate`: the loop model → tools → model, as an async generator of events
- `streamchat.buffers`: where events are kept (`MemoryEventBuffer`, `streamchat.buffers.sql.SQLEventBuffer`)
- `StreamChat`: the service over all that; `streamchat.adapters`: it in your web application
- `streamchat.core`: the pure part (accumulators, lifecycle, fold, cursors, SSE)
- `streamchat.testing`: scripted models and providers, strategies, conformance suites

What is imported here comes with the five core dependencies; each extra's names are where they live.
"""

from __future__ import annotations

from streamchat.buffers.base import EventBuffer, Lease, MessageRecord, NewEvent
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.core.accumulator import (
    ChatCompletionAccumulator,
    Completion,
    ResponsesAccumulator,
    ToolCall,
    ToolCallAccumulator,
)
from streamchat.core.answers import Answer
from streamchat.core.conclude import conclude
from streamchat.core.fold import RunState, fold
from streamchat.core.lifecycle import check_log
from streamchat.errors import StreamChatError
from streamchat.events import StoredEvent, StreamEvent, parse_event
from streamchat.messages import ModelMessage, Usage
from streamchat.models.base import Model, ModelRequest, ModelResult
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Hooks, Limits, Refuse, RunOptions
from streamchat.orchestrator import orchestrate
from streamchat.principal import Principal
from streamchat.service.access import Resource, owns
from streamchat.service.chat import StreamChat
from streamchat.service.delivering import MessageStore
from streamchat.service.hub import HistoryReset, Subscription
from streamchat.service.limits import ServiceLimits
from streamchat.service.presence import Presence
from streamchat.service.status import RunStatus, Started
from streamchat.service.summary import RunSummary
from streamchat.tools import Deferred, ToolContext, ToolError, ToolRegistry

__all__ = [
    "Answer",
    "ChatCompletionAccumulator",
    "Completion",
    "Deferred",
    "EventBuffer",
    "HistoryReset",
    "Hooks",
    "Lease",
    "Limits",
    "MemoryEventBuffer",
    "MessageRecord",
    "MessageStore",
    "Model",
    "ModelMessage",
    "ModelRequest",
    "ModelResult",
    "NewEvent",
    "Presence",
    "Principal",
    "Refuse",
    "Resource",
    "ResponsesAccumulator",
    "RunContext",
    "RunOptions",
    "RunState",
    "RunStatus",
    "RunSummary",
    "ServiceLimits",
    "Started",
    "StoredEvent",
    "StreamChat",
    "StreamChatError",
    "StreamEvent",
    "Subscription",
    "ToolCall",
    "ToolCallAccumulator",
    "ToolContext",
    "ToolError",
    "ToolRegistry",
    "Usage",
    "__version__",
    "check_log",
    "conclude",
    "fold",
    "orchestrate",
    "owns",
    "parse_event",
]

__version__ = "0.1.0"
