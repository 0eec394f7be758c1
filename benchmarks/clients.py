"""HTTP clients as a process of their own: open connections, read them to the end, say what came.

Orders come as lines of JSON on standard input, answers go as lines of JSON to standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

__all__ = ["serve"]


class _Client(asyncio.Protocol):
    """Sends one request and reads until the other side closes the connection."""

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._request = request
        self._end = b""
        self.begun: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.size = 0
        self.status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.status = int(data[9:12])
        # The body comes after the head; whoever waits wants a stream that flows.
        if not self.begun.done():
            self.begun.set_result(None)
        self.size += len(data)
        self._end = (self._end + data)[-4096:]

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.begun, self.closed):
            if not future.done():
                future.set_result(None)

    @property
    def whole(self) -> bool:
        """Whether the run's last event came."""
        return b'"type":"finalized","status":"success"' in self._end


class _Clients:
    def __init__(self) -> None:
        self._open: list[_Client] = []

    async def open(self, port: int, request: str, count: int) -> dict[str, Any]:
        """Open connections; answers when something came on each."""
        loop = asyncio.get_running_loop()
        made = [
            (await loop.create_connection(lambda: _Client(request.encode()), "127.0.0.1", port))[1]
            for _ in range(count)
        ]
        self._open += made
        await asyncio.gather(*(client.begun for client in made))
        return {"statuses": sorted({client.status for client in made})}

    async def finish(self) -> dict[str, Any]:
        """Wait until the server has closed all; say how many got a run's end, and how many bytes came."""
        await asyncio.gather(*(client.closed for client in self._open))
        return self._forget()

    async def close(self) -> dict[str, Any]:
        """Close all connections."""
        for client in self._open:
            client.transport.close()
        await asyncio.gather(*(client.closed for client in self._open))
        return self._forget()

    def _forget(self) -> dict[str, Any]:
        clients, self._open = self._open, []
        return {"whole": sum(c.whole for c in clients), "bytes": sum(c.size for c in clients)}


async def serve() -> None:
    """Take orders until standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    clients = _Clients()
    while line := await reader.readline():
        order: dict[str, Any] = json.loads(line)
        answer = await getattr(clients, order.pop("do"))(**order)
        print(json.dumps(answer), flush=True)
