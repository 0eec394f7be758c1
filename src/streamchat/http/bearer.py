"""Who asks, by a bearer token: the header is read here, the application's own verifier judges the token."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeAlias

from streamchat.errors import StreamChatError
from streamchat.http.errors import HTTPError, invalid_token
from streamchat.http.given import check_bearer
from streamchat.principal import Principal

__all__ = ["Bearer", "Verified", "Verifier"]

log = logging.getLogger("streamchat.http")

Verified: TypeAlias = Principal | Mapping[str, Any] | None
Verifier: TypeAlias = Callable[[str], Awaitable[Verified] | Verified]

# RFC 6750, section 2.1.
_HEADER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)
_LONGEST = 16_384


class Bearer:
    """Makes principals of ``Authorization: Bearer …`` headers; tokens are taken from nowhere else.

    ``verify(token)`` (async; or sync and called in a thread, as many fetch keys) returns the token's claims,
    a `Principal`, or None for a token that is no good; what it raises counts as that too if it is one of
    ``refused``, and anything else is a failure of ours (500). Of claims, ``id_claim`` becomes the id,
    ``tenant_claim`` the tenant (text; whole numbers become text) and ``exp`` the end, a number of seconds
    since the epoch: a token whose claims are of other types is no good. Those named in ``keep`` are kept, and
    stored with runs.

    Raises `InvalidInput`, with ``field``, for what is none of these.
    """

    def __init__(
        self,
        verify: Verifier,
        *,
        refused: type[Exception] | tuple[type[Exception], ...] = (),
        id_claim: str = "sub",
        tenant_claim: str | None = None,
        keep: Collection[str] = (),
    ) -> None:
        check_bearer(verify, refused, id_claim, tenant_claim, keep)
        self._verify = verify
        self._refused = refused
        self._id_claim = id_claim
        self._tenant_claim = tenant_claim
        self._keep = frozenset([keep] if isinstance(keep, str) else keep)
        self._in_thread = not (
            inspect.iscoroutinefunction(verify) or inspect.iscoroutinefunction(type(verify).__call__)
        )

    async def principal(self, authorization: str | None) -> Principal | None:
        """Return who asks; None without a bearer token.

        Raises `HTTPError` 401 for a token that is no good (so that nobody goes on as nobody unawares), and
        what the verifier raises.
        """
        if authorization is None or not authorization[:7].lower().startswith("bearer"):
            return None
        match = _HEADER.fullmatch(authorization) if len(authorization) <= _LONGEST else None
        if match is None:
            raise invalid_token()
        verified = await self._ask(match[1])
        if verified is None:
            raise invalid_token()
        return verified if isinstance(verified, Principal) else self._of_claims(verified)

    async def _ask(self, token: str) -> Verified:
        try:
            answer = await asyncio.to_thread(self._verify, token) if self._in_thread else self._verify(token)
            return await answer if inspect.isawaitable(answer) else answer
        except HTTPError:
            raise
        except self._refused as error:
            log.info("a bearer token was refused: %s", type(error).__name__)
            return None

    def _of_claims(self, claims: Mapping[str, Any]) -> Principal:
        name = _text(claims, self._id_claim)
        if not name:
            raise StreamChatError(
                f"the verified claims have no {self._id_claim!r} to name the user by: "
                f"they have {', '.join(sorted(map(str, claims)))}; pass id_claim="
            )
        return Principal(
            name,
            None if self._tenant_claim is None else _text(claims, self._tenant_claim),
            {key: value for key, value in claims.items() if key in self._keep},
            _end(claims),
        )


def _text(claims: Mapping[str, Any], claim: str) -> str | None:
    """Return a claim that is text, or a whole number as some issue them; None where it is not there."""
    value = claims.get(claim)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise _refused(claim, value, "text or a whole number")
    return value


def _end(claims: Mapping[str, Any]) -> float | None:
    """Return ``exp``, a NumericDate (RFC 7519, section 2). What is none must not make a token that never
    ends."""
    value = claims.get("exp")
    if value is None:
        return None
    try:
        end = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        end = math.nan
    if not math.isfinite(end):
        raise _refused("exp", value, "a number of seconds")
    return end


def _refused(claim: str, value: object, needed: str) -> HTTPError:
    log.info(
        "a bearer token was refused: its claim %r is of type %s, not %s", claim, type(value).__name__, needed
    )
    return invalid_token()
