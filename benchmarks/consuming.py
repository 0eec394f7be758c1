"""`orchestrate()` beside iterating the SDK's stream of the same bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import httpx2
import openai
from jiter import from_json

from benchmarks.bodies import chat_frames
from benchmarks.measure import LIVE, Case, Clock, Row, Scale, in_turns
from benchmarks.processes import Provider, provider
from streamchat import orchestrate
from streamchat.models import OpenAIChatModel

__all__ = ["amid", "both_clients", "burst", "in_process", "iterating", "live", "orchestrating", "whole"]

Stream: TypeAlias = Callable[[], Coroutine[Any, Any, int]]
"""Consumes one stream; returns what it counted."""


_BLOCK = 8192


def iterating(client: openai.AsyncOpenAI) -> Stream:
    """What an application does without us."""

    async def stream() -> int:
        chunks = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        count = 0
        async for _ in chunks:
            count += 1
        return count

    return stream


def orchestrating(client: openai.AsyncOpenAI) -> Stream:
    """The same answer as typed events."""
    model = OpenAIChatModel(client, "m")

    async def stream() -> int:
        count, last = 0, ""
        async for event in orchestrate(model, "Hi"):
            count += 1
            last = event.type
        if last != "finalized":
            raise RuntimeError(f"the run ended with {last!r}")
        return count

    return stream


def splitting(client: openai.AsyncOpenAI) -> Stream:
    """The least that can be done with the client's bytes: split them, decode the JSON, keep nothing."""

    async def stream() -> int:
        create = client.chat.completions.with_streaming_response.create
        count = 0
        async with create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True) as response:
            rest = b""
            async for block in response.http_response.aiter_bytes():
                *pieces, rest = (rest + block).split(b"\n\n")
                for piece in pieces:
                    if piece != b"data: [DONE]":
                        from_json(piece[6:])
                        count += 1
        return count

    return stream


def whole(stream: Stream, chunks: int, times: int = 1) -> Case:
    """From the request to the end, one after the other."""

    async def case(clock: Clock) -> int:
        with clock.running():
            for _ in range(times):
                await stream()
        return chunks * times

    return case


def amid(stream: Stream, source: Provider, scale: Scale) -> Case:
    """Many at once, from the time when all are under way; requests and endings are left out."""

    async def case(clock: Clock) -> float:
        tasks = [asyncio.create_task(stream()) for _ in range(scale.live_streams)]
        chunks = await source.watch(clock, scale)
        for task in tasks:
            if task.done():
                await task
            task.cancel()
        await asyncio.wait(tasks)
        return chunks

    return case


class _Recorded(httpx2.AsyncBaseTransport):
    """Answers each request with the same body, in blocks, without a socket."""

    def __init__(self, body: bytes) -> None:
        self._blocks = [body[i : i + _BLOCK] for i in range(0, len(body), _BLOCK)]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=_Blocks(self._blocks), request=request)


class _Blocks(httpx2.AsyncByteStream):
    def __init__(self, blocks: list[bytes]) -> None:
        self._blocks = blocks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self._blocks:
            yield block


async def in_process(scale: Scale) -> list[Row]:
    """Over a transport that hands out the recorded body: what is left without a network."""
    chunks = scale.burst_chunks
    http = httpx2.AsyncClient(transport=_Recorded(b"".join(chat_frames(chunks))))
    async with openai.AsyncOpenAI(api_key="x", base_url="http://recorded/v1", http_client=http) as client:
        cases = {"sdk": whole(iterating(client), chunks), "ours": whole(orchestrating(client), chunks)}
        samples = await in_turns(cases, scale.rounds * 3)
    return [samples.row("orchestrate(), in-process transport", "ours", "sdk", 0.10)]


@asynccontextmanager
async def both_clients(url: str) -> AsyncIterator[tuple[openai.AsyncOpenAI, openai.AsyncOpenAI]]:
    """Clients over httpx2 and aiohttp."""
    async with (
        openai.AsyncOpenAI(api_key="x", base_url=url, max_retries=0) as httpx,
        openai.AsyncOpenAI(
            api_key="x", base_url=url, max_retries=0, http_client=openai.DefaultAioHttpClient()
        ) as aiohttp,
    ):
        yield httpx, aiohttp


async def burst(scale: Scale) -> list[Row]:
    """Over loopback, many chunks in each write."""
    chunks = scale.burst_chunks
    async with provider() as source, both_clients(f"{source.url}/burst/{chunks}/v1") as (httpx, aiohttp):
        cases = {
            "sdk": whole(iterating(httpx), chunks),
            "httpx2": whole(orchestrating(httpx), chunks),
            "aiohttp": whole(orchestrating(aiohttp), chunks),
            "sdk over aiohttp": whole(iterating(aiohttp), chunks),
            "least, httpx2": whole(splitting(httpx), chunks),
            "least, aiohttp": whole(splitting(aiohttp), chunks),
        }
        samples = await in_turns(cases, scale.rounds * 2)
        async with both_clients(f"{source.url}/burst/1/v1") as (one, _):
            few = {"sdk": whole(iterating(one), 1, 20), "ours": whole(orchestrating(one), 1, 20)}
            requests = await in_turns(few, scale.rounds)
    return [
        samples.row("orchestrate(), httpx2", "httpx2", "sdk", 0.15, least="least, httpx2"),
        samples.row("orchestrate(), aiohttp", "aiohttp", "sdk", 0.06, least="least, aiohttp"),
        samples.row("(the least, httpx2: split and decode the JSON)", "least, httpx2", "sdk"),
        samples.row("(the least, aiohttp)", "least, aiohttp", "sdk"),
        samples.row("(iterating the SDK over aiohttp)", "sdk over aiohttp", "sdk"),
        requests.row("(a whole request of one chunk)", "ours", "sdk"),
    ]


async def live(scale: Scale) -> list[Row]:
    """Over loopback, chunk by chunk, many streams at once."""
    async with provider() as source, both_clients(f"{source.url}/live/100000/v1") as (httpx, aiohttp):
        cases = {
            "sdk": amid(iterating(httpx), source, scale),
            "httpx2": amid(orchestrating(httpx), source, scale),
            "aiohttp": amid(orchestrating(aiohttp), source, scale),
            "sdk over aiohttp": amid(iterating(aiohttp), source, scale),
            "least, httpx2": amid(splitting(httpx), source, scale),
            "least, aiohttp": amid(splitting(aiohttp), source, scale),
        }
        samples = await in_turns(cases, scale.rounds, warm_up=False)
        crowd = scale.crowd
        cases = {
            "sdk": amid(iterating(httpx), source, crowd),
            "aiohttp": amid(orchestrating(aiohttp), source, crowd),
        }
        many = await in_turns(cases, scale.rounds, warm_up=False)
    return [
        samples.row("orchestrate(), httpx2", "httpx2", "sdk", 0.47, least="least, httpx2", margin=LIVE),
        samples.row("orchestrate(), aiohttp", "aiohttp", "sdk", 0.24, least="least, aiohttp", margin=LIVE),
        samples.row("(the least, httpx2: split and decode the JSON)", "least, httpx2", "sdk"),
        samples.row("(the least, aiohttp)", "least, aiohttp", "sdk"),
        samples.row("(iterating the SDK over aiohttp)", "sdk over aiohttp", "sdk"),
        many.row(f"(orchestrate(), aiohttp, {crowd.live_streams} streams)", "aiohttp", "sdk"),
    ]
