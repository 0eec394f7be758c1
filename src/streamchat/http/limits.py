"""How much a client may ask for: bounds on bodies, streams and waiting, and the reader that keeps to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

from streamchat.core.given import check_instance, check_number
from streamchat.http.ag_ui_options import AGUIOptions
from streamchat.http.errors import HTTPError
from streamchat.http.openai_options import OpenAIOptions
from streamchat.http.requests import Request
from streamchat.http.vercel_options import VercelOptions
from streamchat.principal import Principal

__all__ = ["HTTPOptions", "StreamCount", "Who", "read_body", "who"]

Who: TypeAlias = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class HTTPOptions:
    """How the endpoints behave; times are seconds.

    ``heartbeat`` is how long a stream is quiet at most: then, or after half of it, a comment keeps it open;
    the first one fills ``padding`` bytes, which pushes it through a proxy's buffer. Clients that are cut off
    come back after ``retry``, after ``suspended_retry`` where a run waits for a person: its stream stays for
    ``suspended_linger`` and then closes. Each of these delays is spread by half of itself, so that many
    clients do not come back at once. ``stream_lifetime`` ends a stream of any kind in between events (None:
    never), which makes a client show its credentials again, as the end of its principal does
    (``expires_at``).

    A reader that takes nothing for ``send_timeout`` is let go, and resumes. ``body_timeout`` is for a whole
    request body; ``max_body_bytes`` is its size (None: the service's own limit). ``max_streams`` and
    ``max_streams_per_principal`` bound what is open at once in this process (None: no bound). ``max_page`` is
    the largest ``limit`` of a list. ``openai`` is about ``/v1`` (`OpenAIOptions`), ``ag_ui`` about ``/ag-ui``
    (`AGUIOptions`), ``vercel`` about ``/vercel`` (`VercelOptions`).

    Raises `InvalidInput`, with ``field``, for what is none of these.
    """

    heartbeat: float = 15.0
    padding: int = 2048
    retry: float = 2.0
    suspended_linger: float = 30.0
    suspended_retry: float = 30.0
    stream_lifetime: float | None = None
    send_timeout: float = 30.0
    body_timeout: float = 30.0
    max_body_bytes: int | None = None
    max_streams: int | None = None
    max_streams_per_principal: int | None = None
    max_page: int = 1000
    openai: OpenAIOptions = field(default_factory=OpenAIOptions)
    ag_ui: AGUIOptions = field(default_factory=AGUIOptions)
    vercel: VercelOptions = field(default_factory=VercelOptions)

    def __post_init__(self) -> None:
        for name in ("heartbeat", "send_timeout", "body_timeout"):
            check_number(name, getattr(self, name), above=0)
        for name in ("retry", "suspended_retry"):  # clients are told them
            check_number(name, getattr(self, name), least=0, finite=True)
        check_number("suspended_linger", self.suspended_linger, least=0)
        check_number("stream_lifetime", self.stream_lifetime, above=0, none=True)
        check_number("padding", self.padding, least=0, whole=True)
        check_number("max_page", self.max_page, least=1, whole=True)
        for name in ("max_body_bytes", "max_streams", "max_streams_per_principal"):
            check_number(name, getattr(self, name), least=0, whole=True, none=True)
        for name, kind in (("openai", OpenAIOptions), ("ag_ui", AGUIOptions), ("vercel", VercelOptions)):
            check_instance(name, getattr(self, name), kind, f"{kind.__name__}(…)")


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """Read a whole body of at most ``most`` bytes, within ``seconds``.

    Raises `HTTPError` 413 as soon as it is known to be larger (by its declared length, before a byte is
    read), 408 when it does not come in time; `ClientGone` where the client leaves.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > most):
        raise _too_large(most)
    blocks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for block in request.body:
                size += len(block)
                if size > most:
                    raise _too_large(most)
                blocks.append(block)
    except TimeoutError:
        raise HTTPError(408, "body_timeout", f"The body did not arrive within {seconds:g} seconds.") from None
    return b"".join(blocks)


def _too_large(most: int) -> HTTPError:
    return HTTPError(413, "body_too_large", f"The body is larger than the {most} bytes that are taken.")


def who(principal: Principal | None) -> Who | None:
    """Return what a principal is counted by: a name alone may be another's in another tenant."""
    return None if principal is None else (principal.tenant, principal.id)


class StreamCount:
    """Counts the streams that are open in this process, altogether and for each principal."""

    def __init__(self, options: HTTPOptions) -> None:
        self._most = options.max_streams
        self._most_each = options.max_streams_per_principal
        self._each: Counter[Who] = Counter()
        self.open = 0

    def enter(self, principal: Who | None) -> None:
        """Take a place; raises `HTTPError` 503 (all are taken) or 429 (this principal has its share)."""
        if self._most is not None and self.open >= self._most:
            raise HTTPError(
                503, "too_many_streams", "Too many streams are open.", headers=[("retry-after", "5")]
            )
        if principal is not None:
            if self._most_each is not None and self._each[principal] >= self._most_each:
                raise HTTPError(
                    429, "too_many_streams", "You have too many streams open.", headers=[("retry-after", "5")]
                )
            self._each[principal] += 1
        self.open += 1

    def leave(self, principal: Who | None) -> None:
        """Give the place back."""
        self.open -= 1
        if principal is not None:
            self._each[principal] -= 1
            if not self._each[principal]:
                del self._each[principal]
