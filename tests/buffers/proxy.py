"""A TCP proxy that loses what a server answers, as a network does that breaks at the wrong moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["Proxy", "proxy_to"]


class Proxy:
    """Forwards connections to ``port`` on this machine; listens on ``self.port``."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.swallow = 0
        """So many of the next answers are thrown away, each with the connection that it came on."""
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        """Awaited when an answer was thrown away, before anybody notices."""
        self.open = 0
        self._streams: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        server, up = await asyncio.open_connection("127.0.0.1", self._target)
        self._streams |= {writer, up}
        try:
            async with asyncio.TaskGroup() as group:
                there = group.create_task(self._pump(reader, up, answers=False))
                back = group.create_task(self._pump(server, writer, answers=True))
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                there.cancel()
                back.cancel()
        finally:
            self.open -= 1
            self._streams -= {writer, up}
            for stream in (up, writer):
                stream.close()
                with contextlib.suppress(OSError):
                    await stream.wait_closed()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if answers and self.swallow:
                    self.swallow -= 1
                    if self.meanwhile is not None:
                        await self.meanwhile()
                    return
                writer.write(data)
                await writer.drain()

    def cut(self) -> None:
        """Break all connections."""
        for stream in self._streams:
            stream.transport.abort()


@contextlib.asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a server on this machine."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        while proxy.open:
            await asyncio.sleep(0.01)
