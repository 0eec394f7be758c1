"""A TCP proxy before a server, which loses what it is told to: answers on their way, or all, in silence."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Self
from urllib.parse import urlsplit, urlunsplit

__all__ = ["Proxy"]


class Proxy:
    """Stands before the server of a URL; ``url`` is the way through it."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._swallow = False
        self.swallowed = asyncio.Event()
        """Set when an answer was lost."""

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, target: str) -> AsyncIterator[Self]:
        """Open a proxy before a server."""
        proxy = cls(target)
        proxy._server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
        try:
            yield proxy
        finally:
            proxy._server.close()
            for link in list(proxy._links):
                link.reset()
            while proxy._links:
                await asyncio.sleep(0.01)
            await proxy._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        user, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{user}{at}127.0.0.1:{port}"))

    def lose_answers(self) -> None:
        """From now on the server hears everything and nobody hears the server, until `reset`."""
        self._swallow = True
        self.swallowed.clear()

    def reset(self) -> None:
        """Reset all connections; new ones are passed on."""
        self._swallow = False
        for link in list(self._links):
            link.reset()

    def go_silent(self) -> None:
        """Let all present connections stand open with nothing passing; new ones are passed on."""
        for link in self._links:
            link.silent = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            writer.close()
            return
        link = _Link(self, (reader, writer), there)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


_End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One connection, in both directions."""

    def __init__(self, proxy: Proxy, client: _End, server: _End) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._over = asyncio.Event()
        self.silent = False

    async def run(self) -> None:
        """Pass everything on until one side closes, or `reset`."""
        ways = [
            asyncio.create_task(self._pass(self._client[0], self._server[1])),
            asyncio.create_task(self._pass(self._server[0], self._client[1], answers=True)),
            asyncio.create_task(self._wait()),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        for _, writer in (self._client, self._server):
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _wait(self) -> None:
        await self._over.wait()

    def reset(self) -> None:
        """End it with a TCP reset."""
        raw = self._client[1].get_extra_info("socket")
        if raw is not None:
            # Closing with a linger time of zero sends RST in place of FIN.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._over.set()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(65536):
                if answers and self._proxy._swallow:
                    self._proxy.swallowed.set()
                elif not self.silent:
                    writer.write(block)
                    await writer.drain()
