"""The raw ASGI adapter on a real server, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamchat.adapters.asgi import ASGIApp, asgi_app
from streamchat.core.sse import SSEDecoder
from streamchat.errors import BufferUnavailable
from streamchat.http import HTTPOptions
from streamchat.principal import Principal
from streamchat.service.access import owns
from streamchat.service.chat import ServiceLimits, StreamChat
from streamchat.testing import ScriptedModel, Stall, Step
from tests.adapters.serving import Connection, fetch, read_until, request, serve, stream

pytestmark = pytest.mark.anyio


def make_app(model: ScriptedModel | None = None, options: HTTPOptions | None = None, **chat: Any) -> ASGIApp:
    model = model or ScriptedModel.text("Hello there.", repeat=True)
    limits = ServiceLimits(drain_seconds=0)
    return asgi_app(
        StreamChat(**{"model": model, "allow_anonymous": True, "limits": limits, **chat}), options=options
    )


@asynccontextmanager
async def stalled(
    options: HTTPOptions | None = None, text: str = "Hello there."
) -> AsyncIterator[tuple[int, ASGIApp, str, Stall]]:
    """A server with one run that has said one word and then stands still."""
    stall = Stall()
    app = make_app(ScriptedModel([Step(text, stall_after=1, stall=stall)]), options)
    async with serve(app) as port:
        status, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
        assert status == 201
        await stall.reached()
        yield port, app, started["stream_url"], stall


async def until_closed(app: ASGIApp, count: int = 0) -> None:
    while app.endpoints.open_streams > count:
        await asyncio.sleep(0.001)


async def test_the_quick_start_over_the_wire() -> None:
    async with serve(make_app()) as port:
        status, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
        assert status == 201
        status, frames = await stream(port, started["stream_url"])
        assert status == 200
        assert frames[-1].event == "finalized"
        status, reply = await fetch(port, "GET", f"/runs/{started['run_id']}")
        assert reply["message"]["content"][0]["text"] == "Hello there."
        assert await stream(port, started["stream_url"], frames[-1].id) == (204, [])


async def test_events_arrive_while_the_run_is_at_work() -> None:
    async with stalled() as (port, _app, url, stall), request(port, "GET", url) as connection:
        assert connection.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert connection.headers["content-encoding"] == "identity"
        blocks = connection.blocks()
        got = await read_until(blocks, b"text_delta")
        assert b"finalized" not in got
        stall.release()
        await read_until(blocks, b"event: finalized")
        with pytest.raises(StopAsyncIteration):
            await anext(blocks)


async def test_a_started_stream_can_be_followed_by_others_and_all_see_the_same() -> None:
    async with stalled() as (port, _app, url, stall):
        readers = [asyncio.create_task(stream(port, url)) for _ in range(5)]
        stall.release()
        first, *others = [await reader for reader in readers]
        assert first[1][-1].event == "finalized"
        assert all(other == first for other in others)
        assert await stream(port, url) == first


async def test_a_disconnect_is_noticed_while_the_stream_is_quiet() -> None:
    async with stalled() as (port, app, url, stall):
        for abort in (False, True):
            connection = await Connection.open(port)
            await connection.send("GET", url)
            await connection.head()
            await read_until(connection.blocks(), b"text_delta")
            assert app.endpoints.open_streams == 1
            await connection.close(abort=abort)
            await until_closed(app)
        # The run does not care.
        stall.release()
        assert (await stream(port, url))[1][-1].event == "finalized"


async def test_heartbeats_come_over_the_wire() -> None:
    async with stalled(HTTPOptions(heartbeat=0.02)) as (port, _app, url, stall):
        async with request(port, "GET", url) as connection:
            blocks = connection.blocks()
            got = b""
            for _ in range(3):
                got += await read_until(blocks, b": heartbeat\n\n")
            assert len(got) > 2048
            stall.release()
            got += await read_until(blocks, b"finalized")
        frames = SSEDecoder().feed(got)
        assert frames == (await stream(port, url))[1][: len(frames)]


async def test_a_response_cut_at_every_byte_and_resumed_gives_exactly_the_log() -> None:
    # A run that is cancelled at once has the shortest log; each byte of it costs a connection.
    app = make_app(limits=ServiceLimits(max_runs=0, drain_seconds=0))
    async with serve(app) as port:
        _, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
        url = started["stream_url"]
        assert (await fetch(port, "POST", f"/runs/{started['run_id']}/cancel"))[0] == 202
        _, whole = await stream(port, url)
        assert [frame.event for frame in whole[-2:]] == ["message_completed", "finalized"]
        async with request(port, "GET", url) as connection:
            size = len(await connection.chunked())
        resumed: dict[str, list[Any]] = {}
        for cut in range(size + 1):
            connection = await Connection.open(port)
            await connection.send("GET", url)
            decoder, got = SSEDecoder(), []
            if cut:
                await connection.head()
                got = decoder.feed(unchunk(await connection.raw(cut)))
            await connection.close(abort=True)
            cursor = decoder.last_event_id
            if cursor not in resumed:
                resumed[cursor] = (await stream(port, url, cursor))[1]
            assert got + resumed[cursor] == whole, cut


def unchunk(data: bytes) -> bytes:
    """The body in the first bytes of a chunked answer, as far as it goes."""
    out = b""
    while True:
        size, line, data = data.partition(b"\r\n")
        if not line or not int(size, 16):
            return out
        length = int(size, 16)
        out += data[:length]
        data = data[length + 2 :]


async def test_a_live_stream_that_drops_again_and_again_gives_exactly_the_log() -> None:
    text = " ".join(f"word{number}" for number in range(200))
    model = ScriptedModel([Step(text)])
    async with serve(make_app(model)) as port:
        _, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
        got: list[Any] = []
        cursor = ""
        size = 200
        while not got or got[-1].event != "finalized":
            connection = await Connection.open(port)
            await connection.send("GET", started["stream_url"], Last_Event_ID=cursor)
            await connection.head()
            decoder = SSEDecoder(last_event_id=cursor)
            got += decoder.feed(unchunk(await connection.raw(size)))
            await connection.close(abort=True)
            cursor = decoder.last_event_id
            size += 37
        assert got == (await stream(port, started["stream_url"]))[1]


async def test_a_body_that_is_too_large_is_answered_while_it_is_sent() -> None:
    app = make_app(limits=ServiceLimits(max_body_bytes=10_000, drain_seconds=0))
    async with serve(app) as port:
        connection = await Connection.open(port)
        await connection.send_raw(
            b"POST /runs HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(11):
            await connection.send_raw(b"400\r\n" + b" " * 1024 + b"\r\n")
        await connection.head()  # though the body has not ended
        assert connection.status == 413
        assert json.loads(await connection.body())["error"]["code"] == "body_too_large"
        await connection.close()
        connection = await Connection.open(port)
        await connection.send_raw(
            b"POST /runs HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Content-Length: 999999999\r\n\r\n"
        )
        await connection.head()
        assert connection.status == 413
        await connection.close()


async def test_a_client_that_leaves_in_the_middle_of_its_body_starts_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serve(make_app()) as port:
        connection = await Connection.open(port)
        await connection.send_raw(
            b"POST /runs HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"message"'
        )
        await connection.close()
        assert await fetch(port, "GET", "/conversations") == (200, {"conversations": [], "next": None})
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_reader_that_takes_nothing_is_let_go_and_may_come_back() -> None:
    big = "x" * 4_000_000
    app = make_app(ScriptedModel([Step(big, pieces_of=500_000)]), HTTPOptions(send_timeout=0.2))
    async with serve(app) as port:
        _, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
        whole = (await stream(port, started["stream_url"]))[1]
        connection = await Connection.open(port, receive_buffer=4096)
        await connection.send("GET", started["stream_url"])
        await connection.head()
        # It reads no more: first the sockets' buffers fill up, then the server's patience ends.
        await until_closed(app)
        await connection.close(abort=True)
        again = (await stream(port, started["stream_url"], whole[0].id))[1]
        same = again == whole[1:]  # without showing megabytes of a difference
        assert same, [frame.id for frame in again]


async def test_a_slow_reader_gets_everything_as_long_as_it_reads() -> None:
    app = make_app(ScriptedModel([Step("y" * 300_000, pieces_of=30_000)]), HTTPOptions(send_timeout=5))
    async with serve(app) as port:
        _, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
        connection = await Connection.open(port, receive_buffer=4096)
        await connection.send("GET", started["stream_url"])
        await connection.head()
        got = b""
        async for block in connection.blocks():
            got += block
            await asyncio.sleep(0)
        await connection.close()
        same = SSEDecoder().feed(got) == (await stream(port, started["stream_url"]))[1]
        assert same


async def test_the_client_of_a_reply_that_leaves_is_noticed_and_the_run_goes_on() -> None:
    stall = Stall()
    app = make_app(ScriptedModel([Step("Hello there.", stall_after=1, stall=stall)]))
    async with serve(app) as port:
        connection = await Connection.open(port)
        await connection.send("POST", "/runs/reply", b'{"message": "Hi", "conversation_id": "c1"}')
        await stall.reached()
        (topic,) = app.endpoints.chat.hub._topics.values()
        await connection.close()
        while topic.subscribers:
            await asyncio.sleep(0.001)
        stall.release()
        while (await fetch(port, "GET", "/conversations"))[1]["conversations"][0]["active_run_id"]:
            await asyncio.sleep(0.001)
        _, said = await fetch(port, "GET", "/conversations/c1/messages")
        assert said["messages"][1]["content"][0]["text"] == "Hello there."


# Where it is mounted, and who opens it.


@pytest.mark.parametrize("path_includes_mount", [True, False])
async def test_it_may_be_mounted_under_a_prefix(path_includes_mount: bool) -> None:
    app = make_app()

    async def router(scope: Any, receive: Any, send: Any) -> None:
        """Mounts as Starlette does (the path stays whole), or as older routers do."""
        if scope["type"] == "http":
            assert scope["path"].startswith("/api/chat")
            path = scope["path"] if path_includes_mount else scope["path"].removeprefix("/api/chat")
            scope = {**scope, "root_path": "/api/chat", "path": path}
        await app(scope, receive, send)

    async with serve(router) as port:
        status, started = await fetch(port, "POST", "/api/chat/runs", {"message": "Hi"})
        assert status == 201
        assert started["stream_url"] == f"/api/chat/runs/{started['run_id']}/stream"
        assert (await stream(port, started["stream_url"]))[1][-1].event == "finalized"
        assert (await fetch(port, "GET", "/api/chat"))[0] == 404


async def test_it_works_behind_a_servers_root_path() -> None:
    async with serve(make_app(), root_path="/chat") as port:
        # The proxy strips the prefix; the server puts it back.
        status, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
        assert status == 201
        assert started["stream_url"] == f"/chat/runs/{started['run_id']}/stream"


async def test_it_works_without_a_lifespan() -> None:
    app = make_app()
    try:
        async with serve(app, lifespan="off") as port:
            first, second = await asyncio.gather(
                fetch(port, "POST", "/runs/reply", {"message": "Hi"}), fetch(port, "GET", "/health/ready")
            )
            assert (first[0], second[0]) == (200, 200)
    finally:
        await app.endpoints.chat.close()


async def test_its_lifespan_opens_and_closes_the_service() -> None:
    app = make_app()
    async with serve(app, lifespan="on") as port:
        assert (await fetch(port, "GET", "/health/ready"))[0] == 200
    assert app.endpoints.chat.draining


async def test_a_service_that_cannot_open_fails_the_startup_with_a_reason() -> None:
    app = make_app()

    async def fails() -> Any:
        raise BufferUnavailable("the file is read-only")

    app.endpoints.chat.buffer.open = fails  # type: ignore[method-assign]
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    await app({"type": "lifespan"}, receive, send)
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert "read-only" in message["message"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_the_principal_comes_from_the_scope(is_async: bool) -> None:
    def from_scope(scope: Any) -> Principal | None:
        user = dict(scope["headers"]).get(b"x-user")
        return Principal(user.decode()) if user else None

    async def from_scope_later(scope: Any) -> Principal | None:
        await asyncio.sleep(0)
        return from_scope(scope)

    chat = StreamChat(model=ScriptedModel.text("x", repeat=True), authorize=owns)
    async with serve(asgi_app(chat, principal=from_scope_later if is_async else from_scope)) as port:
        assert (await fetch(port, "POST", "/runs", {"message": "Hi"}))[0] == 401
        status, started = await fetch(port, "POST", "/runs", {"message": "Hi"}, X_User="ann")
        assert status == 201
        assert (await fetch(port, "GET", f"/runs/{started['run_id']}", X_User="ann"))[0] == 200
        assert (await fetch(port, "GET", f"/runs/{started['run_id']}", X_User="bob"))[0] == 404


async def test_a_websocket_to_another_path_is_refused() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await make_app()({"type": "websocket", "path": "/runs", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_server_that_tells_no_disconnect_is_not_asked_again_and_again() -> None:
    """ASGI says that ``receive`` then waits; aiohttp-asgi's returns the end of the body each time."""
    app = make_app(ScriptedModel([Step("Hello there.", stall_after=1)]), HTTPOptions(heartbeat=0.02))
    received: list[str] = []
    sent = b""

    async def receive() -> dict[str, Any]:
        received.append("http.request")
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal sent
        sent += message.get("body", b"")
        if sent.count(b": heartbeat") == 3:
            raise OSError("the client has gone")

    async with app.endpoints.chat as chat:
        started = await chat.start(None, "Hi")
        path = f"/runs/{started.run_id}/stream"
        await app({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
        assert len(received) == 2
