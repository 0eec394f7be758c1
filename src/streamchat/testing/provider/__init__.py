"""A scripted model provider over real HTTP on loopback, with the faults that real ones have."""

from __future__ import annotations

from streamchat.testing.provider.replies import ProviderRequest, Reply
from streamchat.testing.provider.server import Answer, ReplyFunction, ScriptedProvider

__all__ = ["Answer", "ProviderRequest", "Reply", "ReplyFunction", "ScriptedProvider"]
