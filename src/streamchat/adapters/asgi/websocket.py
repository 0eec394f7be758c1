"""A WebSocket of the ASGI server as the endpoints' sessions see it: ``/ws``, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeAlias

from streamchat.adapters.asgi.responses import Message, Receive, Scope, Send
from streamchat.http import ClientGone, Endpoints, Request, Response
from streamchat.http.errors import error_response, not_found
from streamchat.http.routing import Call
from streamchat.http.websocket import WebSocketSession, admit

__all__ = ["PATH", "Admitted", "admit_at_path", "serve_websocket"]

PATH = "/ws"
Admitted: TypeAlias = tuple[Call, float] | Response
"""Who it is, and for how many seconds; or the answer that refuses."""
_REFUSED = 1008


async def admit_at_path(endpoints: Endpoints, request: Request) -> Admitted:
    """Judge a handshake as `admit` does, and that it asks for ``/ws``."""
    if request.path != PATH:
        return error_response(not_found(), f"WebSocket {request.path!r:.200}")
    return await admit(endpoints, request)


async def serve_websocket(admitted: Awaitable[Admitted], scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one connection; ``admitted`` judges its handshake, which is not yet answered.

    What is refused gets the answer that HTTP would get, where the server can send one before it accepts
    (the ASGI extension ``websocket.http.response``); else the handshake fails with the server's own 403.
    """
    judged = await admitted
    if (await receive())["type"] != "websocket.connect":
        return
    if isinstance(judged, Response):
        await _refuse(judged, scope, send)
        return
    try:
        await send({"type": "websocket.accept"})
    except OSError:
        return  # it left before it was let in
    await WebSocketSession(judged[0], _ASGIConnection(receive, send), judged[1]).run()


async def _refuse(response: Response, scope: Scope, send: Send) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": _REFUSED})
        return
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "websocket.http.response.start", "status": response.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": response.body})


class _ASGIConnection:
    """An accepted WebSocket over ASGI's messages."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._open = True

    async def receive(self) -> bytes:
        """Return the next message; raises `ClientGone`."""
        message: Message = await self._receive()
        if message["type"] != "websocket.receive":
            self._open = False
            raise ClientGone("the client closed the WebSocket")
        data = message.get("bytes")
        if data is None:
            data = (message.get("text") or "").encode("utf-8", "replace")
        return bytes(data)

    async def send(self, text: bytes) -> None:
        """Send one text message; raises `ClientGone`."""
        if not self._open:
            raise ClientGone("the WebSocket is closed")
        try:
            await self._send({"type": "websocket.send", "text": text.decode("utf-8")})
        except (OSError, RuntimeError) as error:  # ASGI lets a server raise for one that has gone
            self._open = False
            raise ClientGone("the client closed the WebSocket") from error

    async def close(self, code: int) -> None:
        """Close it; nothing where it is closed."""
        if self._open:
            self._open = False
            with suppress(OSError, RuntimeError):
                await self._send({"type": "websocket.close", "code": code})
