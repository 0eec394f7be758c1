"""``/ws`` as a route of the application's own: its dependencies say who asks, as they do of a request.

A handshake is a GET, but FastAPI has no `Request` for dependencies there: they take an `HTTPConnection`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from fastapi.dependencies.models import Dependant
from fastapi.params import Depends as DependsParameter
from fastapi.routing import APIWebSocketRoute
from starlette.types import Message

from streamchat.adapters.asgi.websocket import PATH, serve_websocket
from streamchat.adapters.fastapi.responses import let_go
from streamchat.adapters.fastapi.routes import request_below
from streamchat.errors import StreamChatError
from streamchat.http import Endpoints
from streamchat.http.websocket import admit

__all__ = ["add_websocket"]


class _AsksForARequest(StreamChatError):
    """Nobody can be found out: see the message."""


def add_websocket(api: APIRouter, endpoints: Endpoints, dependency: DependsParameter | None) -> None:
    """Add ``/ws`` to a router.

    Where a dependency takes a `Request`, handshakes are answered with 500, and the log says why.
    """
    if dependency is None:

        async def anonymous(websocket: WebSocket) -> None:
            await _serve(endpoints, websocket, None)

        api.add_api_websocket_route(PATH, anonymous, name="websocket")
        return

    async def known(websocket: WebSocket, who: Any = dependency) -> None:
        await _serve(endpoints, websocket, who)

    unasked = _request_taker(APIWebSocketRoute(PATH, known).dependant)
    if unasked is None:
        api.add_api_websocket_route(PATH, known, name="websocket")
        return

    async def unknown(websocket: WebSocket) -> None:
        raise _AsksForARequest(
            f"{PATH} cannot tell who asks: {unasked} takes a Request, and a WebSocket has none. Let it take "
            "fastapi.requests.HTTPConnection, which is either"
        )

    api.add_api_websocket_route(PATH, unknown, name="websocket")


def _request_taker(dependant: Dependant) -> str | None:
    """Return the name of a dependency that a WebSocket has nothing for."""
    if dependant.request_param_name is not None:
        return str(getattr(dependant.call, "__qualname__", type(dependant.call).__qualname__))
    return next((name for each in dependant.dependencies if (name := _request_taker(each))), None)


async def _serve(endpoints: Endpoints, websocket: WebSocket, who: Any) -> None:
    ours = request_below(websocket, PATH)
    ours.native = who
    await let_go(websocket.scope)

    async def send(message: Message) -> None:
        try:
            await websocket.send(message)
        except WebSocketDisconnect as error:  # as ASGI has it
            raise OSError("the client has gone") from error

    await serve_websocket(admit(endpoints, ours), websocket.scope, websocket.receive, send)
