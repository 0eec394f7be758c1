"""A `StreamChat` in an event loop that is not the one it was opened in: it says so, and does not hang."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from streamchat import Principal, StreamChat, StreamChatError, owns
from streamchat.adapters.fastapi import chat_router
from streamchat.testing import ScriptedModel

ANN = Principal("ann")


def make_chat() -> StreamChat:
    return StreamChat(model=ScriptedModel.text("Hello there.", repeat=True), authorize=owns)


@pytest.fixture
def elsewhere() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def listed(chat: StreamChat) -> None:
    await chat.conversations(ANN)


async def read(chat: StreamChat) -> None:
    async with chat.attach("none", principal=ANN):
        pass


VERBS: list[Callable[[StreamChat], Awaitable[Any]]] = [
    lambda chat: chat.open(),
    lambda chat: chat.drain(),
    lambda chat: chat.close(),
    lambda chat: chat.start(None, "Hi", ANN),
    lambda chat: chat.reply(None, "Hi", ANN),
    lambda chat: chat.cancel("none", ANN),
    lambda chat: chat.retry("none", principal=ANN),
    lambda chat: chat.status("none", ANN),
    lambda chat: chat.resolve_approval("none", "call", True, principal=ANN),
    lambda chat: chat.complete_job("run:call", 1),
    read,
    listed,
]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_another_loop_is_refused_with_the_remedy(
    verb: Callable[[StreamChat], Awaitable[Any]], elsewhere: asyncio.AbstractEventLoop
) -> None:
    chat = make_chat()
    asyncio.run_coroutine_threadsafe(chat.open(), elsewhere).result()
    try:

        async def here() -> None:
            with pytest.raises(
                StreamChatError, match="was opened in another event loop: one works for one loop"
            ):
                await verb(chat)

        asyncio.run(here())
        started = asyncio.run_coroutine_threadsafe(chat.reply(None, "Hi", ANN), elsewhere).result()
        assert started.status == "success"
    finally:
        asyncio.run_coroutine_threadsafe(chat.close(), elsewhere).result()


def test_a_loop_that_has_ended_is_told_from_one_that_runs() -> None:
    chat = make_chat()

    async def opened() -> None:
        await chat.open()

    async def again() -> None:
        with pytest.raises(StreamChatError, match="another event loop, which has ended"):
            await chat.start(None, "Hi", ANN)

    asyncio.run(opened())
    asyncio.run(again())


def test_one_that_was_closed_works_for_the_next_loop() -> None:
    chat = make_chat()

    async def once() -> None:
        async with chat:
            assert (await chat.reply(None, "Hi", ANN)).status == "success"

    asyncio.run(once())
    asyncio.run(once())


def test_a_test_client_that_makes_a_loop_for_each_request_is_told_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def make_app() -> FastAPI:
        chat = make_chat()
        app = FastAPI(lifespan=chat.lifespan)
        app.include_router(chat_router(chat, principal=lambda: ANN))
        return app

    with TestClient(make_app()) as client:  # one loop for all
        for _ in range(2):
            assert client.post("/runs/reply", json={"message": "Hi"}).json()["status"] == "success"
    client = TestClient(make_app())
    client.get("/conversations")
    refused = client.post("/runs/reply", json={"message": "Hi"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "internal_error")
    assert "with TestClient(app) as client:" in caplog.text
