"""The project's service: a model that stands still after its first word until a file appears."""

from __future__ import annotations

from streamchat import ServiceLimits, StreamChat, owns
from streamchat.testing import ScriptedModel, Stall, Step

stall = Stall()


def make_chat() -> StreamChat:
    steps = [Step("Hello there.", stall_after=1, stall=stall)] * 50
    return StreamChat(model=ScriptedModel(steps), authorize=owns, limits=ServiceLimits(drain_seconds=0))
