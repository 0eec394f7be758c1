"""Checks of what a program gives the client: each raises `InvalidInput` with the field, the value and what to
give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from streamchat.core.given import check_callable, check_instance, check_number
from streamchat.errors import InvalidInput

__all__ = ["check_client", "check_headers", "check_message", "check_text", "check_url"]


def check_client(patience: object, headers: object, tools: object, approve: object, http: object) -> None:
    """Raise for what no client can be made with; headers one by one are looked at where they are sent."""
    check_number("patience", patience, least=0)
    if not callable(headers):
        check_headers(headers)
    check_instance("tools", tools, Mapping, "a dict of functions by name", none=True)
    if isinstance(tools, Mapping):
        for name, function in tools.items():
            check_text("tools", name)
            check_callable(f"tools.{name}", function, "a function")
    check_callable("approve", approve, "a function", none=True)
    check_instance("http", http, httpx2.AsyncClient, "an httpx2.AsyncClient", none=True)


def check_headers(headers: object) -> None:
    """Raise for what are no headers; their values are not told."""
    check_instance(
        "headers", headers, Mapping, "a dict, or a function that returns one", none=True, secret=True
    )


def check_message(message: object) -> None:
    """Raise for what is neither text nor parts."""
    check_instance("message", message, (str, Sequence), "text, or a list of parts")
    if not isinstance(message, str) and isinstance(message, Sequence):
        for part in message:
            check_instance("message", part, Mapping, "text, or a list of parts, which are dicts")


def check_text(field: str, value: object) -> None:
    """Raise for what is no text."""
    check_instance(field, value, str, "text")


def check_url(url: Any) -> str:
    """Return a server's URL without its last slash; raise for what is none."""
    check_text("url", url)
    if not url.startswith(("http://", "https://")):
        raise InvalidInput(f"{url!r} is no URL of a server: it begins with http:// or https://", field="url")
    try:
        host = httpx2.URL(url).host
    except (httpx2.InvalidURL, ValueError) as error:
        raise InvalidInput(f"{url!r} is no URL of a server: {error}", field="url") from error
    if not host:
        raise InvalidInput(f"{url!r} is no URL of a server: it names no host", field="url")
    return str(url).rstrip("/")
