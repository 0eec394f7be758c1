"""An application's module as ``streamchat worker`` is given one."""

from __future__ import annotations

import os

from streamchat import ServiceLimits, StreamChat
from tests.service.processes import chat_over

__all__ = ["chat", "make", "nothing"]

nothing = 3
URL = os.environ.get("STREAMCHAT_TEST_WORKER_URL", "sqlite://")


def make() -> StreamChat:
    return chat_over(URL, work=False, limits=ServiceLimits(drain_seconds=60.0))


chat = make()
