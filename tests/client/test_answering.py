"""The Python client answers each question of a run once, however often it is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from streamchat import ServiceLimits, StoredEvent, StreamChat, ToolRegistry
from streamchat.adapters.asgi import asgi_app
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.client import BlockingStreamChatClient, Reset, ServerUnreachable, StreamChatClient
from streamchat.events import ToolResult
from streamchat.service.log import read_log
from streamchat.service.supervisor import Supervisor
from streamchat.testing import Call, ScriptedModel, Step
from tests.adapters.serving import serve

pytestmark = pytest.mark.anyio


def make_app(path: Path, second: str, **options: Any) -> Any:
    """One step calls a tool of the client, and a ``second`` one: of the client too, or to be approved."""
    tools = ToolRegistry()

    @tools.tool(client_side=True)
    def charge() -> str | None:
        """Take money."""

    @tools.tool(client_side=True)
    def book() -> str | None:
        """Take a seat."""

    @tools.tool(requires_approval=True)
    async def pay() -> str:
        return "paid"

    chat = StreamChat(
        model=ScriptedModel([Step(calls=[Call("charge"), Call(second)]), "done"]),
        tools=tools,
        allow_anonymous=True,
        limits=ServiceLimits(drain_seconds=0),
        buffer=SQLEventBuffer(f"sqlite:///{path / 'runs.db'}"),
        **options,
    )
    return asgi_app(chat)


async def whole(client: StreamChatClient, run_id: str) -> list[StoredEvent | Reset]:
    """Read a run from its beginning to its end."""
    async with aclosing(client.stream(run_id)) as items:
        return [item async for item in items]


class Late:
    """While it holds, a run hears of its answers when the client has asked once more what it waits for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.holds = False
        self.run_id = ""
        self._loop = asyncio.get_running_loop()
        self._held: list[Callable[[], None]] = []
        poke, status = Supervisor.poke, StreamChatClient.status

        def late(supervisor: Supervisor, *run: Any) -> None:
            if self.holds:
                self._held.append(lambda: poke(supervisor, *run))
            else:
                poke(supervisor, *run)

        async def seen(client: StreamChatClient, run_id: str) -> dict[str, Any]:
            self.run_id = run_id
            answer = await status(client, run_id)
            if self._held:
                self.let_go()
            return answer

        monkeypatch.setattr(Supervisor, "poke", late)
        monkeypatch.setattr(StreamChatClient, "status", seen)

    def let_go(self) -> None:
        """Tell the runs now; the loop of a blocking client is not the service's."""
        self.holds = False
        while self._held:
            self._loop.call_soon_threadsafe(self._held.pop())

    async def suspended_again(self, app: Any) -> None:
        """Wait until the run has taken the first answer and waits for the second."""
        while True:
            events = await read_log(app.endpoints.chat.buffer, self.run_id)
            if [event.type for event in events].count("suspended") > 1:
                self.holds = True
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    return Late(monkeypatch)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("second", ["book", "pay"])
async def test_an_answer_that_takes_long_is_given_once_though_the_run_was_suspended_again_meanwhile(
    tmp_path: Path, late: Late, second: str, streaming: bool
) -> None:
    """The first answer wakes the run, which asks for the second again while that is being made."""
    app = make_app(tmp_path, second, streaming=lambda principal: streaming)
    given: list[str] = []

    def charge() -> str:
        given.append("charge")
        return "charged"

    async def book() -> str:
        given.append("book")
        await late.suspended_again(app)
        return f"booked {len(given)}"  # (another one each time)

    async def approve(asked: Any) -> bool:
        given.append(asked.name)
        await late.suspended_again(app)
        return True

    async with (
        serve(app) as port,
        StreamChatClient(
            f"http://127.0.0.1:{port}", tools={"charge": charge, "book": book}, approve=approve
        ) as client,
        aclosing(client.ask("Hi")) as events,
    ):
        types = [event.type async for event in events]
    assert given == ["charge", second]
    assert types.count("suspended") == 2
    assert types[-1] == "finalized"


