"""From an exception to an answer: a status, a stable code, and a sentence that is safe to show.

No exception's own text reaches a client. What was expected to go wrong is in one table; anything else is a
500 with a correlation id, under which the log has the rest.
"""

from __future__ import annotations

import logging
import math
import secrets

from streamchat.errors import (
    AnswerConflict,
    AttachmentTooLarge,
    BufferUnavailable,
    Busy,
    ConversationBusy,
    ConversationNotFound,
    CursorInvalid,
    IdempotencyConflict,
    InvalidInput,
    NotAuthorized,
    NotRetryable,
    RunNotFound,
    RunOver,
    StreamChatError,
    TooManyRuns,
    TooManyStarts,
    WaitNotFound,
)
from streamchat.http.requests import Response, json_response

__all__ = [
    "HTTPError",
    "correlation_id",
    "error_response",
    "expired",
    "invalid_token",
    "not_allowed",
    "not_found",
    "unauthenticated",
]

log = logging.getLogger("streamchat.http")

# What clients sent is said here and nowhere else, and only to who asks for it by `setLevel(logging.DEBUG)`.
contents = logging.getLogger("streamchat.contents")
if contents.level == logging.NOTSET:
    contents.setLevel(logging.CRITICAL)


class HTTPError(StreamChatError):
    """An answer decided on by an endpoint itself; ``message`` is written for clients.

    ``field`` names what was wrong in the request, dotted where it is nested; ``headers`` are added to the
    answer. ``logged`` is what the log says in place of the message, where that has the client's own words.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        headers: list[tuple[str, str]] | None = None,
        logged: str | None = None,
    ) -> None:
        super().__init__(logged or message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.headers = headers or []


_TABLE: dict[type[StreamChatError], tuple[int, str]] = {
    CursorInvalid: (400, "The last event id is malformed. Send it back as it came, or send none."),
    AttachmentTooLarge: (413, "An attachment is too large."),
    InvalidInput: (422, "A value of the request cannot be accepted."),
    RunNotFound: (404, "There is no such run."),
    ConversationNotFound: (404, "There is no such conversation."),
    NotAuthorized: (403, "This is not allowed."),
    ConversationBusy: (409, "The conversation is being answered. Wait for the end, or cancel that run."),
    AnswerConflict: (409, "This was answered before and differently, or it is too late to answer."),
    WaitNotFound: (404, "Nothing of the sort was asked."),
    RunOver: (409, "The run has ended."),
    NotRetryable: (409, "This cannot be done again as it is."),
    IdempotencyConflict: (422, "The idempotency key was used before, with another request."),
    # This process has too much to do, not this client: another process may take it.
    TooManyRuns: (429, "You have too many answers under way. Wait for one to end."),
    TooManyStarts: (429, "You have asked for too many answers within a minute. Wait a little."),
    Busy: (503, "There is too much to do at the moment. Try again later."),
    BufferUnavailable: (503, "The service cannot be reached at the moment. Try again later."),
}
_RETRY_AFTER_UNAVAILABLE = 2.0


def correlation_id() -> str:
    """Return a new id that an answer and the log share."""
    return secrets.token_hex(8)


def not_found() -> HTTPError:
    """Nothing is served at this path."""
    return HTTPError(404, "not_found", "There is nothing at this address.")


def not_allowed(methods: str) -> HTTPError:
    """The path exists, the method does not; ``methods`` is the ``Allow`` header."""
    return HTTPError(
        405, "method_not_allowed", f"Only {methods} can be used here.", headers=[("allow", methods)]
    )


def unauthenticated() -> HTTPError:
    """Nobody is signed in, and nobody is not enough."""
    return HTTPError(401, "unauthenticated", "Say who you are.", headers=[("www-authenticate", "Bearer")])


def expired() -> HTTPError:
    """What proved the identity holds no longer."""
    return HTTPError(
        401,
        "credentials_expired",
        "Your sign-in has ended. Sign in again, or renew the token.",
        headers=[("www-authenticate", 'Bearer error="invalid_token"')],
    )


def invalid_token() -> HTTPError:
    """A bearer token was given, and it is no good."""
    return HTTPError(
        401,
        "invalid_token",
        "The token is not accepted.",
        headers=[("www-authenticate", 'Bearer error="invalid_token"')],
    )


def _is_of_principal(error: Exception) -> bool:
    """Whether the application's own function is to blame: no client can mend what it returned."""
    return isinstance(error, InvalidInput) and (error.field or "").partition(".")[0] == "principal"


def error_response(error: Exception, request: str) -> Response:
    """Answer for ``error``; ``request`` (method and path) says in the log where it happened."""
    correlation = correlation_id()
    headers: list[tuple[str, str]] = []
    detail: dict[str, object] = {}
    if isinstance(error, HTTPError):
        status, message = error.status, error.message
        headers = error.headers
    else:
        known = None
        if not _is_of_principal(error):
            known = next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), None)
        status, message = known or (
            500,
            "Something went wrong. The correlation id finds it in the server's log.",
        )
    code = error.code if isinstance(error, StreamChatError) and status != 500 else "internal_error"
    field = getattr(error, "field", None) if status in (400, 413, 415, 422) else None
    if isinstance(error, InvalidInput) and field and status == 422:
        message = f"The value of {field!r} cannot be accepted."
    if isinstance(error, NotRetryable):
        detail["reason"] = error.reason
    if isinstance(error, ConversationBusy):
        detail["active_run_id"] = error.active_run_id
    if isinstance(error, Busy):
        headers = [("retry-after", str(max(1, math.ceil(error.retry_after))))]
    elif isinstance(error, BufferUnavailable):
        headers = [("retry-after", str(math.ceil(_RETRY_AFTER_UNAVAILABLE)))]
    if status == 500:
        log.error("%s failed, correlation id %s", request, correlation, exc_info=error)
    else:
        said: object = error
        if isinstance(error, InvalidInput):  # which quotes what was sent
            said = f"the value of {error.field!r}"
            contents.debug("correlation id %s: %s", correlation, error)
        log.info("%s: %d %s, correlation id %s: %s", request, status, code, correlation, said)
    body: dict[str, object] = {"code": code, "message": message, "correlation_id": correlation, **detail}
    if field:
        body["field"] = field
    return json_response(status, {"error": body}, headers)
