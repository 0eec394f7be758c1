"""What the matrix's applications share: a service, and a door through which a test sees and steers it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from streamchat import ServiceLimits, StreamChat, ToolContext, ToolRegistry
from streamchat.buffers import buffer_for
from streamchat.http import HTTPOptions
from streamchat.testing import Call, ScriptedModel, Stall, Step

__all__ = ["FLOOD", "OPTIONS", "Door", "drain_under_daphne", "http_options", "make_chat", "wrapped"]

# Far more than a server, the kernel and a reader's socket hold (measured: 4 to 5 MB).
FLOOD_PIECE, FLOOD_PIECES = 64 * 1024, 256
FLOOD = FLOOD_PIECE * FLOOD_PIECES

# (a heartbeat is due when the stream was quiet for half of it; the first is padded)
OPTIONS: dict[str, Any] = {"heartbeat": 1.0, "send_timeout": 2.0}

stalls: defaultdict[str, Stall] = defaultdict(Stall)


def make_tools() -> ToolRegistry:
    tools = ToolRegistry()

    @tools.tool
    async def flood(ctx: ToolContext) -> str:
        """Say more than anybody holds who does not read."""
        for number in range(FLOOD_PIECES):
            ctx.emit("piece", "x" * FLOOD_PIECE)
            if number % 8 == 7:
                await asyncio.sleep(0.001)
        return "done"

    return tools


def answer(request: Any) -> Step:
    last = request.messages[-1]
    words = str(last.content).split() if last.role == "user" else ["say"]
    if words[0] == "stall":
        return Step("One two three.", stall_after=1, stall=stalls[words[1]])
    if words[0] == "flood":
        return Step(calls=[Call("flood")])
    return Step("Hello there.")


def make_chat() -> StreamChat:
    """The service; its store outlives the process."""
    return StreamChat(
        model=ScriptedModel(answer),
        tools=make_tools(),
        buffer=buffer_for(os.environ["MATRIX_STORE"], create_tables=True),
        allow_anonymous=True,
        limits=ServiceLimits(drain_seconds=0.2),
    )


def http_options() -> HTTPOptions:
    return HTTPOptions(**OPTIONS)


@dataclass
class Seen:
    """What became of the requests that have one tag."""

    open: int = 0
    sent: int = 0
    disconnected: bool = False


class Door:
    """An application around another one: counts what passes, and answers ``/control/…`` itself.

    A request with the header ``x-wrap`` goes through ``other``, the same application with middleware.
    """

    def __init__(self, app: Any, other: Any = None) -> None:
        self._app = app
        self._other = other or app
        self._seen: defaultdict[str, Seen] = defaultdict(Seen)

    # (daphne calls an application by these names)
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith("/control/"):
            return await self._control(path.split("/")[2], scope["query_string"].decode(), send)
        headers = dict(scope["headers"])
        seen = self._seen[headers.get(b"x-tag", b"").decode()]

        async def counted_receive() -> Any:
            message = await receive()
            seen.disconnected |= message["type"] == "http.disconnect"
            return message

        async def counted_send(message: Any) -> None:
            await send(message)
            seen.sent += len(message.get("body", b""))

        seen.open += 1
        try:
            await (self._other if b"x-wrap" in headers else self._app)(scope, counted_receive, counted_send)
        finally:
            seen.open -= 1
        return None

    async def _control(self, what: str, key: str, send: Any) -> None:
        if what == "release":
            stalls[key].release()
        body = json.dumps({**asdict(self._seen[key]), "store": os.environ["MATRIX_STORE"]}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def wrapped(app: Callable[..., Any]) -> Any:
    """The application behind the middleware that Starlette's users have most."""
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.middleware.gzip import GZipMiddleware

    async def dispatch(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["X-Seen"] = "yes"
        return response

    return GZipMiddleware(BaseHTTPMiddleware(app, dispatch=dispatch), minimum_size=1)


def drain_under_daphne(chat: StreamChat) -> None:
    """As docs/how-to/shut-down.md says: it sends no lifespan, but waits for this before it ends."""
    if "daphne" in sys.modules:
        from twisted.internet import reactor
        from twisted.internet.defer import Deferred

        def drain() -> Deferred[None]:
            return Deferred.fromFuture(asyncio.ensure_future(chat.drain()))

        # (Twisted's annotations are not those of what it does)
        trigger: Any = reactor
        trigger.addSystemEventTrigger("before", "shutdown", drain)
