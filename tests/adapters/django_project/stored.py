"""Services over the project's own database."""

from __future__ import annotations

import os

from streamchat import ServiceLimits, StreamChat, owns
from streamchat.adapters.django import DjangoEventBuffer
from streamchat.testing import ScriptedModel


def _make(text: str, *, work: bool) -> StreamChat:
    return StreamChat(
        model=ScriptedModel.text(text, repeat=True),
        buffer=DjangoEventBuffer(),
        authorize=owns,
        limits=ServiceLimits(drain_seconds=0),
        work=work,
    )


def make_serving() -> StreamChat:
    """What a process has that only serves."""
    return _make("From the server.", work=False)


def no_secret() -> StreamChat:
    """What a place without the model's key comes to."""
    return StreamChat(model=os.environ["THERE_IS_NO_SUCH_KEY"])  # type: ignore[arg-type]


chat = _make("From the worker.", work=True)
