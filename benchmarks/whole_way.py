"""The whole way, from the provider's bytes to the client's socket, beside iterating the SDK's stream."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import openai

from benchmarks.appending_postgres import postgres_buffer
from benchmarks.consuming import amid, both_clients, iterating, whole
from benchmarks.measure import LIVE, Case, Clock, Row, Scale, in_turns
from benchmarks.processes import Clients, Provider, clients, provider
from benchmarks.serving import serving
from streamchat import StreamChat
from streamchat.adapters.asgi import asgi_app
from streamchat.buffers.base import EventBuffer
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.models import OpenAIChatModel
from tests.services.process import Unavailable

__all__ = ["burst", "live"]

_NAMES = ("to the client's socket, httpx2, memory", "to the client's socket, aiohttp, memory")


@asynccontextmanager
async def _service(client: openai.AsyncOpenAI, buffer: EventBuffer) -> AsyncIterator[tuple[StreamChat, int]]:
    chat = StreamChat(model=OpenAIChatModel(client, "m"), buffer=buffer, allow_anonymous=True)
    async with chat, serving(asgi_app(chat)) as port:
        yield chat, port


def _burst(browsers: Clients, port: int, chunks: int) -> Case:
    """One run at a time, from the request to its last byte."""

    async def case(clock: Clock) -> float:
        with clock.running():
            await browsers.open(port, "POST", "/runs/stream", body={"message": "Hi"})
            got = await browsers.finish()
        if got["whole"] != 1:
            raise RuntimeError(f"the answer did not come whole: {got}")
        return chunks

    return case


def _live(browsers: Clients, source: Provider, chat: StreamChat, port: int, scale: Scale) -> Case:
    """Many runs at once, watched while they are under way; they are cancelled afterwards."""

    async def case(clock: Clock) -> float:
        await browsers.open(port, "POST", "/runs/stream", scale.live_streams, {"message": "Hi"})
        chunks = await source.watch(clock, scale)
        for conversation in await chat.conversations(limit=1000):
            if conversation.active_run_id is not None:
                await chat.cancel(conversation.active_run_id)
        await browsers.finish()
        return chunks

    return case


class _PassingOn:
    """The least that a server can do: an ASGI application that hands the client's bytes on as they come."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client
        self._ending = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass one stream on, until told to end."""
        if scope["type"] != "http":
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        create = self._client.chat.completions.with_streaming_response.create
        async with create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True) as response:
            async for block in response.http_response.aiter_bytes():
                await send({"type": "http.response.body", "body": block, "more_body": True})
                if self._ending:
                    break
        await send({"type": "http.response.body", "body": b""})

    def burst(self, browsers: Clients, port: int, chunks: int) -> Case:
        """One at a time, as in `_burst`."""

        async def case(clock: Clock) -> float:
            self._ending = False
            with clock.running():
                await browsers.open(port, "POST", "/")
                await browsers.finish()
            return chunks

        return case

    def live(self, browsers: Clients, source: Provider, port: int, scale: Scale) -> Case:
        """Many at once, as in `_live`."""

        async def case(clock: Clock) -> float:
            self._ending = False
            await browsers.open(port, "POST", "/", scale.live_streams)
            chunks = await source.watch(clock, scale)
            self._ending = True
            await browsers.finish()
            return chunks

        return case


@asynccontextmanager
async def _services(
    path: str,
) -> AsyncIterator[tuple[Provider, openai.AsyncOpenAI, dict[str, tuple[StreamChat, int]], Clients]]:
    """The service over both transports, and over several buffers."""
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        source = await stack.enter_async_context(provider())
        httpx, aiohttp = await stack.enter_async_context(both_clients(source.url + path))
        sqlite = SQLEventBuffer(f"sqlite:///{Path(directory) / 'benchmark.db'}")
        made = {
            "httpx2": await stack.enter_async_context(_service(httpx, MemoryEventBuffer())),
            "aiohttp": await stack.enter_async_context(_service(aiohttp, MemoryEventBuffer())),
            "SQLite": await stack.enter_async_context(_service(httpx, sqlite)),
        }
        try:
            postgres, _ = await stack.enter_async_context(postgres_buffer())
            made["PostgreSQL"] = await stack.enter_async_context(_service(httpx, postgres))
        except Unavailable as error:
            print(f"(without PostgreSQL: {error})")
        yield source, httpx, made, await stack.enter_async_context(clients())


async def burst(scale: Scale) -> list[Row]:
    """2,000 chunks that come at once."""
    chunks = scale.burst_chunks
    path = f"/burst/{chunks}/v1"
    async with _services(path) as (source, client, services, browsers), AsyncExitStack() as stack:
        httpx, aiohttp = await stack.enter_async_context(both_clients(source.url + path))
        cases = {"sdk": whole(iterating(client), chunks)}
        cases |= {name: _burst(browsers, port, chunks) for name, (_, port) in services.items()}
        for name, other in (("least, httpx2", httpx), ("least, aiohttp", aiohttp)):
            app = _PassingOn(other)
            cases[name] = app.burst(browsers, await stack.enter_async_context(serving(app)), chunks)
        samples = await in_turns(cases, scale.rounds * 2)
    return [
        samples.row(_NAMES[0], "httpx2", "sdk", 0.20, least="least, httpx2"),
        samples.row(_NAMES[1], "aiohttp", "sdk", 0.10, least="least, aiohttp"),
        samples.row("(to the client's socket, httpx2, SQLite)", "SQLite", "sdk"),
        samples.row("(SQLite beside memory)", "SQLite", "httpx2"),
        *(
            samples.row(f"({name} beside memory)", name, "httpx2")
            for name in ("PostgreSQL",)
            if name in services
        ),
        samples.row("(the least, httpx2: bytes passed on as they are)", "least, httpx2", "sdk"),
        samples.row("(the least, aiohttp)", "least, aiohttp", "sdk"),
    ]


async def live(scale: Scale) -> list[Row]:
    """25 streams at once."""
    async with (
        _services("/live/100000/v1") as (source, client, services, browsers),
        AsyncExitStack() as stack,
    ):
        httpx, aiohttp = await stack.enter_async_context(both_clients(f"{source.url}/live/100000/v1"))
        cases = {"sdk": amid(iterating(client), source, scale)}
        cases |= {name: _live(browsers, source, chat, port, scale) for name, (chat, port) in services.items()}
        for name, other in (("least, httpx2", httpx), ("least, aiohttp", aiohttp)):
            app = _PassingOn(other)
            cases[name] = app.live(browsers, source, await stack.enter_async_context(serving(app)), scale)
        samples = await in_turns(cases, scale.rounds, warm_up=False)
        crowd = scale.crowd
        cases = {
            "sdk": amid(iterating(client), source, crowd),
            "aiohttp": _live(browsers, source, *services["aiohttp"], crowd),
        }
        many = await in_turns(cases, scale.rounds, warm_up=False)
    return [
        samples.row(_NAMES[0], "httpx2", "sdk", 0.50, least="least, httpx2", margin=LIVE),
        samples.row(_NAMES[1], "aiohttp", "sdk", 0.27, least="least, aiohttp", margin=LIVE),
        samples.row("SQLite beside memory", "SQLite", "httpx2", 1.3, margin=LIVE),
        *(
            samples.row(f"{name} beside memory", name, "httpx2", 1.3, margin=LIVE)
            for name in ("PostgreSQL",)
            if name in services
        ),
        samples.row("(the least, httpx2: bytes passed on as they are)", "least, httpx2", "sdk"),
        samples.row("(the least, aiohttp)", "least, aiohttp", "sdk"),
        samples.row("(memory beside the least, httpx2)", "httpx2", "least, httpx2"),
        many.row(
            f"(to the client's socket, aiohttp, memory, {crowd.live_streams} streams)", "aiohttp", "sdk"
        ),
    ]
