"""A bare generator of events as a stream: ids of its own, a prompt end, and no half of a log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from streamchat.core.lifecycle import check_log
from streamchat.core.sse import SSEDecoder
from streamchat.events import (
    ModelCompleted,
    RunStarted,
    StepStarted,
    StreamEvent,
    TextDelta,
    ToolCallEvent,
    ToolStarted,
    parse_event,
)
from streamchat.http import ByteStream, HTTPOptions, bare_response
from streamchat.orchestrator import orchestrate
from streamchat.testing import ScriptedModel, Stall, Step
from tests.http.asking import collect

pytestmark = pytest.mark.anyio

BEGINNING: list[StreamEvent] = [
    RunStarted(run_id="r"),
    StepStarted(step=1),
    TextDelta(step=1, part=0, text="Hel"),
    ToolCallEvent(step=1, part=1, call_id="c1", name="one", arguments={}),
    ToolCallEvent(step=1, part=2, call_id="c2", name="two", arguments={}),
    ModelCompleted(step=1, finish_reason="tool_calls", parts=(), call_ids=("c1", "c2")),
    ToolStarted(step=1, call_id="c1", attempt=1, idempotency_key="k"),
]


def stream_of(events: AsyncIterator[StreamEvent], options: HTTPOptions | None = None) -> ByteStream:
    body = bare_response(events, options=options).body
    assert not isinstance(body, bytes)
    return body


async def test_orchestrate_is_streamed_with_gapless_ids_of_one_generation() -> None:
    response = bare_response(orchestrate(ScriptedModel.text("Hello there."), "Hi"))
    headers = dict(response.headers)
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["x-accel-buffering"] == "no"
    answer = await collect(response)
    frames = answer.frames
    generation = frames[0].id.partition(".")[0]
    assert answer.body.startswith(f"id: {generation}.0\n\n".encode())
    assert [frame.id for frame in frames] == [f"{generation}.{n}" for n in range(1, len(frames) + 1)]
    check_log([parse_event(frame.data) for frame in frames])
    assert frames[-1].event == "finalized"


@pytest.mark.parametrize("cut", range(0, len(BEGINNING) + 1))
async def test_a_generator_that_raises_leaves_a_legal_log_and_a_masked_error(
    cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def events() -> AsyncGenerator[StreamEvent, None]:
        for event in BEGINNING[:cut]:
            yield event
        raise RuntimeError("password=hunter2")

    with caplog.at_level(logging.ERROR, "streamchat.http"):
        answer = await collect(bare_response(events()))
    assert b"hunter2" not in answer.body
    log = [parse_event(frame.data) for frame in answer.frames]
    check_log(log)
    assert log[-1].type == "finalized"
    (error,) = [json.loads(frame.data) for frame in answer.frames if frame.event == "error"]
    assert (error["phase"], error["code"]) == ("orchestration", "internal_error")
    (record,) = caplog.records
    assert error["correlation_id"] in record.getMessage()


async def test_closing_ends_the_generator_before_it_returns() -> None:
    ended = asyncio.Event()

    async def events() -> AsyncGenerator[StreamEvent, None]:
        try:
            yield RunStarted(run_id="r")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    stream = stream_of(events())
    got = b""
    while b"run_started" not in got:
        got += await anext(stream)
    await stream.aclose()
    assert ended.is_set()
    await stream.aclose()


async def test_a_generator_that_was_never_asked_is_closed_too() -> None:
    generator = orchestrate(ScriptedModel(), "Hi")
    await stream_of(generator).aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(generator)


async def test_a_slow_generator_has_heartbeats_and_is_not_disturbed_by_them() -> None:
    stall = Stall()
    model = ScriptedModel([Step("Hello there.", stall_after=1, stall=stall)])
    stream = stream_of(orchestrate(model, "Hi"), HTTPOptions(heartbeat=0.02, padding=100))
    got = b""
    while got.count(b": heartbeat") < 3:
        got += await anext(stream)
    stall.release()
    async for block in stream:
        got += block
    await stream.aclose()
    frames = SSEDecoder().feed(got)
    check_log([parse_event(frame.data) for frame in frames])
    assert "Hello there." in frames[-2].text


async def test_the_generator_is_not_asked_far_ahead_of_the_client() -> None:
    asked = 0

    async def events() -> AsyncGenerator[StreamEvent, None]:
        nonlocal asked
        yield RunStarted(run_id="r")
        yield StepStarted(step=1)
        while True:
            asked += 1
            yield TextDelta(step=1, part=0, text="x" * 1000)

    stream = stream_of(events())
    await anext(stream)
    for _ in range(5):
        before = asked
        # Nothing but the bound holds it: it never waits for anything.
        for _ in range(1000):
            await asyncio.sleep(0)
        assert asked - before <= 66
        await anext(stream)
    await stream.aclose()


async def test_events_may_come_from_any_iterator() -> None:
    class Events:
        def __init__(self) -> None:
            self.left = list(BEGINNING)

        def __aiter__(self) -> Events:
            return self

        async def __anext__(self) -> StreamEvent:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop(0)

    answer = await collect(bare_response(Events()))
    assert [frame.event for frame in answer.frames] == [event.type for event in BEGINNING]
