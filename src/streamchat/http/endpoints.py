"""All endpoints over one `StreamChat`: from a request to a response, whatever framework stands around it.

A request is routed, judged (origin, principal) and handed to a handler; whatever is raised becomes an answer.
The handlers are in modules by subject; further wires add their own routes.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from streamchat.core.given import check_instance
from streamchat.errors import StreamChatError
from streamchat.http import (
    ag_ui,
    answers,
    conversations,
    description,
    health,
    openai_endpoints,
    retrying,
    runs,
    vercel,
)
from streamchat.http.bodies import B, read_json
from streamchat.http.cors import CORS, check_origin
from streamchat.http.errors import HTTPError, error_response, expired, not_allowed, unauthenticated
from streamchat.http.given import check_chat, check_principal, check_routes
from streamchat.http.limits import HTTPOptions, StreamCount, who
from streamchat.http.requests import ClientGone, Request, Response
from streamchat.http.routing import Call, Route, Router, allowed
from streamchat.http.streams import EventStream, StreamWire, spread, stream_response
from streamchat.principal import Principal
from streamchat.service.chat import StreamChat
from streamchat.service.hub import Subscription
from streamchat.wire.native import NATIVE

__all__ = ["Endpoints", "PrincipalFunction"]

PrincipalFunction: TypeAlias = Callable[[Request], Awaitable[Principal | None] | Principal | None]


class Endpoints:
    """The HTTP interface of ``chat``; one for each place where it is mounted.

    ``principal`` says who asks (sync or async; ``request.native`` is the framework's own object). None from
    it is answered with 401, unless the service allows anonymous users. ``cors`` lets pages of other origins
    in. ``routes`` are served besides those of the package.

    Raises `StreamChatError` where there is neither a ``principal`` function nor leave for anonymous users,
    `InvalidInput`, with ``field``, for a ``principal`` that cannot be called and for others than these types.
    """

    def __init__(
        self,
        chat: StreamChat,
        *,
        principal: PrincipalFunction | None = None,
        options: HTTPOptions | None = None,
        cors: CORS | None = None,
        routes: Iterable[Route] = (),
    ) -> None:
        check_chat(chat)
        check_principal(principal)
        given_routes = check_routes(routes)
        check_instance("options", options, HTTPOptions, "HTTPOptions(…)", none=True)
        check_instance("cors", cors, CORS, "CORS(…)", none=True)
        if principal is None and not chat.allow_anonymous:
            raise StreamChatError(
                "nobody could use these endpoints: pass principal=, a function that returns who is asking, "
                "or make the service with StreamChat(allow_anonymous=True)"
            )
        self.chat = chat
        self.options = options or HTTPOptions()
        self._principal = principal
        self._cors = cors
        self._streams = StreamCount(self.options)
        self._opened = False
        self._draining = lambda: chat.draining  # one for all streams
        self.routes = (
            *runs.ROUTES,
            *retrying.ROUTES,
            *answers.ROUTES,
            *conversations.ROUTES,
            *health.ROUTES,
            *description.ROUTES,
            *openai_endpoints.ROUTES,
            *ag_ui.ROUTES,
            *vercel.ROUTES,
            *given_routes,
        )
        self._router = Router(self.routes)

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

    def find(self, method: str, path: str) -> Route | None:
        """Return the route that would answer, None where there is none."""
        try:
            return self._router.find(path)[0].get(method)
        except HTTPError:
            return None

    async def handle(self, request: Request) -> Response:
        """Answer one request. Raises `ClientGone` where there is nobody left to answer, and nothing else.

        Whoever sends the response closes its body if that is a stream. Cancelled, it leaves a run that was
        started running.
        """
        try:
            response = await self._answer(request)
        except ClientGone:
            raise
        except Exception as error:
            return self.refuse(request, error)
        return self._finished(request, response)

    def refuse(self, request: Request, error: Exception) -> Response:
        """Answer for ``error``, as `handle` does: for an adapter whose framework found out by itself."""
        response = error_response(error, f"{request.method} {request.path!r:.200}")
        reword = self._router.errors(request.path)
        return self._finished(request, response if reword is None else reword(response))

    def _finished(self, request: Request, response: Response) -> Response:
        if self._cors is not None:
            self._cors.add_to(response, request)
        if isinstance(response.body, bytes):
            if response.body or response.status not in (200, 204):
                response.headers.append(("content-length", str(len(response.body))))
            if request.method == "HEAD":
                response.body = b""
        return response

    async def _answer(self, request: Request) -> Response:
        methods, segment = self._router.find(request.path)
        if request.method == "OPTIONS":
            names = allowed(methods)
            more = self._cors.preflight(request, names) if self._cors is not None else []
            return Response(204, b"", [("allow", names), *more])
        route = methods.get(request.method)
        if route is None:
            raise not_allowed(allowed(methods))
        check_origin(request, self._cors)
        call = Call(self, request, id=segment)
        if not route.public:
            await self.open()
            call.principal = await self._who(request)
        handler = route.head if request.method == "HEAD" and route.head is not None else route.handler
        return await handler(call)

    async def admit(self, request: Request) -> tuple[Call, float]:
        """Judge the beginning of a connection that is more than one request (a WebSocket): returns who it is,
        and for how many seconds. Raises what answers a request that is refused."""
        check_origin(request, self._cors)
        await self.open()
        call = Call(self, request, await self._who(request))
        return call, self._lifetime(call)

    async def _who(self, request: Request) -> Principal | None:
        principal = None
        if self._principal is not None:
            answer = self._principal(request)
            principal = await answer if inspect.isawaitable(answer) else answer
        _check_returned(principal)
        if principal is None and not self.chat.allow_anonymous:
            raise unauthenticated()
        if principal is not None and _ends_in(principal) <= 0:
            raise expired()
        return principal

    # What handlers share.

    @property
    def body_limit(self) -> int:
        """How many bytes a body may have."""
        most = self.options.max_body_bytes
        return self.chat.limits.max_body_bytes if most is None else most

    def _lifetime(self, call: Call) -> float:
        lifetime = math.inf if call.principal is None else _ends_in(call.principal)
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
        lifetime = math.inf if call.principal is None else _ends_in(call.principal)
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
        return lambda: self._streams.leave(counted), self._lifetime(call)

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


def _check_returned(principal: object) -> None:
    """Raise for what no principal function may return: the application's mistake, which no client can
    mend."""
    if principal is None:
        return
    if not isinstance(principal, Principal):
        raise _returned(type(principal).__name__, "return streamchat.Principal(id=…), or None for nobody")
    given: tuple[object, object, object] = (principal.id, principal.tenant, principal.expires_at)
    name, tenant, end = given
    if not isinstance(name, str) or not name:  # (all who have an empty one would be the same user)
        raise _returned(f"Principal(id={name!r:.100})", "the id is text, and not empty: str(user.id)")
    if tenant is not None and not isinstance(tenant, str):
        raise _returned(f"Principal(tenant={tenant!r:.100})", "the tenant is text, or None")
    if end is not None and (isinstance(end, bool) or not isinstance(end, int | float) or math.isnan(end)):
        raise _returned(f"Principal(expires_at={end!r:.100})", "it is seconds since the epoch, or None")


def _returned(what: str, remedy: str) -> StreamChatError:
    return StreamChatError(f"the principal function returned {what}: {remedy}")


def _ends_in(principal: Principal) -> float:
    """How many seconds what proved the identity still holds."""
    return math.inf if principal.expires_at is None else principal.expires_at - time.time()
