"""The health endpoints, for whatever starts, stops and balances processes."""

from __future__ import annotations

from streamchat.http.requests import Response, json_response
from streamchat.http.routing import Call, Route

__all__ = ["ROUTES"]


async def _live(call: Call) -> Response:
    return json_response(200, {"status": "live"})


async def _ready(call: Call) -> Response:
    """Ready to take requests: the store can be opened, and nobody has asked this process to leave."""
    if call.endpoints.chat.draining:
        return json_response(503, {"status": "draining"}, [("retry-after", "1")])
    await call.endpoints.open()
    return json_response(200, {"status": "ready"})


ROUTES = (
    Route("GET", "/health/live", _live, public=True),
    Route("GET", "/health/ready", _ready, public=True),
)
