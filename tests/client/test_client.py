"""The Python client against a real server, over connections that are cut, refused and redirected in time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio.to_thread
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamchat import Principal, ServiceLimits, StreamChat, ToolRegistry, fold, owns
from streamchat.adapters.asgi import asgi_app
from streamchat.client import (
    BlockingStreamChatClient,
    ClientError,
    Reset,
    ServerUnreachable,
    StreamChatClient,
)
from streamchat.client.connection import Patience
from streamchat.errors import InvalidInput, StreamChatError
from streamchat.http import HTTPOptions
from streamchat.http.errors import HTTPError
from streamchat.testing import Call, ScriptedModel, Stall, Step
from tests.adapters.serving import serve
from tests.client.cutting import cutting

pytestmark = pytest.mark.anyio

TEXT = "Hello there, this is a longer answer."


def make_app(model: ScriptedModel | None = None, **options: Any) -> Any:
    model = model or ScriptedModel.text(TEXT, repeat=True)
    settings: dict[str, Any] = {"limits": ServiceLimits(drain_seconds=0), "allow_anonymous": True}
    principal = options.pop("principal", None)
    return asgi_app(StreamChat(model=model, **{**settings, **options}), principal=principal)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between tries are not what is looked at here; how long they get is counted."""

    async def wait(self: Patience, reason: object, least: float = 0.0) -> None:
        tries[0] += 1
        if tries[0] > 60:
            raise ServerUnreachable(f"enough: {reason}")
        await asyncio.sleep(0)

    tries = [0]
    monkeypatch.setattr(Patience, "wait", wait)


async def collect(events: Any) -> list[Any]:
    async with aclosing(events):
        return [event async for event in events]


def text(events: list[Any]) -> str:
    return fold([event.event for event in events]).text


async def test_asking_brings_the_answer_and_ends() -> None:
    async with serve(make_app()) as port, StreamChatClient(f"http://127.0.0.1:{port}/") as client:
        events = await collect(client.ask("Hi"))
        assert events[-1].type == "finalized"
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert text(events) == TEXT
        reply = await client.reply("Hi again")
        assert reply["message"]["content"][0]["text"] == TEXT
        # From the middle: what is behind the cursor, and no more.
        run_id = events[0].event.run_id
        assert await collect(client.stream(run_id, events[2].id)) == events[3:]
        assert await collect(client.stream(run_id, events[-1].id)) == []


async def test_a_conversation_goes_on_and_can_be_listed_and_read() -> None:
    async with serve(make_app()) as port, StreamChatClient(f"http://127.0.0.1:{port}") as client:
        started = await client.start("One", metadata={"page": 1})
        await collect(client.stream(started.run_id))
        await collect(client.ask("Two", conversation_id=started.conversation_id))
        page = await client.messages(started.conversation_id)
        assert [message["role"] for message in page["messages"]] == ["user", "assistant"] * 2
        page = await client.messages(started.conversation_id, limit=1)
        rest = await client.messages(started.conversation_id, after=page["next"])
        assert len(rest["messages"]) == 3


async def test_cut_at_every_byte_the_client_yields_each_event_once() -> None:
    async with serve(make_app()) as port:
        async with StreamChatClient(f"http://127.0.0.1:{port}") as client:
            started = await client.start("Hi")
            whole = await collect(client.stream(started.run_id))
        # Whatever the cut leaves of an answer: nothing, half a head, half a frame, a head without a body.
        for step in (150, 333, 701):
            limits = itertools.chain(range(0, 4000, step), itertools.repeat(None))
            async with cutting(port, limits) as (cut_port, proxy):
                async with StreamChatClient(f"http://127.0.0.1:{cut_port}") as client:
                    assert await collect(client.stream(started.run_id)) == whole
                assert proxy.connections > 2


@settings(max_examples=6)
@given(st.lists(st.integers(0, 3000), max_size=6))
def test_whatever_is_cut_the_events_are_those_of_the_log(cuts: list[int]) -> None:
    async def run() -> None:
        async with (
            serve(make_app()) as port,
            cutting(port, iter([*cuts, None])) as (cut_port, _),
            StreamChatClient(f"http://127.0.0.1:{cut_port}") as client,
        ):
            events = await collect(client.ask("Hi"))
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert text(events) == TEXT
            # A start whose answer was lost started one run all the same.
            assert len((await client.conversations())["conversations"]) == 1

    asyncio.run(run())


async def test_the_server_goes_away_in_mid_answer_and_comes_back() -> None:
    stall = Stall()
    app = make_app(ScriptedModel([Step(TEXT, stall_after=2, stall=stall)]))
    async with (
        serve(app) as port,
        cutting(port, iter([])) as (cut_port, proxy),
        StreamChatClient(f"http://127.0.0.1:{cut_port}") as client,
    ):
        events = []
        async with aclosing(client.ask("Hi")) as answer:
            async for event in answer:
                events.append(event)
                if event.type == "text_delta" and proxy.connections < 3:
                    proxy.cut(refusals=3)
                    stall.release()
        assert text(events) == TEXT
        assert proxy.refusals == 0


