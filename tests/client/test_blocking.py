"""The client without a loop: threads that read, wait, leave and close, and functions that take their time."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import anyio.to_thread
import pytest

from streamchat import ServiceLimits, StreamChat
from streamchat.adapters.asgi import asgi_app
from streamchat.client import BlockingStreamChatClient
from streamchat.errors import StreamChatError
from streamchat.testing import ScriptedModel, Stall, Step
from tests.adapters.serving import serve

pytestmark = pytest.mark.anyio

TEXT = "Hello there, this is a longer answer."


def make_app(model: ScriptedModel, **options: Any) -> Any:
    limits = ServiceLimits(drain_seconds=0)
    return asgi_app(StreamChat(model=model, limits=limits, allow_anonymous=True, **options))


async def in_thread(program: Any) -> Any:
    return await anyio.to_thread.run_sync(program)


async def test_closing_tells_other_threads_and_ends_what_they_read() -> None:
    stall = Stall()
    app = make_app(ScriptedModel([Step(TEXT, stall_after=1, stall=stall)]))
    async with serve(app) as port:

        def program() -> list[BaseException]:
            reads, raised = threading.Event(), list[BaseException]()

            def read() -> None:
                try:
                    for event in client.ask("Hi"):
                        if event.type == "text_delta":
                            reads.set()
                except BaseException as error:
                    raised.append(error)

            with BlockingStreamChatClient(f"http://127.0.0.1:{port}") as client:
                thread = threading.Thread(target=read)
                thread.start()
                reads.wait()
            thread.join()
            return raised

        raised = await in_thread(program)
        stall.release()
    assert [type(error) for error in raised] == [StreamChatError]
    assert "closed" in str(raised[0])


async def test_closing_ends_a_call_that_another_thread_waits_for() -> None:
    asked = asyncio.Event()

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    async with serve(silent, lifespan="off") as port:
        client, raised = BlockingStreamChatClient(f"http://127.0.0.1:{port}"), list[BaseException]()

        def call() -> None:
            try:
                client.status("x")
            except BaseException as error:
                raised.append(error)

        await in_thread(client.__enter__)
        thread = threading.Thread(target=call)
        thread.start()
        await asked.wait()
        await in_thread(client.close)
        await in_thread(thread.join)
    assert [type(error) for error in raised] == [StreamChatError]


async def test_an_iterator_left_while_it_waits_raises_what_it_was_left_with() -> None:
    """As Ctrl+C does: raised in the thread that waits, in the middle of the wait."""
    stall = Stall()
    app = make_app(ScriptedModel([Step(TEXT, stall_after=1, stall=stall), TEXT]))
    script = """
import signal, sys
from streamchat.client import BlockingStreamChatClient

with BlockingStreamChatClient(sys.argv[1]) as client:
    try:
        for event in client.ask("Hi"):
            if event.type == "text_delta":
                signal.signal(signal.SIGALRM, signal.default_int_handler)
                signal.setitimer(signal.ITIMER_REAL, 0.5)
    except KeyboardInterrupt:
        print("interrupted", len(client.conversations()["conversations"]))
"""
    async with serve(app) as port:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, f"http://127.0.0.1:{port}", stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        stall.release()
    assert (out, err) == (b"interrupted 1\n", b"")


async def test_a_client_is_entered_once() -> None:
    def program() -> None:
        client = BlockingStreamChatClient("http://127.0.0.1:1")
        with client, pytest.raises(StreamChatError, match="is open"):
            client.__enter__()
        with pytest.raises(StreamChatError, match="was closed"):
            client.__enter__()
        with pytest.raises(StreamChatError, match="was closed"):
            client.status("x")
        with pytest.raises(StreamChatError, match="was closed"):
            next(iter(client.ask("x")))

    await in_thread(program)
