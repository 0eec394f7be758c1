"""All endpoints over one `StreamChat`: from a request to a response, whatever framework stands around it.

A request is routed, judged (origin, principal) and handed to a handler; whatever is raised becomes an answer.
The handlers are in modules by subject; further wires add their own routes.
"""

from __future__ import annotations

import inspect
import math
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
from streamchat.http.cors import CORS, check_origin
from streamchat.http.errors import HTTPError, error_response, expired, not_allowed, unauthenticated
from streamchat.http.given import check_chat, check_principal, check_routes
from streamchat.http.limits import HTTPOptions
from streamchat.http.requests import ClientGone, Request, Response
from streamchat.http.routing import Call, Route, Router, allowed
from streamchat.http.serving import Serving, ends_in
from streamchat.principal import Principal
from streamchat.service.chat import StreamChat

__all__ = ["Endpoints", "PrincipalFunction"]

PrincipalFunction: TypeAlias = Callable[[Request], Awaitable[Principal | None] | Principal | None]


class Endpoints(Serving):
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
        super().__init__(chat, options or HTTPOptions())
        self._principal = principal
        self._cors = cors
        self.routes: tuple[Route, ...] = (
            *runs.ROUTES,
            *retrying.ROUTES,
            *answers.ROUTES,
            *conversations.ROUTES,
            *health.ROUTES,
            *description.routes(lambda: self.routes),
            *openai_endpoints.ROUTES,
            *ag_ui.ROUTES,
            *vercel.ROUTES,
            *given_routes,
        )
        self._router = Router(self.routes)

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
        return call, self.lifetime(call)

    async def _who(self, request: Request) -> Principal | None:
        principal = None
        if self._principal is not None:
            answer = self._principal(request)
            principal = await answer if inspect.isawaitable(answer) else answer
        _check_returned(principal)
        if principal is None and not self.chat.allow_anonymous:
            raise unauthenticated()
        if principal is not None and ends_in(principal) <= 0:
            raise expired()
        return principal


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
