"""What a framework's request and response come to: the two shapes that every adapter translates to and
from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self
from urllib.parse import parse_qs, quote

from streamchat.errors import StreamChatError
from streamchat.events import dump_json

__all__ = ["ByteStream", "ClientGone", "Request", "Response", "json_response"]


class ClientGone(StreamChatError):
    """The client went away while its request was still being read, so nobody waits for an answer."""

    code = "client_gone"


class ByteStream(Protocol):
    """A response body that comes in pieces. Whoever iterates it also closes it, whether it began or not.

    It may also have ``pull() -> bytes | Future | None``: the next piece if it is there, a future for it, or
    None where only ``__anext__`` can tell. The future is awaited before anything else is asked; if its result
    is not bytes, ask again.
    """

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> bytes:
        """Return what is to be sent next, in one write; raises ``StopAsyncIteration`` at the end."""
        ...

    async def aclose(self) -> None:
        """Let go of what stands behind the stream; idempotent, raises nothing."""
        ...


async def _forever() -> None:
    """For a framework that cannot tell whether the client is still there."""
    await asyncio.get_running_loop().create_future()


@dataclass(slots=True)
class Request:
    """An HTTP request as the endpoints see it.

    ``path`` begins with ``/`` and stands below ``mount``, the prefix at which the endpoints are mounted
    (``""`` or ``/chat``). ``query`` is the raw query string. ``headers`` has lowercase names. ``body`` yields
    the body's bytes as they arrive, once; it raises `ClientGone` where the client leaves before the end.
    ``disconnected`` returns when the client has gone; it may only be awaited after the body was read.
    ``streams`` is False where the server cannot send a stream.
    ``native`` is the framework's own object (an ASGI scope, a Django request), for the application's
    ``principal`` function.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]
    disconnected: Callable[[], Awaitable[None]] = _forever
    mount: str = ""
    native: Any = None
    streams: bool = True
    _parameters: dict[str, str] | None = field(default=None, repr=False)

    def parameter(self, name: str) -> str | None:
        """Return a query parameter, the first of its name; None where it is missing or empty."""
        if self._parameters is None:
            try:
                parsed = parse_qs(self.query, max_num_fields=100)
            except ValueError:  # more fields than anyone means
                parsed = {}
            self._parameters = {key: values[0] for key, values in parsed.items()}
        return self._parameters.get(name)

    def url(self, *segments: str) -> str:
        """Return the path of one of our endpoints, mount included, as this client reaches it."""
        return self.mount + "".join("/" + quote(segment, safe="") for segment in segments)


@dataclass(slots=True)
class Response:
    """An HTTP response: ``body`` is bytes, or a stream whose pieces are to be sent as they come."""

    status: int
    body: bytes | ByteStream = b""
    headers: list[tuple[str, str]] = field(default_factory=list)


def json_response(status: int, value: Any, headers: list[tuple[str, str]] | None = None) -> Response:
    """Answer with JSON; ``value`` is what JSON can hold, or bytes that are JSON already."""
    body = value if isinstance(value, bytes) else dump_json(value)
    return Response(
        status,
        body,
        [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            *(headers or ()),
        ],
    )
