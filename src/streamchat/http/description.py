"""The endpoint that describes the others: ``GET /openapi.json``."""

from __future__ import annotations

from streamchat.http.requests import Response, json_response
from streamchat.http.routing import Call, Route

__all__ = ["ROUTES"]


async def _openapi(call: Call) -> Response:
    # Some twenty models are made for it, which a process that is never asked can do without.
    from streamchat.http.openapi import openapi_document

    document = openapi_document(call.endpoints.routes, prefix=call.request.mount)
    return json_response(200, document)


ROUTES = (Route("GET", "/openapi.json", _openapi, public=True),)
