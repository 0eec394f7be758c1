"""Sends a response over ASGI: streams are written piece by piece, and left as soon as the client has gone.

Besides the server's own task there is one, which waits in ``receive()`` for the disconnect: servers report it
there and nowhere else while nothing is sent. What a quiet stream needs looked at, all share one timer for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from streamchat.events import StreamEvent
from streamchat.http.bare import bare_response
from streamchat.http.limits import HTTPOptions
from streamchat.http.requests import ByteStream, Response
from streamchat.http.rounds import rounds
from streamchat.http.streams import StreamWire
from streamchat.wire.native import NATIVE

__all__ = ["ASGIResponse", "Message", "Receive", "Scope", "Send", "StreamSender", "begin", "event_response"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

log = logging.getLogger("streamchat.http")

_PIECE = 256 * 1024


class ASGIResponse:
    """A response as an ASGI application, to be returned where a framework takes one, or awaited.

    ``send_timeout`` is how many seconds a client may take nothing before it is let go. The client's leaving,
    or its being let go, ends the call without an error; the stream is closed in any case.
    """

    __slots__ = ("response", "send_timeout")

    def __init__(self, response: Response, *, send_timeout: float = 30.0) -> None:
        self.response = response
        self.send_timeout = send_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Cancelled from outside, it closes the stream and passes the cancellation on."""
        stream = await begin(self.response, send)
        if stream is not None:
            await StreamSender(receive, send, self.send_timeout).run(stream)


async def begin(response: Response, send: Send) -> ByteStream | None:
    """Send a response whole; or its beginning, and return the stream that is left to send.

    So whoever sends the stream need not hold on to the response for as long.
    """
    body = response.body
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if isinstance(body, bytes):
            await send({"type": "http.response.body", "body": body})
            return None
    except BaseException as error:
        if not isinstance(body, bytes):
            await body.aclose()
        if isinstance(error, OSError):  # what a server may raise for a client that has gone (ASGI 2.4)
            return None
        raise
    return body


class StreamSender:
    """Writes one stream; `_leave` ends it from outside, by cancelling the task in its present await.

    The cancellation is taken back where it is caught, as ``asyncio.timeout`` does, so one that came from
    somebody else is never swallowed.
    """

    __slots__ = (
        "_leaving",
        "_patience",
        "_read_all",
        "_receive",
        "_seen",
        "_send",
        "_task",
        "_watch",
        "_writes",
        "_writing",
    )

    def __init__(self, receive: Receive, send: Send, patience: float) -> None:
        self._receive = receive
        self._send = send
        self._patience = patience
        self._task: asyncio.Task[Any] | None = None
        self._watch: asyncio.Future[Message] | None = None
        self._writes = 0
        self._seen = _NOTHING
        self._writing = self._leaving = self._read_all = False

    async def run(self, stream: ByteStream) -> None:
        """Send all of ``stream``, and close it. Returns early when the client has gone, or takes nothing."""
        self._task = task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        send = self._send
        pull: Callable[[], Any] = getattr(stream, "pull", _nothing)
        looks = rounds(self._patience / 2)
        looks.join(self)
        self._watch_receive()
        try:
            while True:
                block = pull()
                if type(block) is not bytes:
                    if block is not None:
                        block = await block
                        if type(block) is not bytes:
                            continue
                    else:
                        try:
                            block = await stream.__anext__()
                        except StopAsyncIteration:
                            break
                self._writing = True
                if len(block) > _PIECE:
                    block = await self._send_pieces(block)
                await send({"type": "http.response.body", "body": block, "more_body": True})
                self._writing = False
                self._writes += 1
            self._writing = True
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if not self._leaving or task.uncancel() > before:
                raise
        except OSError:
            pass  # the client has gone
        finally:
            self._task = None
            looks.leave(self)
            await self._end(stream)

    async def _end(self, stream: ByteStream) -> None:
        watch = self._watch
        if watch is not None:
            watch.cancel()
        try:
            await stream.aclose()
        finally:
            if watch is not None:
                await asyncio.wait({watch})

    async def _send_pieces(self, block: bytes) -> bytes:
        """Send all but the last piece of a large block, so that a server holds no more than a piece of it."""
        for at in range(0, len(block) - _PIECE, _PIECE):
            await self._send(
                {"type": "http.response.body", "body": block[at : at + _PIECE], "more_body": True}
            )
            self._writes += 1
        return block[-(len(block) % _PIECE or _PIECE) :]

    def visit(self) -> None:
        """Let the client go when a write has taken two rounds, from the first that saw it."""
        if not self._writing:
            self._seen = _NOTHING
        elif self._seen[0] != self._writes:
            self._seen = (self._writes, 0)
        elif self._seen[1] == 0:
            self._seen = (self._writes, 1)
        else:
            log.info("a stream ends: its reader took nothing for %g s", self._patience)
            self._leave()

    # The task that waits for the disconnect is nothing but the server's own `receive()`.

    def _watch_receive(self) -> None:
        self._watch = watch = asyncio.ensure_future(self._receive())
        watch.add_done_callback(self._received)

    def _received(self, watch: asyncio.Future[Message]) -> None:
        if not watch.cancelled():
            error = watch.exception()
            if error is not None:
                log.debug("receive() failed: %r", error)
            elif watch.result()["type"] != "http.disconnect" and self._task is not None:
                if self._read_all:
                    return None  # it would say so for ever: this server tells no disconnect
                self._read_all = not watch.result().get("more_body", False)
                return self._watch_receive()
        self._leave()

    def _leave(self) -> None:
        if self._task is not None and not self._leaving:
            self._leaving = True
            self._task.cancel()


_NOTHING = (-1, 0)


def _nothing() -> None:
    return None


def event_response(
    events: AsyncIterable[StreamEvent], *, wire: StreamWire = NATIVE, options: HTTPOptions | None = None
) -> ASGIResponse:
    """Stream a bare ``orchestrate(…)`` without service and buffer: an ASGI application for one response.

    Await it with ``(scope, receive, send)``, or return it where a framework takes an ASGI response. The
    generator is closed promptly when the client leaves; its failure is logged and ends the stream as an
    ``error`` event.
    """
    options = options or HTTPOptions()
    return ASGIResponse(bare_response(events, wire=wire, options=options), send_timeout=options.send_timeout)
