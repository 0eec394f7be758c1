"""The client without a loop: threads that read, wait, leave and close, and functions that take their time."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import anyio.to_thread
import pytest

from streamchat import ServiceLimits, StreamChat, ToolRegistry
from streamchat.adapters.asgi import asgi_app
from streamchat.client import BlockingStreamChatClient
from streamchat.errors import StreamChatError
from streamchat.testing import Call, ScriptedModel, Stall, Step
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


def make_tools() -> ToolRegistry:
    tools = ToolRegistry()

    @tools.tool(requires_approval=True)
    async def pay() -> str:
        return "paid"

    @tools.tool(client_side=True)
    async def local() -> str:
        raise NotImplementedError

    return tools


def calling(request: Any) -> Step:
    """Call the tool that the user names, then tell what it said."""
    last = request.messages[-1]
    return Step(calls=[Call(str(last.content))]) if last.role == "user" else Step(str(last.content))


async def test_functions_of_the_client_may_wait_and_use_the_client() -> None:
    async with serve(make_app(ScriptedModel(calling), tools=make_tools())) as port:

        def program() -> list[Any]:
            elsewhere, said = threading.Event(), list[Any]()

            def approve(asked: Any) -> bool:
                assert elsewhere.wait(60), "the other thread's call waits for this one"
                return True

            def local() -> str:
                return str(len(client.conversations()["conversations"]))

            def headers() -> dict[str, str]:
                return {"x-thread": str(threading.get_ident())}

            def other() -> None:
                client.conversations()
                elsewhere.set()

            with BlockingStreamChatClient(
                f"http://127.0.0.1:{port}", approve=approve, tools={"local": local}, headers=headers
            ) as client:
                thread = threading.Thread(target=other)
                types = []
                for event in client.ask("pay"):
                    types.append(event.type)
                    if event.type == "approval_requested":
                        thread.start()
                thread.join()
                said.append(types[-1])
                said.append(client.reply("local")["message"]["content"][-1]["text"])
            return said

        assert await in_thread(program) == ["finalized", "2"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, StopIteration, KeyError])
async def test_what_approve_raises_is_raised_where_the_run_is_read(error: type[BaseException]) -> None:
    async with serve(make_app(ScriptedModel(calling), tools=make_tools())) as port:

        def program() -> str:
            def approve(asked: Any) -> bool:
                raise error("no")

            with BlockingStreamChatClient(f"http://127.0.0.1:{port}", approve=approve) as client:
                with pytest.raises(RuntimeError if error is StopIteration else error):
                    list(client.ask("pay"))
                return str(client.conversations()["conversations"][0]["id"])

        assert await in_thread(program)


async def test_an_async_function_that_waits_for_its_own_client_is_told() -> None:
    async with serve(make_app(ScriptedModel(calling), tools=make_tools())) as port:

        def program() -> str:
            async def local() -> Any:
                return client.conversations()

            with BlockingStreamChatClient(f"http://127.0.0.1:{port}", tools={"local": local}) as client:
                return str(client.reply("local")["message"]["content"][-1]["text"])

        assert "cannot wait" in await in_thread(program)
