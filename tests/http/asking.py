"""Asks `Endpoints` without a server: a request made by hand, the response's body collected."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from streamchat.core.sse import Frame, SSEDecoder
from streamchat.http import Endpoints, HTTPOptions, Request, Response
from streamchat.principal import Principal
from streamchat.service.access import owns
from streamchat.service.chat import StreamChat
from streamchat.testing import ScriptedModel


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json()["error"]
        return error

    @property
    def frames(self) -> list[Frame]:
        return SSEDecoder().feed(self.body)


async def blocks_of(blocks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


def make_request(
    method: str,
    target: str,
    *,
    json: Any = None,
    body: bytes | Sequence[bytes] | None = None,
    headers: dict[str, str] | None = None,
    user: str | None = None,
    mount: str = "",
) -> Request:
    path, _, query = target.partition("?")
    given = {"host": "test", **{name.lower(): value for name, value in (headers or {}).items()}}
    if json is not None:
        body = _dumps(json)
    if body is not None:
        given.setdefault("content-type", "application/json")
    blocks = [body] if isinstance(body, bytes) else list(body or ())
    return Request(method, path, query, given, blocks_of(blocks), mount=mount, native=user)


def _dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


async def collect(response: Response) -> Answer:
    body = response.body
    if not isinstance(body, bytes):
        try:
            body = b"".join([block async for block in body])
        finally:
            await response.body.aclose()  # type: ignore[union-attr]
    return Answer(response.status, dict(response.headers), body)


async def ask(endpoints: Endpoints, method: str, target: str, **request: Any) -> Answer:
    return await collect(await endpoints.handle(make_request(method, target, **request)))


def who(request: Request) -> Principal | None:
    """Tests put the user's name in place of the framework's request."""
    return Principal(request.native) if request.native is not None else None


@asynccontextmanager
async def serving(
    model: ScriptedModel | None = None,
    *,
    options: HTTPOptions | None = None,
    users: bool = False,
    **chat: Any,
) -> AsyncIterator[Endpoints]:
    """Endpoints over a service of its own, whose model says ``Hello there.`` each time."""
    model = model or ScriptedModel.text("Hello there.", repeat=True)
    known: dict[str, Any] = {"authorize": owns} if users else {"allow_anonymous": True}
    async with StreamChat(model=model, **{**known, **chat}) as service:
        yield Endpoints(service, principal=who if users else None, options=options)
