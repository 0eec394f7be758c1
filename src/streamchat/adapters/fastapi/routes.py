"""Routes that answer also what FastAPI finds out before an endpoint is asked: who is refused by a dependency.

Without them the answers to that were the framework's: without the headers that let a page of another origin
read them, and in other words than the endpoints'.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, WebSocket
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.responses import Response as StarletteResponse
from starlette.types import Message, Receive, Scope, Send

from streamchat.adapters.asgi.app import request_from_scope
from streamchat.adapters.fastapi.auth import Refused
from streamchat.adapters.fastapi.responses import to_starlette
from streamchat.http import CORS, Endpoints, HTTPError
from streamchat.http import Request as OurRequest

__all__ = ["at", "request_below", "route_class"]

F = TypeVar("F", bound=Callable[..., Any])

_PATH = "_streamchat_path"


def at(path: str, endpoint: F) -> F:
    """Note on a path operation which of the endpoints' paths it serves."""
    setattr(endpoint, _PATH, path)
    return endpoint


def request_below(request: Request | WebSocket, path: str) -> OurRequest:
    """Translate a request; below the prefixes of the application and its routers is the ``path`` that the
    endpoints know."""
    ours = request_from_scope(request.scope, request.receive)
    known = path.replace("{id}", request.path_params.get("id", ""))
    whole = ours.mount + ours.path
    ours.mount, ours.path = whole.removesuffix("/").removesuffix(known), known
    return ours


def route_class(endpoints: Endpoints, cors: CORS | None, base: type[APIRoute]) -> type[APIRoute]:
    """Return ``base`` with the endpoints' own answer to a refusal, and with ``cors`` on the application's."""

    class Answering(base):  # type: ignore[valid-type,misc]
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, StarletteResponse]]:
            ask = super().get_route_handler()

            async def handle(request: Request) -> StarletteResponse:
                try:
                    answer: StarletteResponse = await ask(request)
                except (Refused, HTTPError) as error:
                    refused = error.error if isinstance(error, Refused) else error
                    ours = request_below(request, getattr(self.endpoint, _PATH))
                    return to_starlette(endpoints.refuse(ours, refused), endpoints.options)
                return answer

            return handle

        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            await super().handle(scope, receive, send if cors is None else _readable(cors, scope, send))

    return Answering


def _readable(cors: CORS, scope: Scope, send: Send) -> Send:
    """Let pages read what others have answered: exceptions of dependencies, by the application's handlers."""
    needed = cors.readable(Headers(scope=scope).get("origin"))
    ours = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in needed]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = message.get("headers", ())
            message = {**message, "headers": [*there, *(each for each in ours if each not in there)]}
        await send(message)

    return sending
