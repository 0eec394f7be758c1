"""The endpoints as an `APIRouter`: the application's dependencies say who asks, its OpenAPI document has them
all."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.params import Depends as DependsParameter
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse
from starlette.responses import Response as StarletteResponse

from streamchat.adapters.asgi.shutdown import draining_on_sigterm
from streamchat.adapters.fastapi.responses import to_starlette
from streamchat.adapters.fastapi.routes import at, request_below, route_class
from streamchat.adapters.fastapi.websocket import add_websocket
from streamchat.http import CORS, ClientGone, Endpoints, HTTPOptions, Route
from streamchat.http.given import check_draining, check_principal
from streamchat.http.openapi import Operation, operation_id, operation_of
from streamchat.service.chat import StreamChat

__all__ = ["chat_router"]


def chat_router(
    chat: StreamChat,
    *,
    principal: Callable[..., Any] | DependsParameter | None = None,
    options: HTTPOptions | None = None,
    cors: CORS | None = None,
    routes: Iterable[Route] = (),
    drain_on_sigterm: bool = False,
    **router: Any,
) -> APIRouter:
    """Return all endpoints of ``chat`` as a router: ``app.include_router(chat_router(…), prefix="/chat")``.

    ``principal`` is a dependency like any other (with parameters and dependencies of its own, ``yield``,
    overridden in tests): it returns a `Principal`, or None, which is answered with 401 unless the service
    allows anonymous users; an ``HTTPException`` of its own goes through (with ``cors``, pages can read it).
    What it holds by ``yield`` is let go before a stream begins. For ``/ws`` it takes ``HTTPConnection`` in
    place of ``Request``, or handshakes are answered with 500 and the log says so; all other dependencies
    that hold for the router do likewise. ``router`` is passed on to `fastapi.APIRouter` (``dependencies``,
    ``tags``, ``include_in_schema``, …).

    ``drain_on_sigterm`` sends subscribers away when the process is told to stop, without which some servers
    wait for open streams for ever; it needs the application's lifespan, in the main thread.

    The service is opened by ``FastAPI(lifespan=chat.lifespan)``, or by ``async with chat`` in a lifespan of
    the application's own; where neither is, by the first request. Raises as `Endpoints`.
    """
    if not isinstance(principal, DependsParameter):
        check_principal(principal)
    check_draining(drain_on_sigterm)
    endpoints = Endpoints(
        chat,
        principal=None if principal is None else lambda request: request.native,
        options=options,
        cors=cors,
        routes=routes,
    )
    if drain_on_sigterm:
        # FastAPI runs it inside of the application's own.
        router["lifespan"] = _draining(chat, router.get("lifespan"))
    router["route_class"] = route_class(endpoints, cors, router.get("route_class", APIRoute))
    api = APIRouter(**router)
    for route in endpoints.routes:
        if route.path != "/openapi.json":  # the application's own document has them all
            _add(api, endpoints, route, principal)
    add_websocket(api, endpoints, _dependency(principal))
    if cors is not None:
        for path in dict.fromkeys(route.path for route in endpoints.routes):
            api.add_api_route(
                path, _operation(endpoints, path, None), methods=["OPTIONS"], include_in_schema=False
            )
    return api


def _draining(
    chat: StreamChat, own: Callable[[Any], AbstractAsyncContextManager[Any]] | None
) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[Any, None]:
        async with own(app) if own is not None else nullcontext() as state:
            with draining_on_sigterm(chat):
                yield state

    return lifespan


def _dependency(principal: Callable[..., Any] | DependsParameter | None) -> DependsParameter | None:
    if principal is None or isinstance(principal, DependsParameter):
        return principal
    found: DependsParameter = Depends(principal)
    return found


def _add(
    api: APIRouter,
    endpoints: Endpoints,
    route: Route,
    principal: Callable[..., Any] | DependsParameter | None,
) -> None:
    described = operation_of(route)
    endpoint = _operation(endpoints, route.path, None if route.public else principal)
    api.add_api_route(
        route.path,
        endpoint,
        methods=[route.method],
        status_code=described.status,
        response_class=_response_class(described),
        response_model=None,
        summary=described.summary,
        description="",
        name=operation_id(route),
        responses=described.responses(),
        openapi_extra=described.request(route.path),
        tags=[described.tag] if not api.tags else None,
    )
    if route.method == "GET":
        api.add_api_route(route.path, endpoint, methods=["HEAD"], include_in_schema=False)


def _response_class(described: Operation) -> type[StarletteResponse]:
    """FastAPI takes the media type of the answer from a class, and for others than JSON its schema too."""
    return type("Answer", (JSONResponse,), {"media_type": described.media_type})


def _operation(
    endpoints: Endpoints, path: str, principal: Callable[..., Any] | DependsParameter | None
) -> Callable[..., Any]:
    async def answer(request: Request, given: StarletteResponse, who: Any) -> StarletteResponse:
        ours = request_below(request, path)
        ours.native = who
        try:
            response = await endpoints.handle(ours)
        except ClientGone:
            return StarletteResponse(status_code=499)  # nobody reads it
        translated = to_starlette(response, endpoints.options)
        # What a dependency set on its response, a cookie say.
        translated.raw_headers.extend(given.raw_headers)
        return translated

    dependency = _dependency(principal)
    if dependency is None:

        async def anonymous(request: Request, response: StarletteResponse) -> StarletteResponse:
            return await answer(request, response, None)

        return at(path, anonymous)

    async def known(
        request: Request, response: StarletteResponse, who: Any = dependency
    ) -> StarletteResponse:
        return await answer(request, response, who)

    return at(path, known)
