"""Shutting down with a quiet stream open: subscribers are sent away, the server waits for nobody."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.adapters.serving import Connection, fetch, read_until, request
from tests.project.support import ROOT

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def idle_server(how: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, str]]:
    """The server, its port, and the stream of a run that stands still."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.adapters.idle_server", how, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        _, started = await fetch(port, "POST", "/runs", {"message": "Hi"})
        yield process, port, started["stream_url"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_subscribers_are_told_to_come_back_and_the_process_ends(number: signal.Signals) -> None:
    async with idle_server("drain") as (process, port, url):
        async with request(port, "GET", url) as connection:
            blocks = connection.blocks()
            await read_until(blocks, b"text_delta")
            process.send_signal(number)
            assert await read_until(blocks, b"retry: ")
            with pytest.raises(StopAsyncIteration):
                await anext(blocks)
        await process.wait()


async def test_without_it_uvicorn_waits_for_the_stream() -> None:
    """What `drain_on_sigterm` is for; should this fail one day, it is no longer needed for uvicorn."""
    async with idle_server("wait") as (process, port, url):
        async with request(port, "GET", url) as connection:
            await read_until(connection.blocks(), b"text_delta")
            process.send_signal(signal.SIGTERM)
            while True:  # until it takes no more connections
                try:
                    other = await Connection.open(port)
                except OSError:
                    break
                await other.close()
                await asyncio.sleep(0.01)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(process.wait(), 0.5)
        await process.wait()
