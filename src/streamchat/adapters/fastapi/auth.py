"""Dependencies that say who asks, for ``chat_router(chat, principal=…)`` and for the application's own
routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, HTTPException
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer

from streamchat.adapters.asgi import auth
from streamchat.http import HTTPError
from streamchat.http.bearer import Verifier
from streamchat.principal import Principal

__all__ = ["PrincipalDependency", "Refused", "bearer_principal", "session_principal", "user_principal"]

PrincipalDependency: TypeAlias = Callable[..., Awaitable[Principal | None]]


class _Shown(HTTPBearer):
    """Only so that the OpenAPI document shows where the token goes; FastAPI's own asks no WebSocket."""

    async def __call__(self, connection: HTTPConnection) -> None:
        """Leave the header to whoever judges it."""


_scheme = _Shown(scheme_name="HTTPBearer", auto_error=False)


class Refused(HTTPException):
    """A bad token, for FastAPI; `chat_router` answers ``error`` as it answers all that goes wrong."""

    def __init__(self, error: HTTPError) -> None:
        super().__init__(error.status, error.message, dict(error.headers))
        self.error = error


def bearer_principal(
    verify: Verifier,
    *,
    refused: type[Exception] | tuple[type[Exception], ...] = (),
    id_claim: str = "sub",
    tenant_claim: str | None = None,
    keep: Collection[str] = (),
) -> PrincipalDependency:
    """Return who asks by ``Authorization: Bearer …``; arguments as `streamchat.http.bearer.Bearer`.

    No token is nobody (401, unless the service allows anonymous users), a bad one is 401 in any case. Streams
    end when the token does (claim ``exp``); the client comes back with a new one.
    """
    of_scope = auth.bearer_principal(
        verify, refused=refused, id_claim=id_claim, tenant_claim=tenant_claim, keep=keep
    )

    async def principal(
        connection: HTTPConnection, shown: Annotated[None, Depends(_scheme)]
    ) -> Principal | None:
        try:
            return await of_scope(connection.scope)
        except HTTPError as error:
            raise Refused(error) from error

    return principal


def session_principal(key: str = "user_id", *, tenant_key: str | None = None) -> PrincipalDependency:
    """Return who asks by what the application wrote into ``request.session[key]`` at sign-in.

    Needs Starlette's ``SessionMiddleware``, or one like it; an empty session is nobody.
    """
    return _of(auth.session_principal(key, tenant_key=tenant_key))


def user_principal(identify: Callable[[Any], Any] | None = None) -> PrincipalDependency:
    """Return who asks by ``request.user``, as Starlette's ``AuthenticationMiddleware`` knows them.

    ``identify(user)`` names a user who is signed in (by default ``user.identity``), or returns a `Principal`.
    """
    return _of(auth.user_principal(identify))


def _of(of_scope: auth.ScopePrincipal) -> PrincipalDependency:
    async def principal(connection: HTTPConnection) -> Principal | None:
        return await of_scope(connection.scope)

    return principal
