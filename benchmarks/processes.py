"""The other side as processes of their own, started and ended with a block."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.measure import Clock, Scale

__all__ = ["Clients", "Provider", "clients", "helper", "input_ended", "line_of", "provider"]


@asynccontextmanager
async def helper(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """``python -m benchmarks.helper <arguments>``; ended when the block is left."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.helper", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()  # which they take as the order to end, also when this process is killed
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()


async def input_ended() -> None:
    """Wait, in a helper, until its standard input ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def line_of(process: asyncio.subprocess.Process) -> Any:
    """The next line of JSON that it writes."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"the other process has ended with status {await process.wait()}")
    return json.loads(line)


class Provider:
    """A provider in another process; ``url`` is its root."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = f"http://127.0.0.1:{port}"

    async def sent(self) -> int:
        """How many chunks it has sent live so far."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"GET /sent HTTP/1.1\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return int(answer.partition(b"\r\n\r\n")[2])

    async def watch(self, clock: Clock, scale: Scale) -> int:
        """Wait until all live streams are under way, let the clock run for a while, and return how many
        chunks were sent meanwhile."""
        under_way = await self.sent() + 5 * scale.live_streams
        while await self.sent() < under_way:
            await asyncio.sleep(0.05)
        before = await self.sent()
        with clock.running():
            await asyncio.sleep(scale.live_seconds)
        return await self.sent() - before


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """A provider, ended with the block."""
    async with helper("provider") as process:
        yield Provider(await line_of(process))


class Clients:
    """HTTP clients in another process; one order at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def open(self, port: int, method: str, path: str, count: int = 1, body: object = None) -> None:
        """Open so many connections with one request each; returns when an answer has begun on all."""
        data = "" if body is None else json.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\nhost: benchmark\r\nconnection: close\r\n"
        if data:
            head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n"
        answer = await self._do(do="open", port=port, request=f"{head}\r\n{data}", count=count)
        if answer["statuses"] not in ([200], [201]):
            raise RuntimeError(f"{method} {path} was answered with {answer['statuses']}")

    async def finish(self) -> dict[str, Any]:
        """Wait until all have been read to their ends."""
        return await self._do(do="finish")

    async def close(self) -> dict[str, Any]:
        """Close all."""
        return await self._do(do="close")

    async def _do(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        answer: dict[str, Any] = await line_of(self._process)
        return answer


@asynccontextmanager
async def clients() -> AsyncIterator[Clients]:
    """Clients, closed with the block."""
    async with helper("clients") as process:
        yield Clients(process)
