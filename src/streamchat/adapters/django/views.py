"""The one view behind all endpoints: asynchronous under ASGI, on the service's own thread under WSGI."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, cast

from django.contrib.auth import decorators
from django.core.handlers.asgi import ASGIRequest
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from streamchat.adapters.asgi.websocket import admit_at_path
from streamchat.adapters.django import conf
from streamchat.adapters.django.hosting import Host
from streamchat.adapters.django.responses import release_connections, to_django
from streamchat.adapters.django.websocket import Handshake, handshake_of
from streamchat.http import ClientGone, Endpoints, HTTPError, Request, Response
from streamchat.http.openapi import operation_of

__all__ = ["endpoint"]

_PIECE = 64 * 1024


def _request(request: HttpRequest, path: str) -> Request:
    path = "/" + path
    return Request(
        method=(request.method or "GET").upper(),
        path=path,
        query=request.META.get("QUERY_STRING", ""),
        headers={name.lower(): value for name, value in cast("Mapping[str, str]", request.headers).items()},
        body=_body(request),
        mount=_whole_path(request).rstrip("/").removesuffix(path.rstrip("/")),
        native=request,
    )


def _whole_path(request: HttpRequest) -> str:
    # Not `request.path`: under ASGI that is the scope's path, which has a `root_path` in it from some servers
    # (uvicorn) and not from others.
    return str(request.META.get("SCRIPT_NAME", "")).rstrip("/") + request.path_info


async def _body(request: HttpRequest) -> AsyncIterator[bytes]:
    # Django has read it whole, and bounded it only where a form was expected.
    if hasattr(request, "_body"):
        yield request.body
        return
    while piece := request.read(_PIECE):
        yield piece


async def _answer(request: HttpRequest, path: str) -> HttpResponseBase:
    endpoints = conf.endpoints()
    handshake = handshake_of(request)
    if handshake is not None:
        return await _judge(handshake, endpoints, request, path)
    try:
        response = await endpoints.handle(_request(request, path))
    except ClientGone:
        response = Response(499)
    if not isinstance(response.body, bytes):
        await release_connections()
    return to_django(response, endpoints.options)


async def _judge(
    handshake: Handshake, endpoints: Endpoints, request: HttpRequest, path: str
) -> HttpResponseBase:
    """Let a WebSocket in, or answer why not; the session itself runs outside of Django."""
    asked = replace(_request(request, path), method="WEBSOCKET")
    handshake.admitted = await admit_at_path(endpoints, asked)
    return HttpResponse(status=204)


@functools.cache
def _host(endpoints: Endpoints) -> Host:
    return Host(endpoints.chat)


async def _answer_whole(request: HttpRequest, path: str) -> HttpResponseBase:
    """Answer under WSGI: what would stream is refused before anything is begun."""
    endpoints = conf.endpoints()
    ours = _request(request, path)
    route = endpoints.find(ours.method, ours.path)
    if route is not None and operation_of(route).events:
        refusal = HTTPError(
            501, "streaming_unavailable", "This server cannot stream. Use /runs/reply, or /runs/{id}/events."
        )
        return to_django(endpoints.refuse(ours, refusal), endpoints.options)
    ours.streams = False
    return to_django(await _host(endpoints).run(endpoints.handle(ours)), endpoints.options)


# Django's own since 5.1. A page's fetch would be led to a form; what is public (jobs, health) has no user.
_login_not_required: Any = getattr(decorators, "login_not_required", lambda view: view)


@_login_not_required
@transaction.non_atomic_requests
async def endpoint(request: HttpRequest, path: str = "") -> HttpResponseBase:
    """Serve all endpoints; ``path`` is what stands behind the prefix.

    CSRF protection is the project's: with sessions, pages send the token in ``X-CSRFToken``. Its
    ``LoginRequiredMiddleware`` leaves them alone: the principal decides, and nobody is answered with 401.
    """
    if isinstance(request, ASGIRequest):
        return await _answer(request, path)
    return await _answer_whole(request, path)
