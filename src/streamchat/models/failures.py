"""From what providers, the SDK and transports raise or send to `ModelError`, its code and its cause."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any

import openai

from streamchat.core.jsontext import encode_json
from streamchat.errors import ModelError

__all__ = ["error_object", "message_of", "request_failure", "retry_after", "transport_failure"]

# Words by which providers say that asking again is no use; in `code` or `type` of an error object.
_FINAL = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "access_terminated",
        "account_deactivated",
    }
)
_AUTHENTICATION = frozenset(
    {"authentication_error", "invalid_api_key", "permission_error", "permission_denied"}
)
_RATE = frozenset({"rate_limit_exceeded", "rate_limit_error", "too_many_requests", "tokens", "requests"})
_REQUEST = frozenset(
    {
        "invalid_request_error",
        "context_length_exceeded",
        "content_policy_violation",
        "invalid_prompt",
        "string_above_max_length",
        "model_not_found",
        "unsupported_parameter",
        "invalid_image",
    }
)
_QUOTED = 500


def request_failure(error: Exception) -> ModelError:
    """What an exception from sending a request and waiting for the response comes to; it is the cause."""
    if isinstance(error, openai.APIStatusError):
        failure = _status_failure(error)
    elif isinstance(error, openai.APITimeoutError):
        failure = ModelError(f"the provider did not answer in time: {error}", code="timeout", retryable=True)
    elif isinstance(error, openai.APIConnectionError):
        why = f" ({type(error.__cause__).__name__}: {error.__cause__})" if error.__cause__ is not None else ""
        failure = ModelError(
            f"the provider could not be reached: {error}{why}", code="connection", retryable=True
        )
    elif isinstance(error, openai.APIError):
        failure = error_object(error.body if error.body is not None else str(error))
    elif _kinds(error) & {"OSError", "TransportError"}:  # of a client that is not the SDK's
        return transport_failure(error)
    else:
        failure = ModelError(f"the request could not be sent: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def transport_failure(error: Exception) -> ModelError:
    """What an exception from reading a response's body comes to; it is the cause.

    None of these is an openai error: the SDK hands out the transport's own (httpx2's, or the older httpx's,
    aiohttp's where its transport does not translate, ssl's), so any exception that reading raises is the
    connection's.
    """
    if isinstance(error, ModelError):
        return error
    if isinstance(error, openai.APIError):
        return request_failure(error)
    # By name: httpx and httpx2 have one each, and neither is a dependency of this package.
    timed_out = bool(_kinds(error) & {"TimeoutError", "TimeoutException"})
    failure = ModelError(
        f"the provider's stream broke off: {type(error).__name__}: {error}",
        code="timeout" if timed_out else "connection",
        retryable=True,
    )
    failure.__cause__ = error
    return failure


def _kinds(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def error_object(detail: Any) -> ModelError:
    """What an error object inside a stream comes to (`provider_error` unless its words say more)."""
    words, status = _words_of(detail)
    message = message_of(detail)
    code, retryable = "provider_error", True
    if words & _FINAL:
        retryable = False
    elif words & _AUTHENTICATION or status in (401, 403):
        code, retryable = "authentication", False
    elif words & _RATE or status == 429:
        code = "rate_limited"
    elif words & _REQUEST or status in (400, 404, 413, 422):
        code, retryable = "bad_request", False
    elif status is not None and status >= 500:
        code = "server_error"
    return ModelError(f"the provider reported: {message}", code=code, retryable=retryable, status=status)


def message_of(detail: Any) -> str:
    """A provider's own words in an error object, cut to what a log line holds."""
    found = detail
    while isinstance(found, Mapping):
        found = found.get("message") or found.get("error") or found.get("detail") or encode_json(dict(found))
    return str(found)[:_QUOTED]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """How many seconds a response asks to wait, in any of the forms in use.

    ``retry-after-ms`` is looked at first, then ``Retry-After`` in seconds or as an HTTP date. None where it
    asks for nothing, or for something that is no time (RFC 9110, section 10.2.3).
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) / unit
        except ValueError:
            seconds = _seconds_until(text)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def _seconds_until(text: str) -> float:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return math.nan
    return max(0.0, moment.timestamp() - time.time())


def _status_failure(error: openai.APIStatusError) -> ModelError:
    status = error.status_code
    words, _ = _words_of(error.body)
    if status in (401, 403):
        code, retryable = "authentication", False
    elif status == 408:
        code, retryable = "timeout", True
    elif status == 409:
        code, retryable = "provider_error", True  # OpenAI: a lock could not be taken in time
    elif status == 429:
        code, retryable = "rate_limited", not words & _FINAL
    elif status >= 500:
        code, retryable = "server_error", True
    else:
        code, retryable = "bad_request", False
    # The SDK's own servers say it outright.
    told = error.response.headers.get("x-should-retry")
    if told in ("true", "false"):
        retryable = told == "true"
    return ModelError(
        f"the provider answered {status}: {message_of(error.body) if error.body else error.message}",
        code=code,
        retryable=retryable,
        retry_after=retry_after(error.response.headers),
        status=status,
    )


def _words_of(detail: Any) -> tuple[set[str], int | None]:
    """The values of ``code`` and ``type`` in an error object, and the status that one of them is."""
    words: set[str] = set()
    status: int | None = None
    found = detail
    while isinstance(found, Mapping):
        for key in ("code", "type", "status"):
            value = found.get(key)
            if isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdigit()):
                number = int(value) if len(str(value)) < 5 else 0
                status = number if 400 <= number < 600 else status
            elif isinstance(value, str):
                words.add(value.lower())
        found = found.get("error")
    return words, status
