"""Putting a streamed model response together: the public names of the accumulators and of what they give."""

from __future__ import annotations

from streamchat.core.chat_accumulator import ChatCompletionAccumulator
from streamchat.core.completion import (
    CallDelta,
    CallProblem,
    Choice,
    Completion,
    ContentDelta,
    ContentKind,
    Delta,
    Part,
    ProviderItem,
    SourceDelta,
    ToolCall,
)
from streamchat.core.reader import CompletionReader
from streamchat.core.responses_accumulator import ResponsesAccumulator
from streamchat.core.tool_calls import ToolCallAccumulator

__all__ = [
    "CallDelta",
    "CallProblem",
    "ChatCompletionAccumulator",
    "Choice",
    "Completion",
    "CompletionReader",
    "ContentDelta",
    "ContentKind",
    "Delta",
    "Part",
    "ProviderItem",
    "ResponsesAccumulator",
    "SourceDelta",
    "ToolCall",
    "ToolCallAccumulator",
]
