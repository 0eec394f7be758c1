"""Checks of what an application gives adapters: each raises `InvalidInput` with the field, the value and what
to give."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Any

from streamchat.core.given import check_callable, check_flag, check_instance, check_names
from streamchat.errors import InvalidInput
from streamchat.http.limits import HTTPOptions
from streamchat.http.routing import Route
from streamchat.service.chat import StreamChat

__all__ = [
    "check_app",
    "check_bearer",
    "check_chat",
    "check_draining",
    "check_events",
    "check_identify",
    "check_key",
    "check_principal",
    "check_routes",
]


def check_app(field: str, app: object) -> None:
    """Raise for what is no application."""
    check_callable(field, app, "an ASGI application")


def check_bearer(
    verify: object, refused: object, id_claim: object, tenant_claim: object, keep: object
) -> None:
    """Raise for what makes no principals of tokens."""
    check_callable("verify", verify, "a function that is given a token and returns its claims, or None")
    kinds: tuple[Any, ...] = refused if isinstance(refused, tuple) else (refused,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise InvalidInput(
                f"refused={refused!r:.100} is none: give a class of exceptions, or a tuple of them",
                field="refused",
            )
    check_instance("id_claim", id_claim, str, "a claim's name")
    check_instance("tenant_claim", tenant_claim, str, "a claim's name, or None", none=True)
    if not isinstance(keep, str):
        check_names("keep", keep, "a list of claims' names")


def check_chat(chat: object) -> None:
    """Raise for what is no service."""
    check_instance("chat", chat, StreamChat, "a StreamChat")


def check_draining(drain_on_sigterm: object) -> None:
    """Raise for what is neither True nor False."""
    check_flag("drain_on_sigterm", drain_on_sigterm)


def check_events(events: object, options: object, wire: object) -> None:
    """Raise for what cannot be streamed."""
    check_instance("events", events, AsyncIterable, "what orchestrate(…) returns")
    check_instance("options", options, HTTPOptions, "HTTPOptions(…)", none=True)
    if isinstance(wire, type) or not hasattr(wire, "media_type"):
        raise InvalidInput(
            f"wire={wire!r:.100} is no wire: give one of streamchat.wire, such as NATIVE", field="wire"
        )


def check_identify(identify: object) -> None:
    """Raise for what cannot name a user."""
    check_callable("identify", identify, "a function that is given the user and names it", none=True)


def check_key(field: str, key: object, *, none: bool = False) -> None:
    """Raise for what is no key of a session."""
    check_instance(field, key, str, "a key of the session", none=none)


def check_principal(principal: object) -> None:
    """Raise for what cannot say who asks."""
    check_callable(
        "principal", principal, "a function that returns a Principal, or None for nobody", none=True
    )


def check_routes(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Return routes, which may be given once only; raise for what is none."""
    check_instance("routes", routes, Iterable, "a list of Route(…)")
    given = tuple(routes)
    for route in given:
        check_instance("routes", route, Route, "a list of Route(…)")
    return given
