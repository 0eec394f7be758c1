"""A real server on loopback in the test's own loop, and a client that sees every byte and nothing else."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn

from streamchat.core.sse import Frame, SSEDecoder


class _Server(uvicorn.Server):
    """uvicorn, but the test keeps its signal handlers, and may wait for the start."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Any:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.up.set()


@asynccontextmanager
async def serve(app: Callable[..., Any], **config: Any) -> AsyncIterator[int]:
    """Serve ``app`` with uvicorn; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    options = {"lifespan": "auto", "log_config": None, "timeout_graceful_shutdown": 5, **config}
    server = _Server(uvicorn.Config(app, **options))
    running = asyncio.create_task(server.serve([listener]))
    await server.up.wait()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await running
        listener.close()


class Connection:
    """One HTTP/1.1 exchange over a socket; `body` undoes the chunks as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int | None = None) -> Connection:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        limit = receive_buffer or 2**16
        return cls(*await asyncio.open_connection(sock=sock, limit=limit))

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: test"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
        await self.send_raw("\r\n".join([*lines, "", ""]).encode() + body)

    async def send_raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self) -> None:
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    async def blocks(self) -> AsyncIterator[bytes]:
        """The body in the pieces that the server wrote."""
        if self.headers.get("transfer-encoding") != "chunked":
            yield await self._reader.readexactly(int(self.headers.get("content-length", "0")))
            return
        while True:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            data = await self._reader.readexactly(size + 2)
            if not size:
                return
            yield data[:-2]

    async def body(self) -> bytes:
        return b"".join([block async for block in self.blocks()])

    async def chunked(self) -> bytes:
        """The body as it is on the wire, with the sizes of its chunks."""
        return await self._reader.readuntil(b"\r\n0\r\n\r\n")

    async def raw(self, size: int) -> bytes:
        """The next bytes of the connection, at most ``size``; fewer only at its end."""
        try:
            return await self._reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def ended(self) -> None:
        """Return when the server has closed the connection."""
        while await self._reader.read(2**16):
            pass

    async def close(self, *, abort: bool = False) -> None:
        if abort:
            self._writer.transport.abort()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def request(
    port: int, method: str, path: str, body: Any = None, **headers: str
) -> AsyncIterator[Connection]:
    """Send one request and read the head of its answer."""
    connection = await Connection.open(port)
    try:
        data = b"" if body is None else json.dumps(body).encode()
        await connection.send(method, path, data, **headers)
        await connection.head()
        yield connection
    finally:
        await connection.close()


async def fetch(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Send one request; returns status and JSON (None without a body)."""
    async with request(port, method, path, body, **headers) as connection:
        data = await connection.body()
        return connection.status, json.loads(data) if data else None


async def stream(port: int, path: str, last_event_id: str | None = None) -> tuple[int, list[Frame]]:
    """Read a stream to its end; returns status and frames."""
    headers = {"Last_Event_ID": last_event_id} if last_event_id else {}
    async with request(port, "GET", path, **headers) as connection:
        return connection.status, SSEDecoder().feed(await connection.body())


async def read_until(blocks: AsyncIterator[bytes], text: bytes) -> bytes:
    """Read pieces until ``text`` is among them."""
    got = b""
    async for block in blocks:
        got += block
        if text in got:
            return got
    raise AssertionError(f"the stream ended without {text!r}: {got!r}")
