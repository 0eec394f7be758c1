"""Our responses as Starlette's: whole ones as they are, streams by our own sender.

Starlette's streaming response notices an idle client's leaving only when it sends (ASGI 2.4 and later), and
costs a task group for each stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import AsyncExitStack

from starlette.background import BackgroundTask
from starlette.responses import Response as StarletteResponse
from starlette.types import Receive, Scope, Send

from streamchat.adapters.asgi import ASGIResponse
from streamchat.adapters.asgi import event_response as asgi_event_response
from streamchat.events import StreamEvent
from streamchat.http import HTTPOptions, Response
from streamchat.http.streams import StreamWire
from streamchat.wire.native import NATIVE

__all__ = ["StreamedResponse", "event_response", "let_go", "to_starlette"]


async def let_go(scope: Scope) -> None:
    """End what the dependencies of a connection hold by ``yield``, which FastAPI would at its very end."""
    held = scope.get("fastapi_inner_astack")
    if isinstance(held, AsyncExitStack):
        await held.aclose()


class StreamedResponse(StarletteResponse):
    """A stream as a response of Starlette's kind.

    What the request's dependencies hold (``yield``) is let go before the first byte: FastAPI would hold it
    until the stream ends, a database connection for each reader. Background tasks run after the stream.
    """

    def __init__(self, response: Response, *, send_timeout: float) -> None:
        super().__init__(status_code=response.status)
        self._response = response
        self._send_timeout = send_timeout
        self.background: BackgroundTask | None = None
        self.raw_headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. The stream is closed in any case, also where a dependency's own end fails."""
        response = self._response
        # Middleware and the router may have added to them.
        response.headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in self.raw_headers
        ]
        try:
            await let_go(scope)
        except BaseException:
            if not isinstance(response.body, bytes):
                await response.body.aclose()
            raise
        await ASGIResponse(response, send_timeout=self._send_timeout)(scope, receive, send)
        if self.background is not None:
            await self.background()


def to_starlette(response: Response, options: HTTPOptions) -> StarletteResponse:
    """Translate a response."""
    if not isinstance(response.body, bytes):
        return StreamedResponse(response, send_timeout=options.send_timeout)
    whole = StarletteResponse(response.body, response.status)
    whole.raw_headers = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers
    ]
    return whole


def event_response(
    events: AsyncIterable[StreamEvent], *, wire: StreamWire = NATIVE, options: HTTPOptions | None = None
) -> StarletteResponse:
    """Stream a bare ``orchestrate(…)`` without service and buffer; return it from a path operation.

    The generator is closed promptly when the client leaves; its failure is logged and ends the stream as an
    ``error`` event.
    """
    options = options or HTTPOptions()
    return StreamedResponse(
        asgi_event_response(events, wire=wire, options=options).response, send_timeout=options.send_timeout
    )
