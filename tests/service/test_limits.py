"""A run's limits, by way of the service: each reached one is a clean end that clients can read."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from streamchat import EventBuffer, Limits, RunOptions, ServiceLimits, StreamChat, check_log
from streamchat.errors import InvalidInput
from streamchat.service.log import read_log
from streamchat.testing import ScriptedModel, Stall, Step

from .support import WatchedBuffer, log_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def buffer(any_store: EventBuffer) -> EventBuffer:
    """One of each sort: what is counted, kept and taken over is the store's doing."""
    return any_store


def service(buffer: EventBuffer, model: ScriptedModel, **more: Any) -> StreamChat:
    watched: Any = WatchedBuffer(buffer)
    return StreamChat(model=model, buffer=watched, allow_anonymous=True, **more)


@pytest.mark.parametrize("limits", [Limits(max_events=30), Limits(max_log_bytes=4_000)])
async def test_a_log_that_grows_too_long_ends_with_an_error(buffer: EventBuffer, limits: Limits) -> None:
    model = ScriptedModel.text(" ".join(f"word{n}" for n in range(5000)))
    async with service(buffer, model, options=RunOptions(limits=limits)) as chat:
        answer = await chat.reply(None, "go")
        log = await read_log(buffer, answer.run_id)
    assert check_log(log) == "over"
    (error,) = [stored.event for stored in log if stored.type == "error"]
    name = "max_events" if limits.max_events == 30 else "max_log_bytes"
    assert (error.phase, error.code) == ("limit", name)
    # Beyond the limit there is only the end, which holds the text once more.
    assert sum(len(stored.data) for stored in log) < 20_000
    assert len(log) < 60


async def test_a_run_whose_workers_die_before_they_write_anything_is_given_up(buffer: EventBuffer) -> None:
    options = RunOptions(limits=Limits(max_takeovers=2))
    async with service(buffer, ScriptedModel(), work=False) as web:
        started = await web.start(None, "hi")
        for _ in range(4):
            while await buffer.claim("dies", 0.001, started.run_id) is None:
                await asyncio.sleep(0.002)
        model = ScriptedModel.text("Hello.", repeat=True)
        async with service(buffer, model, options=options, limits=ServiceLimits(look_every=0.01)):
            while not (await buffer.get(started.run_id)).over:
                await asyncio.sleep(0.01)
        log = await log_of(web, started.run_id)
        assert model.requests == []
        assert [event.code for event in log if event.type == "error"] == ["max_takeovers"]
        assert check_log(log) == "over"


async def test_a_run_that_was_claimed_in_vain_less_often_goes_on(buffer: EventBuffer) -> None:
    async with service(buffer, ScriptedModel(), work=False) as web:
        started = await web.start(None, "hi")
        for _ in range(3):
            while await buffer.claim("dies", 0.001, started.run_id) is None:
                await asyncio.sleep(0.002)
        options = RunOptions(limits=Limits(max_takeovers=3))
        limits = ServiceLimits(look_every=0.01)
        async with service(buffer, ScriptedModel.text("Hello."), options=options, limits=limits):
            while not (await buffer.get(started.run_id)).over:
                await asyncio.sleep(0.01)
        assert (await web.status(started.run_id)).status == "success"


async def test_a_second_drain_with_less_time_ends_the_first(buffer: EventBuffer) -> None:
    stall = Stall()
    async with service(buffer, ScriptedModel([Step("one two", stall_after=1, stall=stall)])) as chat:
        started = await chat.start(None, "go")
        await stall.reached()
        patient = asyncio.create_task(chat.drain(3600))
        await asyncio.sleep(0)
        await chat.drain(0)
        await patient
        run = await buffer.get(started.run_id)
        assert (run.status, run.owner) == ("queued", None)


def test_limits_that_mean_nothing_are_refused() -> None:
    for bad in ({"retention": -1}, {"retention": timedelta(-1)}, {"presence_ttl": 0}, {"look_every": 0.0}):
        with pytest.raises(InvalidInput, match=next(iter(bad))):
            ServiceLimits(**bad)  # type: ignore[arg-type]
    assert ServiceLimits(retention=timedelta(days=1)).retention_seconds == 86_400
