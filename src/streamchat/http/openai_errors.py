"""Failures of ``/v1`` in the shape that OpenAI's clients read, and whether these are to repeat the request.

https://platform.openai.com/docs/guides/error-codes. These clients repeat a request by themselves at 408, 409,
429 and from 500 on, unless ``x-should-retry`` says otherwise: what would begin a second run says ``false``.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from streamchat.http.requests import Response, json_response
from streamchat.wire.openai_answer import Failure
from streamchat.wire.openai_chat import error_object

__all__ = ["failure_response", "in_openai_shape"]

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_KEPT = ("retry-after", "www-authenticate", "allow")
# These may be sent again as they are: nothing was begun.
_AGAIN = frozenset({408, 429, 503})


def in_openai_shape(response: Response) -> Response:
    """Return the same failure in this protocol's words; 422 is 400 here."""
    assert isinstance(response.body, bytes)
    error: dict[str, Any] = from_json(response.body)["error"]
    status = 400 if response.status == 422 else response.status
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = error_object(
        error["message"],
        type=kind,
        code=error["code"],
        param=error.get("field"),
        correlation_id=error["correlation_id"],
    )
    headers = [(name, value) for name, value in response.headers if name in _KEPT]
    again = "true" if status in _AGAIN else "false"
    return json_response(
        status, body, [*headers, ("x-request-id", error["correlation_id"]), ("x-should-retry", again)]
    )


def failure_response(failure: Failure, headers: list[tuple[str, str]]) -> Response:
    """Answer for a run that was begun and did not come to an answer; it is not to be begun again unasked."""
    status = 409 if failure.type == "cancelled" or failure.code == "run_suspended" else 502
    body = error_object(failure.message, type=failure.type, code=failure.code)
    return json_response(status, body, [*headers, ("x-should-retry", "false")])
