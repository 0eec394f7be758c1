"""``/ws`` as a route of the application's own: its dependencies say who asks, as they do of a request.

A handshake is a GET, but FastAPI has no `Request` for dependencies there: they take an `HTTPConnection`.
So do those of the router.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import Parameter, signature
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
    """Nobody can be let in: see the message."""


def add_websocket(api: APIRouter, endpoints: Endpoints, dependency: DependsParameter | None) -> None:
    """Add ``/ws`` to a router.

    Where a dependency, the router's own included, takes a `Request`, handshakes are answered with 500, and
    the log says why. Of those that the router gets where it is included nothing is known here.
    """
    endpoint = _endpoint(endpoints, dependency)
    unasked = _request_taker(APIWebSocketRoute(PATH, endpoint, dependencies=api.dependencies).dependant)
    if unasked is None:
        api.add_api_websocket_route(PATH, endpoint, name="websocket")
        return

    async def closed(websocket: WebSocket) -> None:
        raise _AsksForARequest(
            f"{PATH} can let nobody in: {unasked} takes a Request, and a WebSocket has none. Let it take "
            "fastapi.requests.HTTPConnection, which is either"
        )

    # (a route of Starlette's: FastAPI would call that dependency first, and fail)
    api.add_websocket_route(api.prefix + PATH, closed, name="websocket")


def _endpoint(
    endpoints: Endpoints, dependency: DependsParameter | None
) -> Callable[..., Coroutine[Any, Any, None]]:
    async def anonymous(websocket: WebSocket) -> None:
        await _serve(endpoints, websocket, None)

    async def known(websocket: WebSocket, who: Any = dependency) -> None:
        await _serve(endpoints, websocket, who)

    return anonymous if dependency is None else known


def _request_taker(dependant: Dependant) -> str | None:
    """Return the name of a dependency that a WebSocket has nothing for."""
    call, name = dependant.call, dependant.request_param_name
    if call is not None and name is not None and signature(call).parameters[name].default is Parameter.empty:
        return str(getattr(call, "__qualname__", type(call).__qualname__))
    return next((found for each in dependant.dependencies if (found := _request_taker(each))), None)


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
