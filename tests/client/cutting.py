"""A TCP proxy on loopback that cuts connections where it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress


class CuttingProxy:
    """Passes bytes to ``target``; connection number n is cut after ``limits[n]`` bytes of its answers."""

    def __init__(self, target: int, limits: Iterator[int | None]) -> None:
        self._target = target
        self._limits = limits
        self.connections = 0
        self.refusals = 0
        self._open: set[asyncio.StreamWriter] = set()

    def cut(self, refusals: int = 0) -> None:
        """Cut what is open, and refuse the next connections."""
        self.refusals = refusals
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusals:
            self.refusals -= 1
            writer.transport.abort()
            return
        self._open.add(writer)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        up = asyncio.create_task(self._pump(reader, up_writer, None))
        down = asyncio.create_task(self._pump(up_reader, writer, next(self._limits, None)))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.discard(writer)
            for task in (up, down):
                task.cancel()
            for each in (writer, up_writer):
                each.transport.abort()
            await asyncio.wait({up, down})

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                if limit is not None:
                    data = data[:limit]
                    limit -= len(data)
                writer.write(data)
                await writer.drain()
                if limit == 0:
                    return


@asynccontextmanager
async def cutting(target: int, limits: Iterator[int | None]) -> AsyncIterator[tuple[int, CuttingProxy]]:
    proxy = CuttingProxy(target, limits)
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        # asyncio's own callback asks for the outcome, and stumbles over a cancellation.
        with suppress(asyncio.CancelledError):
            await proxy.serve(reader, writer)
        writer.close()
        handlers.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], proxy
    finally:
        server.close()
        for task in set(handlers):
            task.cancel()
        if handlers:
            await asyncio.wait(set(handlers))