async def test_leaving_early_closes_the_connection_and_leaves_the_run_alone() -> None:
    stall = Stall()
    app = make_app(ScriptedModel([Step(TEXT, stall_after=1, stall=stall)]))
    async with serve(app) as port, StreamChatClient(f"http://127.0.0.1:{port}") as client:
        async with aclosing(client.ask("Hi")) as answer:
            async for event in answer:
                if event.type == "text_delta":
                    break
        run_id = (await client.conversations())["conversations"][0]["active_run_id"]
        stall.release()
        assert (await collect(client.stream(run_id)))[-1].event.status == "success"


async def test_a_cancel_reaches_the_run() -> None:
    stall = Stall()
    app = make_app(ScriptedModel([Step(TEXT, stall_after=1, stall=stall)]))
    async with serve(app) as port, StreamChatClient(f"http://127.0.0.1:{port}") as client:
        started, events_seen = await client.start("Hi"), list[Any]()
        async with aclosing(client.stream(started.run_id)) as events:
            async for event in events:
                if event.type == "text_delta":
                    await client.cancel(started.run_id, "enough")
                events_seen.append(event)
        assert events_seen[-1].event.status == "cancelled"
        await client.cancel(started.run_id)


async def test_who_takes_long_to_approve_is_not_kept_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has ended the stream meanwhile, and asked to come back late."""
    pauses: list[float] = []

    async def wait(self: Patience, reason: object, least: float = 0.0) -> None:
        pauses.append(least)

    monkeypatch.setattr(Patience, "wait", wait)
    tools = ToolRegistry()

    @tools.tool(requires_approval=True)
    async def pay() -> str:
        return "paid"

    model = ScriptedModel([Step(calls=[Call("pay")]), TEXT])
    chat = StreamChat(model=model, tools=tools, allow_anonymous=True, limits=ServiceLimits(drain_seconds=0))
    app = asgi_app(chat, options=HTTPOptions(suspended_linger=0.01, suspended_retry=1000))

    async def approve(asked: Any) -> bool:
        while app.endpoints.open_streams:
            await asyncio.sleep(0.001)
        return True

    async with serve(app) as port, StreamChatClient(f"http://127.0.0.1:{port}", approve=approve) as client:
        assert text(await collect(client.ask("Hi"))) == TEXT
        assert pauses == [0.0]


@pytest.mark.parametrize("behind", ["its end", "more than it has"])
async def test_who_comes_back_to_a_run_that_waits_answers_it_though_all_questions_were_asked_before(
    behind: str,
) -> None:
    tools = ToolRegistry()

    @tools.tool(requires_approval=True)
    async def pay(amount: int) -> str:
        return f"paid {amount}"

    @tools.tool(client_side=True)
    def locate(of: str) -> str | None:
        """Where somebody is."""

    calls = [Call("pay", {"amount": 5}, id="p"), Call("locate", {"of": "ann"}, id="l")]
    app = make_app(ScriptedModel([Step(calls=calls), TEXT]), tools=tools)
    asked: list[Any] = []

    def approve(request: Any) -> bool:
        asked.append(request)
        return True

    async with serve(app) as port:
        url = f"http://127.0.0.1:{port}"
        async with StreamChatClient(url) as before:
            status = await before.reply("Hi")
            assert status["status"] == "suspended"
        cursor = status["cursor"] if behind == "its end" else status["cursor"] + "9"
        locating = {"locate": lambda of: f"{of} is in Oslo"}
        async with StreamChatClient(url, approve=approve, tools=locating) as client:
            events = await collect(client.stream(status["run_id"], cursor))
            parts = (await client.status(status["run_id"]))["message"]["content"]
    assert [part["output"] for part in parts if part["type"] == "tool_call"] == ["paid 5", "ann is in Oslo"]
    assert [(each.call_id, each.name, each.arguments, each.step) for each in asked] == [
        ("p", "pay", {"amount": 5}, 1)
    ]
    assert isinstance(events[0], Reset) == (behind != "its end")


async def test_headers_are_asked_for_again_after_a_401() -> None:
    tokens = iter(["stale", "fresh", "stale", "fresh"])

    async def headers() -> Mapping[str, str]:
        return {"authorization": f"Bearer {next(tokens)}"}

    def principal(scope: Any) -> Principal | None:
        given = dict(scope["headers"]).get(b"authorization")
        return Principal("ann") if given == b"Bearer fresh" else None

    app = make_app(principal=principal, authorize=owns, allow_anonymous=False)
    async with serve(app) as port, StreamChatClient(f"http://127.0.0.1:{port}", headers=headers) as client:
        assert text(await collect(client.ask("Hi"))) == TEXT
        assert next(tokens, None) is None


async def test_a_refusal_says_what_was_wrong() -> None:
    async with serve(make_app()) as port, StreamChatClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ClientError) as caught:
            await client.start("")
        assert (caught.value.status, caught.value.field) == (422, "message")
        assert caught.value.correlation_id
        with pytest.raises(ClientError) as caught:
            await collect(client.stream("none"))
        assert (caught.value.status, caught.value.code) == (404, "run_not_found")


async def test_an_address_that_is_no_server_is_told() -> None:
    with pytest.raises(InvalidInput, match="http://"):
        StreamChatClient("localhost:8000")

    async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"<h1>Not here</h1>"})

    async with (
        serve(elsewhere, lifespan="off") as port,
        StreamChatClient(f"http://127.0.0.1:{port}") as client,
    ):
        with pytest.raises(ClientError, match="Not here"):
            await client.status("x")


async def test_a_trimmed_history_comes_as_a_reset_to_fold_on_from() -> None:
    app = make_app()
    async with serve(app) as port, StreamChatClient(f"http://127.0.0.1:{port}") as client:
        started = await client.start("Hi")
        whole = await collect(client.stream(started.run_id))
        await app.endpoints.chat.buffer.trim(2**60)
        items = await collect(client.stream(started.run_id, whole[0].id))
        assert isinstance(items[0], Reset)
        assert items[0].state.text == TEXT


async def test_a_program_without_a_loop_has_the_same_client() -> None:
    async with serve(make_app()) as port:

        def program() -> tuple[list[Any], Any, int]:
            with BlockingStreamChatClient(f"http://127.0.0.1:{port}") as client:
                events = list(client.ask("Hi"))
                again = client.stream(events[0].event.run_id)
                first = next(iter(again))
                return events, client.reply("Hi"), first.seq

        events, reply, first = await anyio.to_thread.run_sync(program)
    assert text(events) == TEXT
    assert reply["status"] == "success"
    assert first == 1


def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(StreamChatError, match="with BlockingStreamChatClient"):
        BlockingStreamChatClient("http://127.0.0.1:1").status("x")


@asynccontextmanager
async def nowhere() -> AsyncIterator[StreamChatClient]:
    async with StreamChatClient("http://127.0.0.1:1") as client:
        yield client


async def test_a_server_that_is_not_there_is_tried_until_patience_ends() -> None:
    async with nowhere() as client:
        with pytest.raises(ServerUnreachable, match="Connect"):
            await client.status("x")


# ------------------------------------------------------------------------------------------- without streams


def no_streams(kind: str, model: ScriptedModel, **options: Any) -> Any:
    """A server that streams for nobody: switched off, or unable to, as under WSGI."""
    if kind == "off":
        return make_app(model, streaming=lambda principal: False, **options)
    app = make_app(model, **options)

    async def refuse(call: Any) -> None:
        raise HTTPError(501, "streaming_unavailable", "This server cannot stream.")

    app.endpoints.refuse_streams = refuse
    return app


@pytest.mark.parametrize("kind", ["off", "unavailable"])
async def test_without_streams_a_reply_is_waited_for_and_a_run_is_read_all_the_same(kind: str) -> None:
    tools = ToolRegistry()

    @tools.tool(requires_approval=True)
    async def pay() -> str:
        return "paid"

    @tools.tool(client_side=True)
    async def local() -> str:
        raise NotImplementedError

    def answer(request: Any) -> Step:
        last = request.messages[-1]
        return Step(calls=[Call(str(last.content))]) if last.role == "user" else Step(TEXT)

    app = no_streams(kind, ScriptedModel(answer), tools=tools)
    async with serve(app) as port:
        async with StreamChatClient(
            f"http://127.0.0.1:{port}", approve=lambda asked: True, tools={"local": lambda: "here"}
        ) as client:
            for message in ("pay", "local"):
                reply = await client.reply(message)
                assert reply["status"] == "success"
                events = await collect(client.stream(reply["run_id"]))
                assert text(events) == TEXT
                assert await collect(client.stream(reply["run_id"], events[1].id)) == events[2:]
                assert events[-1].id == reply["cursor"]
            assert text(await collect(client.ask("pay"))) == TEXT
            assert len((await client.conversations())["conversations"]) == 3
        async with StreamChatClient(f"http://127.0.0.1:{port}") as client:
            assert (await client.reply("pay"))["status"] == "suspended"


async def test_a_reply_whose_answer_is_lost_is_asked_for_again_and_is_one_run() -> None:
    app = no_streams("off", ScriptedModel.text(TEXT, repeat=True))
    async with serve(app) as port, cutting(port, iter([None, 0, 90, None])) as (cut_port, _):
        # One connection for each request, so that each has its cut.
        http = httpx2.AsyncClient(limits=httpx2.Limits(max_keepalive_connections=0))
        async with http, StreamChatClient(f"http://127.0.0.1:{cut_port}", http=http) as client:
            assert (await client.reply("Hi"))["status"] == "success"
            assert len((await client.conversations())["conversations"]) == 1
