"""The endpoint that describes the others: ``GET /openapi.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamchat.http.requests import Response, json_response
from streamchat.http.routing import Call, Route

__all__ = ["routes"]


def routes(described: Callable[[], Sequence[Route]]) -> tuple[Route, ...]:
    """Return the route that describes those which ``described`` returns."""

    async def openapi(call: Call) -> Response:
        # Some twenty models are made for it, which a process that is never asked can do without.
        from streamchat.http.openapi import openapi_document

        return json_response(200, openapi_document(described(), prefix=call.request.mount))

    return (Route("GET", "/openapi.json", openapi, public=True),)
