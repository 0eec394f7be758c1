"""How long the client goes on: servers that open and break, are quiet, or are no streamchat servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from streamchat.client import ClientError, ServerUnreachable, StreamChatClient

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
