"""Functions that say who asks, for ``asgi_app(chat, principal=…)``: by a bearer token, or by what a
middleware put into the scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeAlias

from streamchat.adapters.asgi.responses import Scope
from streamchat.errors import StreamChatError
from streamchat.http.bearer import Bearer, Verifier
from streamchat.http.given import check_identify, check_key
from streamchat.principal import Principal

__all__ = ["ScopePrincipal", "bearer_principal", "session_principal", "user_principal"]

ScopePrincipal: TypeAlias = Callable[[Scope], Awaitable[Principal | None]]


def bearer_principal(
    verify: Verifier,
    *,
    refused: type[Exception] | tuple[type[Exception], ...] = (),
    id_claim: str = "sub",
    tenant_claim: str | None = None,
    keep: Collection[str] = (),
) -> ScopePrincipal:
    """Return who asks by ``Authorization: Bearer …``; arguments as `streamchat.http.bearer.Bearer`.

    No token is nobody (401, unless the service allows anonymous users), a bad one is 401 in any case. Streams
    end when the token does (claim ``exp``); the client comes back with a new one.
    """
    bearer = Bearer(verify, refused=refused, id_claim=id_claim, tenant_claim=tenant_claim, keep=keep)

    async def principal(scope: Scope) -> Principal | None:
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        return await bearer.principal(b", ".join(given).decode("latin-1") if given else None)

    return principal


def session_principal(key: str = "user_id", *, tenant_key: str | None = None) -> ScopePrincipal:
    """Return who asks by what the application wrote into the session under ``key`` at sign-in.

    The session is the scope's, as Starlette's ``SessionMiddleware`` (or one like it) puts it there; a missing
    middleware is an error, an empty session is nobody. Raises `InvalidInput` for a key that is no text.
    """
    check_key("key", key)
    check_key("tenant_key", tenant_key, none=True)

    async def principal(scope: Scope) -> Principal | None:
        session = _given(scope, "session", "SessionMiddleware")
        name = session.get(key)
        if name is None:
            return None
        tenant = session.get(tenant_key) if tenant_key is not None else None
        return Principal(str(name), None if tenant is None else str(tenant))

    return principal


def user_principal(identify: Callable[[Any], Any] | None = None) -> ScopePrincipal:
    """Return who asks by the scope's ``user``, as Starlette's ``AuthenticationMiddleware`` puts it there.

    ``identify(user)`` names a user who is signed in (by default ``user.identity``), or returns a `Principal`.
    Raises `InvalidInput` for what is no function.
    """
    check_identify(identify)

    async def principal(scope: Scope) -> Principal | None:
        user = _given(scope, "user", "AuthenticationMiddleware")
        if not user.is_authenticated:
            return None
        try:
            name = user.identity if identify is None else identify(user)
        except NotImplementedError:
            name = None
        if name is None or name == "":  # whoever else has none would be the same user
            raise StreamChatError(
                f"{type(user).__name__} has no identity: pass user_principal(identify=lambda user: …)"
            )
        return name if isinstance(name, Principal) else Principal(str(name))

    return principal


def _given(scope: Scope, name: str, middleware: str) -> Any:
    try:
        return scope[name]
    except KeyError:
        raise StreamChatError(f"the scope has no {name!r}: put the application behind {middleware}") from None
