"""``/ws`` of a Django project, which by itself serves no WebSockets: a wrapper for its ASGI application.

A handshake goes through the project as the GET that it is: its hosts, its middleware, its sessions and its
URLs decide who asks and whether there is something to be asked. Only what the endpoints let in is opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any, cast

from streamchat.adapters.asgi.app import Application
from streamchat.adapters.asgi.responses import Message, Receive, Scope, Send
from streamchat.adapters.asgi.websocket import PATH, Admitted, serve_websocket
from streamchat.http import Response
from streamchat.http.errors import error_response, not_found
from streamchat.http.given import check_app

__all__ = ["Handshake", "handshake_of", "with_websocket"]

_KEY = "streamchat.handshake"
# What a response says of its own body or its connection is not the handshake's.
_NOT_OURS = {b"content-length", b"transfer-encoding", b"connection"}


class Handshake:
    """One handshake on its way through the project; as a response application, it collects what answers."""

    def __init__(self) -> None:
        self.admitted: Admitted | None = None
        self._asked = False
        self._status = 500
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []

    async def receive(self) -> Message:
        """A body that is empty; the client's leaving is seen elsewhere."""
        if self._asked:
            await asyncio.get_running_loop().create_future()
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """Keep what the project answers."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in message.get("headers", ())
                if name.lower() not in _NOT_OURS
            ]
        else:
            self._body.append(message.get("body", b""))

    async def run(self, application: Application, scope: Scope) -> Admitted:
        """Ask the project; what it answers refuses, unless the endpoints let the handshake in."""
        if not scope["path"].endswith(PATH):
            return error_response(not_found(), f"WebSocket {scope['path']!r:.200}")
        scheme = "https" if scope.get("scheme") == "wss" else "http"
        asked = {**scope, "type": "http", "method": "GET", "scheme": scheme, "extensions": {}, _KEY: self}
        await application(asked, self.receive, self.send)
        if self.admitted is None:  # a redirect to a form, or another view
            return Response(self._status if self._status >= 400 else 403, b"".join(self._body), self._headers)
        return self.admitted


def handshake_of(request: Any) -> Handshake | None:
    """Return the handshake that a request stands for; None where it is a request."""
    scope = cast("MutableMapping[str, Any]", getattr(request, "scope", None) or {})
    found = scope.get(_KEY)
    return found if isinstance(found, Handshake) else None


def with_websocket(application: Application) -> Application:
    """Return ``application``, Django's, with ``ws`` below the URLs of `streamchat.adapters.django.urls`.

    Who asks is found out as for every request: by ``PRINCIPAL``, or the session's user. Pages of other
    origins are refused, unless ``CORS`` lets them in. All that is no WebSocket goes to ``application``.
    Raises `InvalidInput`, with ``field``, for what is no application.
    """
    check_app("application", application)

    async def serving(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await serve_websocket(Handshake().run(application, scope), scope, receive, send)
        else:
            await application(scope, receive, send)

    return serving
