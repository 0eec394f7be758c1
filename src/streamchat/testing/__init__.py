"""What tests of applications need: scripted models and providers, recorded streams, checks of histories."""

from __future__ import annotations

from streamchat.testing.histories import HistoryError, check_history, check_items
from streamchat.testing.provider import Answer, ProviderRequest, Reply, ScriptedProvider
from streamchat.testing.script import Call, ScriptExhausted, Stall, Step, failure
from streamchat.testing.scripted import ScriptedModel
from streamchat.testing.streams import accumulate_sse

__all__ = [
    "Answer",
    "Call",
    "HistoryError",
    "ProviderRequest",
    "Reply",
    "ScriptExhausted",
    "ScriptedModel",
    "ScriptedProvider",
    "Stall",
    "Step",
    "accumulate_sse",
    "check_history",
    "check_items",
    "failure",
]
