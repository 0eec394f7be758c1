"""Servers as processes of their own, on loopback, started as the how-to says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamchat.core.sse import Frame, SSEDecoder
from tests.adapters import serving
from tests.adapters.serving import Connection

__all__ = ["ADAPTERS", "COMBINATIONS", "PREFIX", "SERVERS", "Served", "served"]

ROOT = Path(__file__).parents[3]
PREFIX = "/edge"

# Each adapter's module, and where the endpoints stand in it.
ADAPTERS = {"asgi": ("raw_asgi", ""), "fastapi": ("in_fastapi", "/chat"), "django": ("in_django", "/chat")}

# Each server's command line; docs/how-to/shut-down.md recommends the flags for the end.
SERVERS = {
    "uvicorn": (
        "uvicorn {app} --host 127.0.0.1 --port {port} --root-path {prefix} --log-level warning "
        "--timeout-graceful-shutdown 10"
    ),
    "hypercorn": (
        "hypercorn {app} --bind 127.0.0.1:{port} --root-path {prefix} --log-level warning --workers 0 "
        "--graceful-timeout 10"
    ),
    "granian": (
        "granian {app} --interface asgi --host 127.0.0.1 --port {port} --url-path-prefix {prefix} "
        "--log-level warning --workers-kill-timeout 10"
    ),
    "daphne": "daphne {app} --bind 127.0.0.1 --port {port} --root-path {prefix} --verbosity 0",
}
COMBINATIONS = [(adapter, server) for server in SERVERS for adapter in ADAPTERS]


@dataclass
class Served:
    """A running server, and how a client behind a proxy that takes ``/edge`` away asks it."""

    adapter: str
    server: str
    port: int
    base: str
    store: str
    process: asyncio.subprocess.Process

    async def fetch(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        return await serving.fetch(self.port, method, self.base + path, body, **headers)

    async def start(self, message: str, **headers: str) -> str:
        """Start a run and return the path of its stream."""
        status, started = await self.fetch("POST", "/runs", {"message": message}, **headers)
        assert status == 201, started
        url: str = started["stream_url"]
        assert url == f"{PREFIX}{self.base}/runs/{started['run_id']}/stream", url
        return url.removeprefix(PREFIX)

    @asynccontextmanager
    async def request(self, method: str, path: str, **headers: str) -> AsyncIterator[Connection]:
        async with serving.request(self.port, method, path, **headers) as connection:
            yield connection

    async def open(self, path: str, **headers: str) -> Connection:
        """Ask for a stream, and read the head of the answer."""
        connection = await Connection.open(self.port)
        await connection.send("GET", path, b"", **headers)
        await connection.head()
        return connection

    async def frames(self, path: str, last_event_id: str | None = None) -> tuple[int, list[Frame]]:
        return await serving.stream(self.port, path, last_event_id)

    async def control(self, what: str, key: str) -> dict[str, Any]:
        status, answer = await serving.fetch(self.port, "GET", f"/control/{what}?{key}")
        assert status == 200
        return dict(answer)

    async def release(self, key: str) -> None:
        await self.control("release", key)

    async def until(self, tag: str, **wanted: Any) -> dict[str, Any]:
        """Wait until what became of the requests with a tag is so."""
        while True:
            seen = await self.control("seen", tag)
            if all(seen[name] == value for name, value in wanted.items()):
                return seen
            await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@asynccontextmanager
async def served(
    adapter: str, server: str, command: str | None = None, **environment: str
) -> AsyncIterator[Served]:
    """A server of one adapter; ended in any case, with all its workers."""
    module, base = ADAPTERS[adapter]
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/chat.db"
        for attempt in range(3):
            port = _free_port()  # (not all of them can be given a socket, or tell which one they took)
            line = (command or SERVERS[server]).format(
                app=f"tests.adapters.servers.{module}:app", port=port, prefix=PREFIX
            )
            inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHONASYNCIO")}
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "ignore", "-m", *line.split()),
                cwd=ROOT,
                env={**inherited, "MATRIX_STORE": store, "PYTHONPATH": str(ROOT), **environment},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                if await _answers(process, port, store):
                    yield Served(adapter, server, port, base, store, process)
                    return
            finally:
                said = await _end(process)
            if attempt == 2:
                raise AssertionError(f"{line}: it did not start: {said}")


async def _answers(process: asyncio.subprocess.Process, port: int, store: str) -> bool:
    """Wait until the server answers; False where the process has ended, or another one has the port."""
    while process.returncode is None:
        try:
            status, answer = await serving.fetch(port, "GET", "/control/seen")
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.05)
        else:
            return status == 200 and answer["store"] == store
    return False


async def _end(process: asyncio.subprocess.Process) -> str:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the workers as well
    said, _ = await process.communicate()
    return re.sub(r"\s+", " ", said.decode("utf-8", "replace"))[-2000:]


def decoded(data: bytes) -> list[Frame]:
    return SSEDecoder().feed(data)


def parsed(frame: Frame) -> dict[str, Any]:
    return dict(json.loads(frame.data))
