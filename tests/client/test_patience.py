"""How long the client goes on: servers that open and break, are quiet, or are no streamchat servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import pytest

from streamchat.client import BlockingStreamChatClient, ClientError, ServerUnreachable, StreamChatClient
from streamchat.errors import InvalidInput, StreamChatError

pytestmark = pytest.mark.anyio

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
CHUNKED = STREAM + b"transfer-encoding: chunked\r\n\r\n"
END = (
    b'data: {"type":"finalized","seq":1,"at":0,"status":"success","usage":null,"duration":0.1,'
    b'"finish_reason":"stop"}\n\n'
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def raw(answer: Callable[[int], list[bytes]]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers connection n with these pieces, and closes; yields its address and what it was
    asked."""
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            for piece in answer(len(asked)):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def read(client: StreamChatClient) -> list[Any]:
    return [item async for item in client.stream("r")]


@pytest.mark.parametrize(
    "pieces",
    [
        [CHUNKED],
        [CHUNKED, chunk(b"id: g.0\nretry: 1\n\n")],
        [CHUNKED, chunk(b"id: g.0\nretry: 1\n\n"), b"0\r\n\r\n"],
        [STREAM + b"content-length: 0\r\n\r\n"],
    ],
)
async def test_connections_that_open_and_break_at_once_are_no_progress(pieces: list[bytes]) -> None:
    async with raw(lambda number: pieces) as (url, asked), StreamChatClient(url, patience=1.5) as client:
        with pytest.raises(ServerUnreachable):
            await read(client)
        # Pauses of at least 0.125, 0.25, 0.5 and 1 s.
        assert 1 < len(asked) <= 4


async def test_after_a_break_the_server_says_when_to_come_back() -> None:
    pieces = [CHUNKED, chunk(b"id: g.0\nretry: 60000\n\n")]
    async with raw(lambda number: pieces) as (url, asked), StreamChatClient(url, patience=30) as client:
        with pytest.raises(ServerUnreachable):
            await read(client)
        assert len(asked) == 1


async def test_a_server_that_takes_leave_in_order_is_come_back_to_without_end() -> None:
    leave = [CHUNKED, chunk(b"id: g.0\nretry: 1\n\n"), chunk(b"retry: 2\n\n"), b"0\r\n\r\n"]
    end = [CHUNKED, chunk(b"id: g.1\n" + END), b"0\r\n\r\n"]
    async with raw(lambda number: leave if number < 8 else end) as (url, asked):
        async with StreamChatClient(url, patience=0.7) as client:
            assert [item.type for item in await read(client)] == ["finalized"]
        assert len(asked) == 8


async def test_what_is_no_stream_of_events_is_told() -> None:
    page = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\n<>"
    async with raw(lambda number: [page]) as (url, asked), StreamChatClient(url) as client:
        with pytest.raises(ClientError, match="text/html") as caught:
            await read(client)
        assert caught.value.code == "unreadable_answer"
        assert len(asked) == 1


