"""``POST /runs/{id}/retry``: do a run anew, whole, from a step, or one failed call alone."""

from __future__ import annotations

from streamchat.http.bodies import RetryBody
from streamchat.http.requests import Response
from streamchat.http.routing import Call, Route
from streamchat.http.runs import idempotency_key, started_response

__all__ = ["ROUTES"]


async def _retry(call: Call) -> Response:
    key = idempotency_key(call.request)
    body = await call.endpoints.read_json(call.request, RetryBody, optional=True)
    started = await call.endpoints.chat.retry(
        call.id, call.principal, from_step=body.from_step, call_id=body.call_id, idempotency_key=key
    )
    return started_response(call, started)


ROUTES = (Route("POST", "/runs/{id}/retry", _retry),)
