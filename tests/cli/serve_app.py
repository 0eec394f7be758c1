"""An application's module as ``streamchat serve`` is given one: services, applications, and who asks."""

from __future__ import annotations

import os
from typing import Any

from streamchat import Principal, ServiceLimits, StreamChat, owns
from streamchat.adapters.asgi import asgi_app
from streamchat.buffers import buffer_for
from streamchat.testing import ScriptedModel, Step
from tests.service.processes import answer, tools

__all__ = ["app", "bare", "chat", "make", "makes_app", "own", "user"]

URL = os.environ.get("STREAMCHAT_TEST_SERVE_URL", "memory:")


def make(**more: Any) -> StreamChat:
    return StreamChat(
        model=ScriptedModel(_answer),
        tools=tools(),
        buffer=buffer_for(URL, create_tables=URL != "memory:"),
        limits=ServiceLimits(drain_seconds=60.0),
        **{"allow_anonymous": True, **more},
    )


def _answer(request: Any) -> Step:
    if request.messages[-1].content == "stand still":
        return Step("One word, and", stall_after=1)
    return answer(request)


async def makes_app() -> Any:
    return asgi_app(make())


def user(scope: Any) -> Principal | None:
    names = [value for name, value in scope["headers"] if name == b"x-user"]
    return Principal(names[0].decode()) if names else None


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """An application of somebody else's, without a lifespan."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


chat = make()
own = make(allow_anonymous=False, authorize=owns)
app = asgi_app(chat)
