"""`event_response`: a bare ``orchestrate(…)`` over a real connection, without service or buffer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from streamchat.adapters.asgi import event_response
from streamchat.core.lifecycle import check_log
from streamchat.core.sse import SSEDecoder
from streamchat.events import RunStarted, StreamEvent, parse_event
from streamchat.orchestrator import orchestrate
from streamchat.testing import ScriptedModel, Stall, Step
from tests.adapters.serving import read_until, request, serve

pytestmark = pytest.mark.anyio


async def test_a_bare_run_is_streamed_as_it_goes() -> None:
    stall = Stall()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        model = ScriptedModel([Step("Hello there.", stall_after=1, stall=stall)])
        await event_response(orchestrate(model, "Hi"))(scope, receive, send)

    async with serve(app, lifespan="off") as port, request(port, "GET", "/") as connection:
        assert (connection.status, connection.headers["x-accel-buffering"]) == (200, "no")
        blocks = connection.blocks()
        got = await read_until(blocks, b"text_delta")
        stall.release()
        got += await read_until(blocks, b"finalized")
        check_log([parse_event(frame.data) for frame in SSEDecoder().feed(got)])
        with pytest.raises(StopAsyncIteration):
            await anext(blocks)


async def test_the_generator_is_closed_when_the_client_leaves() -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[StreamEvent, None]:
        try:
            yield RunStarted(run_id="r")
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await event_response(events())(scope, receive, send)

    async with serve(app, lifespan="off") as port:
        async with request(port, "GET", "/") as connection:
            await read_until(connection.blocks(), b"run_started")
        await closed.wait()


async def test_a_cancelled_server_task_closes_the_generator_and_stays_cancelled() -> None:
    closed = asyncio.Event()
    begun = asyncio.Event()

    async def events() -> AsyncGenerator[StreamEvent, None]:
        try:
            yield RunStarted(run_id="r")
            begun.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def send(message: Any) -> None:
        pass

    async def receive() -> Any:
        await asyncio.Event().wait()

    task = asyncio.create_task(event_response(events())({}, receive, send))  # type: ignore[arg-type]
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()


async def test_a_server_that_raises_for_a_client_that_has_gone_is_no_error() -> None:
    async def events() -> AsyncGenerator[StreamEvent, None]:
        while True:
            yield RunStarted(run_id="r")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client has gone")

    async def receive() -> Any:
        await asyncio.Event().wait()

    await event_response(events())({}, receive, send)
