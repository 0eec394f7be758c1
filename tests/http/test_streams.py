"""A stream's life between and around the events: heartbeats, farewells, failures behind it, and its end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamchat.buffers.base import NewEvent
from streamchat.core.sse import SSEDecoder
from streamchat.errors import BufferUnavailable
from streamchat.events import StepStarted, StreamEvent, Suspended, Wait
from streamchat.http import Endpoints, HTTPOptions, Response
from streamchat.http.streams import EventStream
from streamchat.service.chat import ServiceLimits
from streamchat.service.hub import Subscription
from streamchat.testing import ScriptedModel, Stall, Step
from streamchat.wire.native import HEARTBEAT
from tests.http.asking import ask, collect, make_request, serving

pytestmark = pytest.mark.anyio

SUSPENDED = Suspended(waits=(Wait(kind="job", call_id="c", job_id="r:c"),))


@asynccontextmanager
async def stalled(options: HTTPOptions | None = None) -> AsyncIterator[tuple[Endpoints, str, Stall]]:
    """Endpoints with one run that has said one word and then stands still."""
    stall = Stall()
    model = ScriptedModel([Step("Hello there.", stall_after=1, stall=stall)])
    async with serving(model, options=options, limits=ServiceLimits(drain_seconds=0)) as endpoints:
        answer = await ask(endpoints, "POST", "/runs", json={"message": "Hi"})
        await stall.reached()
        yield endpoints, answer.json()["run_id"], stall


async def open_stream(endpoints: Endpoints, run_id: str, last_event_id: str | None = None) -> EventStream:
    headers = {"Last-Event-ID": last_event_id} if last_event_id else None
    response = await endpoints.handle(make_request("GET", f"/runs/{run_id}/stream", headers=headers))
    assert isinstance(response.body, EventStream), response
    return response.body


async def read_until(stream: EventStream, text: bytes) -> bytes:
    got = b""
    while text not in got:
        got += await anext(stream)
    return got


async def test_a_quiet_stream_has_heartbeats_and_the_first_one_is_padded() -> None:
    async with stalled(HTTPOptions(heartbeat=0.02, padding=3000)) as (endpoints, run_id, stall):
        stream = await open_stream(endpoints, run_id)
        got = await read_until(stream, HEARTBEAT)
        assert b": " + b"." * 2996 + b"\n\n" + HEARTBEAT in got
        assert await anext(stream) == HEARTBEAT
        assert await anext(stream) == HEARTBEAT
        stall.release()
        rest = await read_until(stream, b"finalized")
        await stream.aclose()
        frames = SSEDecoder().feed(got + rest)
        assert [json.loads(frame.data)["seq"] for frame in frames] == list(range(1, len(frames) + 1))


async def test_the_delays_that_clients_are_told_are_spread() -> None:
    async with stalled(HTTPOptions(retry=2.0)) as (endpoints, run_id, _stall):
        delays = set()
        for _ in range(20):
            stream = await open_stream(endpoints, run_id)
            decoder = SSEDecoder()
            decoder.feed(await anext(stream))
            assert decoder.retry is not None
            delays.add(decoder.retry)
            await stream.aclose()
        assert len(delays) > 10
        assert all(1000 <= delay <= 3000 for delay in delays)


async def test_while_the_service_drains_a_quiet_stream_says_farewell_at_once() -> None:
    async with stalled() as (endpoints, run_id, _stall):
        stream = await open_stream(endpoints, run_id)
        got = await read_until(stream, b"text_delta")
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await endpoints.chat.drain(0)
        farewell = await waiting
        # What the handing over wrote may still come before it.
        while b"retry:" not in farewell:
            got += farewell
            farewell = await anext(stream)
        assert farewell.startswith(b"retry: ")
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await stream.aclose()
        cursor = SSEDecoder()
        cursor.feed(got)
        # Elsewhere, or later, it goes on from where it was.
        again = await open_stream(endpoints, run_id, cursor.last_event_id)
        assert (await anext(again)).startswith(f"id: {cursor.last_event_id}\n\n".encode())
        await again.aclose()


async def test_a_stream_outlives_its_service_without_harm() -> None:
    async with stalled() as (endpoints, run_id, _stall):
        stream = await open_stream(endpoints, run_id)
        await read_until(stream, b"text_delta")
    rest = await collect(Response(200, stream))
    assert b"retry:" in rest.body
    await stream.aclose()


async def test_a_stream_of_limited_life_ends_between_events_and_is_resumed() -> None:
    options = HTTPOptions(stream_lifetime=0.01, heartbeat=60)
    async with stalled(options) as (endpoints, run_id, stall):
        first = await collect(Response(200, await open_stream(endpoints, run_id)))
        assert first.body.endswith(b"\n\n")
        assert first.body.rpartition(b"\n\nretry: ")[1]
        stall.release()
        frames = first.frames
        while frames[-1].event != "finalized":
            stream = await open_stream(endpoints, run_id, frames[-1].id)
            frames += (await collect(Response(200, stream))).frames
        log = (await ask(endpoints, "GET", f"/runs/{run_id}/events")).json()["events"]
        assert [json.loads(frame.data) for frame in frames] == log


async def append(endpoints: Endpoints, run_id: str, *events: StreamEvent, then: Any) -> None:
    """Write as a worker would."""
    buffer = endpoints.chat.buffer
    claim = await buffer.claim("by hand", 60, run_id)
    assert claim is not None
    await buffer.append(claim.lease, [NewEvent.of(event) for event in events], then=then)


@asynccontextmanager
async def suspended(options: HTTPOptions) -> AsyncIterator[tuple[Endpoints, str]]:
    """Endpoints with a run that waits for a job, in a service that works on nothing itself."""
    async with serving(options=options, limits=ServiceLimits(max_runs=0)) as endpoints:
        answer = await ask(endpoints, "POST", "/runs", json={"message": "Hi"})
        run_id = answer.json()["run_id"]
        await append(endpoints, run_id, StepStarted(step=1), SUSPENDED, then="suspend")
        yield endpoints, run_id


async def test_a_suspended_stream_lingers_and_then_closes_with_a_long_delay() -> None:
    options = HTTPOptions(suspended_linger=0.03, suspended_retry=100.0, heartbeat=60)
    async with suspended(options) as (endpoints, run_id):
        answer = await ask(endpoints, "GET", f"/runs/{run_id}/stream")
        assert answer.frames[-1].event == "suspended"
        delay = int(answer.body.rpartition(b"retry: ")[2])
        assert 50_000 <= delay <= 150_000
        # Caught up, but not over: no 204, which would stop an EventSource for good.
        header = {"Last-Event-ID": answer.frames[-1].id}
        again = await ask(endpoints, "GET", f"/runs/{run_id}/stream", headers=header)
        assert (again.status, again.frames) == (200, [])


async def test_a_suspended_stream_that_goes_on_while_it_lingers_stays() -> None:
    async with suspended(HTTPOptions(suspended_linger=60, heartbeat=60)) as (endpoints, run_id):
        stream = await open_stream(endpoints, run_id)
        await read_until(stream, b"suspended")
        waiting = asyncio.ensure_future(anext(stream))
        await endpoints.chat.cancel(run_id)
        rest = await waiting
        while b"event: finalized" not in rest:
            rest += await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await stream.aclose()


@pytest.mark.parametrize(
    ("error", "level"),
    [(BufferUnavailable("gone"), logging.WARNING), (RuntimeError("secret"), logging.ERROR)],
)
async def test_a_failure_behind_a_stream_ends_it_is_logged_and_not_told(
    error: Exception, level: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stalled() as (endpoints, run_id, _stall):
        stream = await open_stream(endpoints, run_id)

        async def fails(*args: Any) -> bytes:
            raise error

        with monkeypatch.context() as patch, caplog.at_level(level, "streamchat.http"):
            patch.setattr(Subscription, "next_bytes", fails)
            answer = await collect(Response(200, stream))
        assert str(error).encode() not in answer.body
        assert b"\n\nretry: " in answer.body
        (record,) = [each for each in caplog.records if each.name == "streamchat.http"]
        assert (record.levelno, run_id in record.getMessage()) == (level, True)


async def test_a_run_that_is_deleted_ends_its_streams() -> None:
    async with stalled() as (endpoints, run_id, _stall):
        stream = await open_stream(endpoints, run_id)
        await read_until(stream, b"text_delta")
        endpoints.chat.hub._poll = 0.01
        assert await endpoints.chat.buffer.delete(run_id=run_id) == 1
        endpoints.chat.hub.feed(run_id, False)
        await collect(Response(200, stream))
        assert (await ask(endpoints, "GET", f"/runs/{run_id}/stream")).status == 404


async def test_closing_a_stream_that_was_never_begun_gives_its_place_back() -> None:
    async with stalled() as (endpoints, run_id, _stall):
        stream = await open_stream(endpoints, run_id)
        assert endpoints.open_streams == 1
        await stream.aclose()
        assert endpoints.open_streams == 0
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_all_that_is_pending_is_one_write() -> None:
    async with serving() as endpoints:
        run_id = (await ask(endpoints, "POST", "/runs/reply", json={"message": "Hi"})).json()["run_id"]
        stream = await open_stream(endpoints, run_id)
        assert (await anext(stream)).startswith(b"id: ")
        block = await anext(stream)
        assert block.count(b"\nevent: ") > 5
        assert b"event: finalized" in block
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await stream.aclose()
