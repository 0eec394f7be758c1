"""What a handler works with: one request on its way, the service, its limits, and places for streams."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from streamchat.http.bodies import B, read_json
from streamchat.http.errors import HTTPError
from streamchat.http.limits import HTTPOptions, StreamCount, who
from streamchat.http.requests import ClientGone, Request, Response
from streamchat.http.streams import EventStream, StreamWire, spread, stream_response
from streamchat.principal import Principal
from streamchat.service.chat import StreamChat
from streamchat.service.hub import Subscription
from streamchat.wire.native import NATIVE

__all__ = ["Call", "Serving", "ends_in"]


@dataclass(slots=True)
class Call:
    """One request on its way through a handler: who asks, and what stood in the path's open segment."""

    endpoints: Serving
    request: Request
    principal: Principal | None = None
    id: str = ""


class Serving:
    """What the handlers of one place where a service is mounted share."""

    def __init__(self, chat: StreamChat, options: HTTPOptions) -> None:
        self.chat = chat
        self.options = options
        self._streams = StreamCount(options)
        self._opened = False
        self._draining = lambda: chat.draining  # one for all streams

    @property
    def open_streams(self) -> int:
        """How many streams are open at the moment."""
        return self._streams.open

    async def open(self) -> None:
        """Open the service at the first request, for where no lifespan did; once, so that a late one revives
        nothing.

        Raises `BufferUnavailable`; the next request then tries again.
        """
        if not self._opened:
            await self.chat.open()
            self._opened = True

    @property
    def body_limit(self) -> int:
        """How many bytes a body may have."""
        most = self.options.max_body_bytes
        return self.chat.limits.max_body_bytes if most is None else most

    def lifetime(self, call: Call) -> float:
        """How many seconds a connection of this principal's may last."""
        lifetime = math.inf if call.principal is None else ends_in(call.principal)
        if self.options.stream_lifetime is not None:
            lifetime = min(lifetime, spread(self.options.stream_lifetime))
        return lifetime

    async def read_json(self, request: Request, model: type[B], *, optional: bool = False) -> B:
        """Read a JSON body within the limits; see `streamchat.http.bodies.read_json`."""
        return await read_json(request, model, self.body_limit, self.options.body_timeout, optional=optional)

    def page_limit(self, request: Request, default: int) -> int:
        """Return the query's ``limit``: 1 to ``max_page``. Raises `HTTPError` 400."""
        return self.number(request, "limit", default, 1, self.options.max_page)

    def number(self, request: Request, name: str, default: int, least: int, most: int) -> int:
        """Return a whole number from the query. Raises `HTTPError` 400 for anything else."""
        text = request.parameter(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal()) or len(text) > 16 or not least <= int(text) <= most:
            raise HTTPError(
                400, "invalid_query", f"{name} must be a number from {least} to {most}.", field=name
            )
        return int(text)

    async def stream(
        self,
        call: Call,
        attach: Callable[[], Awaitable[Subscription]],
        *,
        wire: StreamWire = NATIVE,
        headers: list[tuple[str, str]] | None = None,
    ) -> Response:
        """Answer with what ``attach`` reads: a stream, or 204 where the run is over and the client has all of
        it.

        Raises `HTTPError` 409 where this principal is given no streams, 429 and 503 where too many are open.
        """
        await self.refuse_streams(call)
        counted = who(call.principal)
        self._streams.enter(counted)
        try:
            subscription = await attach()
        except BaseException:
            self._streams.leave(counted)
            raise
        lifetime = math.inf if call.principal is None else ends_in(call.principal)
        body = EventStream(subscription, wire, self.options, self._draining, self._streams, counted, lifetime)
        if subscription.finished:
            await body.aclose()
            return Response(204, b"", headers or [])
        return stream_response(body, wire, headers)

    async def take_place(self, call: Call) -> tuple[Callable[[], None], float]:
        """Take a place among the open streams; returns what gives it back, and how many seconds the stream
        may last. Raises as `stream` does."""
        await self.refuse_streams(call)
        counted = who(call.principal)
        self._streams.enter(counted)
        return lambda: self._streams.leave(counted), self.lifetime(call)

    async def refuse_streams(self, call: Call) -> None:
        """Raise `HTTPError` 409 where this principal is given no streams, 501 where nobody can be."""
        if not call.request.streams:
            raise HTTPError(501, "streaming_unavailable", "This server cannot stream.")
        if not await self.chat.streams_for(call.principal):
            raise HTTPError(
                409, "streaming_off", "Streaming is switched off for you; use /runs/reply instead."
            )

    async def while_connected(self, request: Request, work: Awaitable[Response]) -> Response:
        """Do ``work`` for as long as the client is there; raises `ClientGone`, having cancelled it, when it
        leaves."""
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(request.disconnected())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone(f"{request.method} {request.path}: the client left before the answer")
            return task.result()
        finally:
            for each in (task, watch):
                each.cancel()
            await asyncio.wait({task, watch})


def ends_in(principal: Principal) -> float:
    """How many seconds what proved the identity still holds."""
    return math.inf if principal.expires_at is None else principal.expires_at - time.time()
