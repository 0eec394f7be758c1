"""The demo's ASGI application: the page at ``/``, the endpoints under ``/chat``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from importlib.resources import files
from typing import Any, TypeAlias

from streamchat import StreamChat
from streamchat.adapters.asgi import asgi_app
from streamchat.cli.demo.address import asks_for

__all__ = ["Application", "demo_app"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_PAGES = {"/": "index.html", "/streamchat.js": "streamchat.js", "/chat.css": "chat.css"}


def demo_app(chat: StreamChat, names: Collection[str] | None = None) -> Application:
    """Return the application; with ``names``, a request whose Host header names another host gets 403."""
    endpoints = asgi_app(chat)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if names is not None and not asks_for(scope, names):
            known = ", ".join(sorted(names))
            await _send_text(403, f"The demo listens on loopback, and answers only to: {known}\n", send)
            return
        path: str = scope["path"]
        if path == "/chat" or path.startswith("/chat/"):
            await endpoints({**scope, "root_path": scope.get("root_path", "") + "/chat"}, receive, send)
        elif path in _PAGES:
            await _send_page(_PAGES[path], send)
        else:
            await _send_text(404, "There is nothing here; the page is at /\n", send)

    return app


async def _send_page(name: str, send: Send) -> None:
    body = (files("streamchat.web") / name).read_bytes()
    kind = _TYPES[name[name.rindex(".") :]]
    headers = [(b"content-type", f"{kind}; charset=utf-8".encode()), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_text(status: int, text: str, send: Send) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
