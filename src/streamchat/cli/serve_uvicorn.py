"""uvicorn, told to drain a service before it waits for open streams."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from functools import partial
from types import FrameType
from typing import Any, TypeAlias

import uvicorn

from streamchat import StreamChat
from streamchat.adapters.asgi import ASGIApp
from streamchat.cli.demo.address import asks_for, url_of

__all__ = ["Application", "DrainingServer", "mounted", "serve_app", "serve_endpoints"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# What takes less is nothing to wait for.
_AT_ONCE_SECONDS = 0.1
# For responses that are still open when all runs are done or handed over, and all readers were sent away.
_REST_SECONDS = 3


async def serve_endpoints(
    listening: socket.socket,
    endpoints: ASGIApp,
    prefix: str,
    drain_seconds: float | None,
    names: Collection[str] | None,
) -> None:
    """Serve below ``prefix`` until the process is told to stop; the service is opened and closed.

    With ``names``, a request whose Host header names another host gets 403.
    """
    chat = endpoints.endpoints.chat
    async with chat:
        config = uvicorn.Config(
            mounted(endpoints, prefix, names),
            lifespan="off",
            log_level="warning",
            timeout_graceful_shutdown=_REST_SECONDS,
        )
        start = f"streamchat serve: {url_of(listening)}{prefix or '/'} (Ctrl+C ends it)"
        server = DrainingServer(config, chat, start, drain_seconds)
        await server.serve([listening])
    _end(server)


async def serve_app(listening: socket.socket, app: Application, shutdown_seconds: float) -> None:
    """Serve an ASGI application as it is, with its own lifespan."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=round(shutdown_seconds))
    start = f"streamchat serve: {url_of(listening)}/ (Ctrl+C ends it)"
    server = DrainingServer(config, None, start)
    await server.serve([listening])
    _end(server)


def _end(server: DrainingServer) -> None:
    print("streamchat serve: ended", flush=True)
    if server.interrupted:
        raise KeyboardInterrupt


def mounted(app: Application, prefix: str, names: Collection[str] | None = None) -> Application:
    """Return an application that has ``app`` below ``prefix`` and nothing elsewhere, for requests whose Host
    header is one of ``names`` (None: any)."""

    async def below(scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if names is not None and not asks_for(scope, names):
            known = ", ".join(sorted(names))
            await _refuse(403, f"Everybody may ask here, but only for {known}; see --allow-host", scope, send)
        elif not prefix or path == prefix or path.startswith(prefix + "/"):
            await app({**scope, "root_path": scope.get("root_path", "") + prefix}, receive, send)
        else:
            await _refuse(404, f"There is nothing here; the endpoints are below {prefix}", scope, send)

    return below


async def _refuse(status: int, text: str, scope: Scope, send: Send) -> None:
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": f"{text}\n".encode()})
    else:
        await send({"type": "websocket.close", "code": 1008})


class DrainingServer(uvicorn.Server):
    """Says where it is, and sends streams home before it waits for them to end.

    uvicorn waits for open streams, and a stream waits for its run: so ``chat`` is drained first, for
    ``seconds`` (None: as its limits say), or until somebody asks again. ``interrupted`` is whether Ctrl+C
    ended it.
    """

    def __init__(
        self, config: uvicorn.Config, chat: StreamChat | None, start: str, seconds: float | None = None
    ) -> None:
        super().__init__(config)
        self._chat = chat
        self._start = start
        self._seconds = seconds
        self._again = asyncio.Event()
        self.interrupted = False
        self._draining_in: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the process is told to stop, and return then, so that what is open can be closed.

        uvicorn raises the signals again when it has ended; they are taken in here, and `interrupted` tells.
        """
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, self._ended_by) for number in numbers]
        try:
            await super().serve(sockets)
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _ended_by(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or number == signal.SIGINT

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen, and say where."""
        await super().startup(sockets)
        if self.started:
            print(self._start, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called at SIGTERM and SIGINT; the second one ends the waiting for runs."""
        if self._draining_in is not None:
            self._draining_in.call_soon_threadsafe(self._again.set)
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: Any = None) -> None:
        """Drain, then do what uvicorn does."""
        if self._chat is not None:
            self._draining_in = asyncio.get_running_loop()
            await self._drain(self._chat)
            self._draining_in = None
        await super().shutdown(sockets)

    async def _drain(self, chat: StreamChat) -> None:
        seconds = chat.limits.drain_seconds if self._seconds is None else self._seconds
        tell = partial(print, f"finishing what runs ({seconds:g} s at most)…", flush=True)
        telling = asyncio.get_running_loop().call_later(_AT_ONCE_SECONDS, tell)
        draining = asyncio.ensure_future(chat.drain(seconds))
        again = asyncio.ensure_future(self._again.wait())
        try:
            await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
            if not draining.done():
                await chat.drain(0)
            await draining
        finally:
            telling.cancel()
            for each in (draining, again):
                each.cancel()
            await asyncio.wait({draining, again})
