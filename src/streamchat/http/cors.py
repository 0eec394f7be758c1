"""Which other origins may talk to the endpoints: CORS headers, preflights, and the refusal of forged
requests."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from streamchat.core.given import check_flag, check_names, check_number
from streamchat.errors import InvalidInput
from streamchat.http.errors import HTTPError
from streamchat.http.requests import Request, Response

__all__ = ["CORS", "check_origin"]

_ALLOWED_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "OpenAI-Organization",
    "OpenAI-Project",
    "User-Agent",
    "X-AI-SDK-Version",
    "X-Client-Id",
    "X-Conversation-Id",
)
# What OpenAI's clients say of themselves, in more headers with each release.
_STAINLESS = re.compile(r"x-stainless-[a-z0-9-]{1,64}")
_EXPOSED_HEADERS = (
    "Allow, Content-Location, Idempotent-Replayed, Location, Retry-After, X-Conversation-Id, X-Request-Id, "
    "X-Run-Id, X-Should-Retry, X-Vercel-AI-UI-Message-Stream"
)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class CORS:
    """What pages of other origins may do.

    ``origins`` are as browsers send them (``https://app.example``, no path), or ``"*"`` for all.
    ``credentials`` lets through what browsers send unasked, cookies and passwords that they keep, and needs
    named origins; without it, what a page of theirs sends with a cookie, or with an ``Authorization`` that is
    no bearer token, is refused as any other origin's (unless it only reads). A client certificate (mTLS) or
    an address cannot be seen in a request: where one of them says who asks, name the origins, and only such
    as may act for the user. ``headers`` are allowed besides those that the endpoints know (``Last-Event-ID``
    among them) and those that OpenAI's clients send (``X-Stainless-*``). ``max_age`` is how long a browser
    may keep a preflight's answer, in seconds.

    Raises `InvalidInput`, with ``field``, for values of other types than these.
    """

    origins: Collection[str]
    credentials: bool = False
    headers: Sequence[str] = ()
    max_age: int = 600

    def __post_init__(self) -> None:
        if self.origins != "*":
            check_names("origins", self.origins, "a list of origins, or '*'")
        check_flag("credentials", self.credentials)
        check_names("headers", self.headers, "a list of names")
        check_number("max_age", self.max_age, least=0, whole=True)
        if self.credentials and self.allows_all:
            raise InvalidInput(
                "CORS(origins='*', credentials=True): browsers refuse this; name the origins", field="origins"
            )

    @property
    def allows_all(self) -> bool:
        """Whether pages of any origin may talk to the endpoints."""
        return self.origins == "*" or "*" in self.origins

    def allows(self, origin: str) -> bool:
        """Say whether pages of ``origin`` may talk to the endpoints."""
        return self.allows_all or origin in self.origins

    def add_to(self, response: Response, request: Request) -> None:
        """Add what a browser needs to see to let the page read the answer."""
        response.headers += self.readable(request.headers.get("origin"))

    def readable(self, origin: str | None) -> list[tuple[str, str]]:
        """Return what a browser needs to see to let a page of ``origin`` read an answer."""
        vary = [] if self.allows_all else [("vary", "Origin")]
        if origin is None or not self.allows(origin):
            return vary
        return [
            *vary,
            ("access-control-allow-origin", "*" if self.allows_all else origin),
            ("access-control-expose-headers", _EXPOSED_HEADERS),
            *([("access-control-allow-credentials", "true")] if self.credentials else []),
        ]

    def preflight(self, request: Request, methods: str) -> list[tuple[str, str]]:
        """Return the further headers that answer a browser's question before the request itself."""
        if not self.allows(request.headers.get("origin", "")):
            return []
        asked = request.headers.get("access-control-request-headers", "").lower()
        told = [name for each in asked.split(",") if _STAINLESS.fullmatch(name := each.strip())]
        return [
            ("access-control-allow-methods", methods),
            ("access-control-allow-headers", ", ".join((*_ALLOWED_HEADERS, *self.headers, *told))),
            ("access-control-max-age", str(self.max_age)),
        ]


def check_origin(request: Request, cors: CORS | None) -> None:
    """Refuse what another site's page makes a browser send in the user's name; raises `HTTPError` 403.

    Browsers say it themselves in ``Sec-Fetch-Site``; older ones are judged by ``Origin`` against ``Host``.
    What sends neither is no browser. Reading is left alone: other pages cannot see the answer.

    An origin that ``cors`` lets in without credentials has no use of the user's. Browsers see to that only
    where they ask first: not with a WebSocket, nor with a POST that has no body.
    """
    origin = request.headers.get("origin")
    if request.method in _SAFE_METHODS:
        return
    unasked = _sent_unasked(request)
    if cors is not None and origin is not None and cors.allows(origin) and (cors.credentials or not unasked):
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        foreign = origin is not None and _host_of(origin) != request.headers.get("host", "").lower()
    if foreign:
        raise HTTPError(
            403,
            "cross_origin",
            "Pages of this origin may not do that.",
            logged=f"a page of {origin!r:.200} asks, which cors=CORS(…) does not let in"
            + (f" with {unasked} (credentials=True)" if unasked else ""),
        )


def _sent_unasked(request: Request) -> str | None:
    """Return the name of what a browser may have added by itself to say who its user is.

    It keeps the passwords and tickets of Basic, Digest, Negotiate and NTLM; a bearer token is the page's own.
    """
    if "cookie" in request.headers:
        return "cookies"
    scheme = request.headers.get("authorization", "").strip().partition(" ")[0]
    return "an Authorization that is no bearer token" if scheme.lower() not in ("", "bearer") else None


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:  # no browser sends that
        return None
