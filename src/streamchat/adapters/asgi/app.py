"""The endpoints as an ASGI application, with a lifespan of its own that nothing depends on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import nullcontext
from typing import Any, TypeAlias

from streamchat.adapters.asgi.responses import Receive, Scope, Send, StreamSender, begin
from streamchat.adapters.asgi.shutdown import draining_on_sigterm
from streamchat.adapters.asgi.websocket import admit_at_path, serve_websocket
from streamchat.http import CORS, ByteStream, ClientGone, Endpoints, HTTPOptions, Request, Route
from streamchat.http.given import check_app, check_chat, check_draining, check_principal
from streamchat.principal import Principal
from streamchat.service.chat import StreamChat

__all__ = ["ASGIApp", "Application", "FromScope", "asgi_app", "request_from_scope", "with_lifespan"]

Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
FromScope: TypeAlias = Callable[[Scope], Awaitable[Principal | None] | Principal | None]

log = logging.getLogger("streamchat.http")


def asgi_app(
    chat: StreamChat,
    *,
    principal: FromScope | None = None,
    options: HTTPOptions | None = None,
    cors: CORS | None = None,
    routes: Iterable[Route] = (),
    drain_on_sigterm: bool = False,
) -> ASGIApp:
    """Return all endpoints of ``chat`` as one ASGI application.

    ``principal`` is given the ASGI scope and says who asks (sync or async); None from it is answered with
    401, unless the service allows anonymous users. Mounted under a prefix (``root_path``), it serves what is
    below. Its lifespan opens and closes the service; where none reaches it (mounted in another application,
    or a server without), the first request opens the service, and the application closes it (``async with
    chat`` in its own lifespan).

    ``drain_on_sigterm`` sends subscribers away when the process is told to stop, without which some servers
    wait for open streams for ever; it needs the lifespan, in the main thread. Raises as `Endpoints`.
    """
    check_principal(principal)
    check_draining(drain_on_sigterm)
    return ASGIApp(
        Endpoints(
            chat,
            principal=None if principal is None else _of_scope(principal),
            options=options,
            cors=cors,
            routes=routes,
        ),
        drain_on_sigterm=drain_on_sigterm,
    )


def _of_scope(principal: FromScope) -> Callable[[Request], Any]:
    return lambda request: principal(request.native)


class ASGIApp:
    """An ASGI 3 application over `Endpoints`; made by `asgi_app`."""

    def __init__(self, endpoints: Endpoints, *, drain_on_sigterm: bool = False) -> None:
        self.endpoints = endpoints
        self._drain_on_sigterm = drain_on_sigterm

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the server."""
        if scope["type"] == "http":
            stream = await self._answer(scope, receive, send)
            if stream is not None:
                await StreamSender(receive, send, self.endpoints.options.send_timeout).run(stream)
        elif scope["type"] == "lifespan":
            await _lifespan(self.endpoints.chat, receive, send, self._drain_on_sigterm)
        elif scope["type"] == "websocket":
            request = request_from_scope(scope, receive)
            await serve_websocket(admit_at_path(self.endpoints, request), scope, receive, send)
        else:
            raise RuntimeError(f"ASGI scope type {scope['type']!r} is not served here")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> ByteStream | None:
        # In a call of its own: while a stream is open, neither request nor response is held.
        try:
            response = await self.endpoints.handle(request_from_scope(scope, receive))
        except ClientGone:
            return None
        return await begin(response, send)


def with_lifespan(app: Application, chat: StreamChat, *, drain_on_sigterm: bool = False) -> Application:
    """Return ``app``, an application without a lifespan (Django's), with one that opens and closes ``chat``.

    ``drain_on_sigterm`` is that of `asgi_app`. All that is no lifespan goes to ``app``.

    Raises `InvalidInput`, with ``field``, for what is none of these.
    """
    check_app("app", app)
    check_chat(chat)
    check_draining(drain_on_sigterm)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(chat, receive, send, drain_on_sigterm)
        else:
            await app(scope, receive, send)

    return application


async def _lifespan(chat: StreamChat, receive: Receive, send: Send, draining: bool) -> None:
    await receive()
    try:
        await chat.open()
    except Exception as error:
        log.exception("the service cannot be opened")
        await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
        return
    try:
        with draining_on_sigterm(chat) if draining else nullcontext():
            await send({"type": "lifespan.startup.complete"})
            await receive()
    finally:
        await chat.close()
    await send({"type": "lifespan.shutdown.complete"})


def request_from_scope(scope: Scope, receive: Receive) -> Request:
    """Translate an ASGI scope, HTTP's or a WebSocket's. ``path`` may hold the mount prefix (ASGI says so) or
    not (older routers)."""
    mount = scope.get("root_path", "").rstrip("/")
    path = scope["path"]
    if mount and (path == mount or path.startswith(mount + "/")):
        path = path[len(mount) :]
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(
        method=scope.get("method", "WEBSOCKET").upper(),
        path=path or "/",
        query=scope.get("query_string", b"").decode("latin-1"),
        headers=headers,
        body=_body(receive),
        disconnected=lambda: _disconnected(receive),
        mount=mount,
        native=scope,
    )


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left while its request was read")
        more = message.get("more_body", False)
        if body := message.get("body", b""):
            yield body


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
