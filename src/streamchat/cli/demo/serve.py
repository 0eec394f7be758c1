"""Puts the demo together: provider, model, buffer, service, page; and serves it with uvicorn."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from typing import Any

import openai
import uvicorn

from streamchat import EventBuffer, MemoryEventBuffer, StreamChat
from streamchat.adapters.asgi import asgi_app
from streamchat.cli.demo.script import reply
from streamchat.cli.demo.tools import make_tools
from streamchat.models import Model, OpenAIChatModel, OpenAIResponsesModel
from streamchat.testing import ScriptedProvider

__all__ = ["demo_app", "serve"]

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_PAGES = {"/": "index.html", "/streamchat.js": "streamchat.js", "/chat.css": "chat.css"}
_INSTRUCTIONS = "You are the demo of streamchat. Answer briefly, and use the tools when they help."


@asynccontextmanager
async def demo_chat(arguments: argparse.Namespace) -> AsyncGenerator[StreamChat, None]:
    """Everything behind the page, opened and, in the end, closed in order."""
    async with AsyncExitStack() as stack:
        if arguments.model is None:
            provider = await stack.enter_async_context(ScriptedProvider(reply))
            client = provider.client()
        else:
            client = openai.AsyncOpenAI(base_url=arguments.base_url)
        await stack.enter_async_context(client)
        kind = OpenAIResponsesModel if arguments.api == "responses" else OpenAIChatModel
        model: Model = kind(client, arguments.model or "scripted")
        chat = StreamChat(
            model=model,
            tools=make_tools(),
            buffer=_buffer(arguments.db),
            instructions=_INSTRUCTIONS,
            allow_anonymous=True,
            lease_ttl=5.0,  # a demo that was killed goes on soon after it is started again
        )
        yield await stack.enter_async_context(chat)


def _buffer(url: str) -> EventBuffer:
    if url in ("memory:", "memory"):
        return MemoryEventBuffer()
    from streamchat.buffers.sql import SQLEventBuffer

    return SQLEventBuffer(url)


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def demo_app(chat: StreamChat) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The ASGI application: the page at ``/``, the endpoints under ``/chat``."""
    endpoints = asgi_app(chat)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if path == "/chat" or path.startswith("/chat/"):
            await endpoints({**scope, "root_path": scope.get("root_path", "") + "/chat"}, receive, send)
            return
        name = _PAGES.get(path)
        await _send_page(name, send) if name is not None else await _send_not_found(send)

    return app


async def _send_page(name: str, send: Send) -> None:
    body = (files("streamchat.web") / name).read_bytes()
    kind = _TYPES[name[name.rindex(".") :]]
    headers = [(b"content-type", f"{kind}; charset=utf-8".encode()), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_not_found(send: Send) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": b"There is nothing here; the page is at /\n"})


class _Server(uvicorn.Server):
    """Says where the page is, and sends streams home before it waits for them to end."""

    def __init__(self, config: uvicorn.Config, chat: StreamChat) -> None:
        super().__init__(config)
        self._chat = chat

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            host, port = server.sockets[0].getsockname()[:2]
            print(f"streamchat demo: http://{host}:{port}/  (Ctrl+C ends it)", flush=True)

    async def shutdown(self, sockets: Any = None) -> None:
        # uvicorn waits for open streams, and a stream waits for its run: drain first.
        await self._chat.drain()
        await super().shutdown(sockets)


async def serve(arguments: argparse.Namespace) -> None:
    """Serve the demo until it is interrupted."""
    async with demo_chat(arguments) as chat:
        config = uvicorn.Config(
            demo_app(chat),
            host=arguments.host,
            port=arguments.port,
            lifespan="off",
            log_level="warning",
            timeout_graceful_shutdown=3,
        )
        await _Server(config, chat).serve()