def whole(body: bytes, *headers: bytes) -> bytes:
    head = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"<html></html>", b"content-type: text/html"),
        whole(b'{"runs": 1}', b"content-type: application/json"),
        whole(b"[1]", b"content-type: application/json"),
        whole(b"", b"content-type: application/json"),
        whole(b"no gzip", b"content-type: text/event-stream", b"content-encoding: gzip"),
    ],
)
async def test_an_answer_that_no_server_of_ours_gives_is_unreadable(answer: bytes) -> None:
    async with raw(lambda number: [answer]) as (url, _), StreamChatClient(url, patience=2) as client:
        for call in (client.start("x"), client.reply("x"), client.status("x"), client.messages("x")):
            with pytest.raises(ClientError) as caught:
                await call
            assert (caught.value.status, caught.value.code) == (200, "unreadable_answer")
        if b"gzip" in answer:
            with pytest.raises(ClientError) as caught:
                await read(client)
            assert caught.value.code == "unreadable_answer"


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"bad name": "x"}},
        {"headers": {"": "x"}},
        {"headers": {"authorization": "Bearer \N{SNOWMAN}"}},
        {"headers": {"authorization": "one\r\ntwo: three"}},
        {"headers": {"x": None}},
        {"client_id": "\N{SNOWMAN}"},
        {"patience": float("nan")},
        {"patience": -1},
        {"url": "http://"},
        {"url": "http://\udc80"},
        {"url": None},
        {"patience": "120"},
        {"headers": "authorization: Bearer x"},
        {"headers": [("authorization", "Bearer x")]},
        {"tools": [print]},
        {"tools": {"print": "print"}},
        {"approve": True},
        {"http": 5},
    ],
)
@pytest.mark.parametrize("kind", [StreamChatClient, BlockingStreamChatClient])
def test_what_cannot_be_sent_is_told_at_once(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        kind(**{"url": "http://127.0.0.1:1", **options})
    assert "Bearer" not in str(caught.value)


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.start(5),
        lambda client: client.start(["Hi"]),
        lambda client: client.status(None),
        lambda client: client.cancel(5),
        lambda client: client.messages(5),
    ],
)
async def test_what_no_server_could_answer_is_not_asked(ask: Any) -> None:
    async with StreamChatClient("http://127.0.0.1:1", patience=0) as client:
        with pytest.raises(InvalidInput):
            await ask(client)
    async with StreamChatClient("http://127.0.0.1:1", headers=lambda: ["x"]) as client:  # type: ignore[arg-type,return-value]
        with pytest.raises(InvalidInput, match="headers"):
            await client.status("run")


async def test_headers_that_a_function_gives_are_looked_at_too() -> None:
    async with raw(lambda number: []) as (url, asked):
        async with StreamChatClient(url, headers=lambda: {"x": "\N{SNOWMAN}"}) as client:
            with pytest.raises(InvalidInput, match="Latin-1"):
                await client.status("x")
            with pytest.raises(InvalidInput, match="Latin-1"):
                await read(client)
        assert asked == []


async def test_a_closed_client_and_a_body_that_is_no_json_are_told() -> None:
    async with raw(lambda number: []) as (url, asked):
        async with StreamChatClient(url) as client:
            with pytest.raises(InvalidInput, match="no JSON"):
                await client.start("x", metadata={"what": object()})
        with pytest.raises(StreamChatError, match="closed"):
            await client.status("x")
        with pytest.raises(StreamChatError, match="closed"):
            await read(client)
        assert asked == []


async def test_a_header_is_sent_in_latin_1() -> None:
    async with raw(lambda number: [whole(b"{}")]) as (url, asked):
        async with StreamChatClient(url, headers={"X-Name": "Zoë"}) as client:
            await client.cancel("x")
        assert b"x-name: zo\xeb\r\n" in asked[0].lower()


async def test_a_quiet_stream_stays_whatever_the_callers_read_timeout_is() -> None:
    """And as many streams as there are leave room for a cancel."""
    go = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if b"/stream" not in await reader.readuntil(b"\r\n\r\n"):
                go.set()
                writer.write(whole(b"{}"))
            else:
                opened.append(1)
                if len(opened) == 120:
                    full.set()
                writer.write(CHUNKED + chunk(b"id: g.0\nretry: 1\n\n"))
                await go.wait()
                await asyncio.sleep(0.3)
                writer.write(chunk(b"id: g.1\n" + END) + b"0\r\n\r\n")
            await writer.drain()
        writer.close()

    opened, full = list[int](), asyncio.Event()
    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with StreamChatClient(url, patience=0) as client:
            reads = [asyncio.create_task(read(client)) for _ in range(120)]
            await full.wait()
            await client.cancel("x")
            assert all(
                [item.type for item in items] == ["finalized"] for items in await asyncio.gather(*reads)
            )
        opened.clear()
        timeout = httpx2.Timeout(10.0, read=0.05)
        async with (
            httpx2.AsyncClient(timeout=timeout) as http,
            StreamChatClient(url, patience=0, http=http) as client,
        ):
            assert [item.type for item in await read(client)] == ["finalized"]
        assert len(opened) == 1