async def test_of_two_readings_of_one_run_one_alone_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(tmp_path, "book")
    given: list[str] = []
    charging, charged = asyncio.Event(), asyncio.Event()

    async def charge() -> str:
        given.append("charge")
        charging.set()
        await charged.wait()
        return "charged"

    def book() -> str:
        given.append("book")
        return "booked"

    async with (
        serve(app) as port,
        StreamChatClient(f"http://127.0.0.1:{port}", tools={"charge": charge, "book": book}) as client,
    ):
        run_id = (await client.start("Hi")).run_id

        first = asyncio.create_task(whole(client, run_id))
        await charging.wait()
        # The second is told of the open call too, asks what the run waits for, and leaves it to the first.
        asked = asyncio.Event()
        status = client.status

        async def seen(run_id: str) -> dict[str, Any]:
            answer = await status(run_id)
            asked.set()
            return answer

        monkeypatch.setattr(client, "status", seen)
        second = asyncio.create_task(whole(client, run_id))
        await asked.wait()
        charged.set()
        for items in await asyncio.gather(first, second):
            assert items[-1].type == "finalized"
    assert given == ["charge", "book"]


async def test_a_result_that_could_not_be_sent_is_sent_again_and_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(tmp_path, "book")
    given: list[str] = []
    submit = StreamChatClient.submit_tool_result

    async def unreachable(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(StreamChatClient, "submit_tool_result", submit)
        raise ServerUnreachable("it is away")

    def charge() -> str:
        given.append("charge")
        return f"charged {len(given)}"

    async with (
        serve(app) as port,
        StreamChatClient(
            f"http://127.0.0.1:{port}", tools={"charge": charge, "book": lambda: "booked"}
        ) as client,
    ):
        run_id = (await client.start("Hi")).run_id
        monkeypatch.setattr(StreamChatClient, "submit_tool_result", unreachable)
        with pytest.raises(ServerUnreachable):
            await whole(client, run_id)
        events = [item.event for item in await whole(client, run_id) if isinstance(item, StoredEvent)]
    assert given == ["charge"]
    assert [event.output for event in events if isinstance(event, ToolResult)] == ["charged 1", "booked"]


async def test_a_blocking_client_answers_once_too(tmp_path: Path, late: Late) -> None:
    app = make_app(tmp_path, "book")
    given: list[str] = []
    async with serve(app) as port:
        loop = asyncio.get_running_loop()

        def charge() -> str:
            given.append("charge")
            return "charged"

        def book() -> str:
            given.append("book")
            asyncio.run_coroutine_threadsafe(late.suspended_again(app), loop).result()
            return f"booked {len(given)}"

        def program() -> list[str]:
            tools = {"charge": charge, "book": book}
            with BlockingStreamChatClient(f"http://127.0.0.1:{port}", tools=tools) as client:
                return [event.type for event in client.ask("Hi")]

        types = await anyio.to_thread.run_sync(program)
    assert given == ["charge", "book"]
    assert types.count("suspended") == 2
    assert types[-1] == "finalized"


@pytest.mark.parametrize("leaves", [False, True])
async def test_who_comes_back_from_before_the_question_is_not_asked_it_again(
    tmp_path: Path, late: Late, leaves: bool
) -> None:
    """What waits is answered at once; that it waited is read then, maybe by another iterator."""
    app = make_app(tmp_path, "pay")
    given: list[str] = []

    def charge() -> str:
        given.append("charge")
        return "charged"

    def approve(asked: Any) -> bool:
        given.append(asked.name)
        return True

    async with serve(app) as port:
        url = f"http://127.0.0.1:{port}"
        async with StreamChatClient(url) as before:
            async with aclosing(before.ask("Hi")) as events:
                read = []
                async for event in events:
                    read.append(event)
                    if event.type == "suspended":
                        break
            run_id = (await before.conversations())["conversations"][0]["active_run_id"]
        late.holds = True
        async with StreamChatClient(url, tools={"charge": charge}, approve=approve) as client:
            after = read[-2].id
            if leaves:
                async with aclosing(client.stream(run_id, after)) as events:
                    assert (await anext(events)).type == "suspended"
                assert given == ["charge", "pay"]
            async with aclosing(client.stream(run_id, after)) as events:
                types = [event.type async for event in events]
    assert given == ["charge", "pay"]
    assert types[-1] == "finalized"
