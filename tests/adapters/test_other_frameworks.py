"""The applications of docs/how-to/other-frameworks.md, as they stand there, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from streamchat import Principal, ServiceLimits, StreamChat, owns
from streamchat.core.sse import SSEDecoder
from streamchat.testing import ScriptedModel, Stall, Step
from tests.adapters.serving import fetch, read_until, request, serve
from tests.project.documents import python_blocks
from tests.project.support import ROOT

pytestmark = [
    pytest.mark.anyio,
    # (litestar 2.25 under Python's newest asyncio)
    pytest.mark.filterwarnings("ignore::DeprecationWarning:litestar"),
]

PAGE = ROOT / "docs" / "how-to" / "other-frameworks.md"


def user_of_scope(scope: Any) -> Principal | None:
    names = [value for name, value in scope["headers"] if name == b"x-user"]
    return Principal(names[0].decode()) if names else None


def user_of_request(request: Any) -> Principal | None:
    return Principal(request.headers["X-User"]) if "X-User" in request.headers else None


@asynccontextmanager
async def serve_aiohttp(app: Any) -> AsyncIterator[int]:
    from aiohttp import web

    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


FRAMEWORKS: dict[str, tuple[Any, Callable[[Any], AbstractAsyncContextManager[int]]]] = {
    "starlette": (user_of_scope, serve),
    "litestar": (user_of_scope, serve),
    "aiohttp": (user_of_request, serve_aiohttp),
}


def application(framework: str, chat: StreamChat) -> dict[str, Any]:
    """The block of the page, with ``chat`` and ``user`` given, as a module's names."""
    [block] = [
        block for block in python_blocks(PAGE) if f"from {framework}" in block.code and "app = " in block.code
    ]
    names: dict[str, Any] = {"chat": chat, "user": FRAMEWORKS[framework][0], "__name__": framework}
    exec(block.compiled(), names)
    return names


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_the_application_of_the_page_streams_resumes_and_is_drained(framework: str) -> None:
    stall = Stall()
    model = ScriptedModel([Step("One two three.", stall_after=1, stall=stall)])
    chat = StreamChat(model=model, authorize=owns, limits=ServiceLimits(drain_seconds=0))
    names = application(framework, chat)
    ann = {"X_User": "ann"}
    async with FRAMEWORKS[framework][1](names["app"]) as port:
        assert (await fetch(port, "POST", "/chat/runs", {"message": "Hi"}))[0] == 401
        status, started = await fetch(port, "POST", "/chat/runs", {"message": "Hi"}, **ann)
        url = started["stream_url"]
        assert (status, url) == (201, f"/chat/runs/{started['run_id']}/stream")
        assert (await fetch(port, "GET", f"/chat/runs/{started['run_id']}", X_User="bob"))[0] == 404
        async with request(port, "GET", url, **ann) as connection:
            got = await read_until(connection.blocks(), b"text_delta")
        # (it was left in the middle, which is noticed while nothing is sent)
        inner = names["endpoints"] if "endpoints" in names else names["app"].routes[0].app
        while getattr(inner, "endpoints", inner).open_streams:
            await asyncio.sleep(0.01)
        cursor = SSEDecoder()
        cursor.feed(got)
        stall.release()
        async with request(port, "GET", url, Last_Event_ID=cursor.last_event_id, **ann) as connection:
            rest = await connection.body()
        assert b"run_started" not in rest
        assert rest.count(b"event: finalized") == 1
        async with request(port, "GET", url, **ann) as connection:
            whole = SSEDecoder().feed(await connection.body())
        assert SSEDecoder().feed(got) + SSEDecoder().feed(rest) == whole
        async with request(port, "GET", url, Last_Event_ID=whole[-1].id, **ann) as connection:
            assert connection.status == 204
    assert chat.draining


async def test_aiohttp_sends_readers_away_before_it_waits_for_them() -> None:
    model = ScriptedModel([Step("One two three.", stall_after=1)])
    chat = StreamChat(model=model, allow_anonymous=True, limits=ServiceLimits(drain_seconds=0))
    app = application("aiohttp", chat)["app"]
    serving = serve_aiohttp(app)
    port = await serving.__aenter__()
    _, started = await fetch(port, "POST", "/chat/runs", {"message": "Hi"})
    async with request(port, "GET", started["stream_url"]) as connection:
        blocks = connection.blocks()
        await read_until(blocks, b"text_delta")
        ending = asyncio.create_task(serving.__aexit__(None, None, None))
        await read_until(blocks, b"retry: ")
        assert [block async for block in blocks] == []
    await ending
