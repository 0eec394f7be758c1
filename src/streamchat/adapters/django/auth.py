"""Functions that say who asks, for the setting ``PRINCIPAL``: the session's user, or a bearer token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeAlias, cast

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest

from streamchat.http.bearer import Bearer, Verifier
from streamchat.principal import Principal

__all__ = ["RequestPrincipal", "bearer_principal", "session_user"]

RequestPrincipal: TypeAlias = Callable[[HttpRequest], Awaitable[Principal | None]]


async def session_user(request: HttpRequest) -> Principal | None:
    """Return the session's user as a principal, None for nobody."""
    ask = getattr(request, "auser", None)
    if ask is None:
        raise ImproperlyConfigured(
            "STREAMCHAT has no PRINCIPAL, so the session's user asks: add "
            "django.contrib.auth.middleware.AuthenticationMiddleware to MIDDLEWARE"
        )
    user = await ask()
    return Principal(str(user.pk)) if user.is_authenticated else None


def bearer_principal(
    verify: Verifier,
    *,
    refused: type[Exception] | tuple[type[Exception], ...] = (),
    id_claim: str = "sub",
    tenant_claim: str | None = None,
    keep: Collection[str] = (),
) -> RequestPrincipal:
    """Return who asks by ``Authorization: Bearer …``; arguments as `streamchat.http.bearer.Bearer`.

    No token is nobody (401, unless the service allows anonymous users), a bad one is 401 in any case. Streams
    end when the token does (claim ``exp``); the client comes back with a new one. Who has no cookie has
    no CSRF token either: route to ``csrf_exempt(endpoint)`` then.
    """
    bearer = Bearer(verify, refused=refused, id_claim=id_claim, tenant_claim=tenant_claim, keep=keep)

    async def principal(request: HttpRequest) -> Principal | None:
        headers = cast("Mapping[str, str]", request.headers)
        return await bearer.principal(headers.get("Authorization"))

    return principal
