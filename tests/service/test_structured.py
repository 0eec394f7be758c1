"""Structured results in the service: the object in the status, and a worker that dies in the middle."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from streamchat import EventBuffer, RunOptions, ServiceLimits, StreamChat, check_log
from streamchat.errors import IdempotencyConflict, InvalidInput
from streamchat.service.log import read_log
from streamchat.testing import ScriptedModel, Stall, Step

from .support import WatchedBuffer, drain

pytestmark = pytest.mark.anyio


@pytest.fixture
def buffer(any_store: EventBuffer) -> EventBuffer:
    """One of each sort: what is counted, kept and taken over is the store's doing."""
    return any_store


class Answer(BaseModel):
    title: str
    count: int = 1


OPTIONS = RunOptions(output_type=Answer, output_interval=0.0)
GOOD = '{"title": "Two words", "count": 2}'


def service(buffer: EventBuffer, model: ScriptedModel, **more: Any) -> StreamChat:
    watched: Any = WatchedBuffer(buffer)
    return StreamChat(model=model, buffer=watched, allow_anonymous=True, options=OPTIONS, **more)


async def test_the_status_of_a_run_holds_its_object(buffer: EventBuffer) -> None:
    async with service(buffer, ScriptedModel([GOOD])) as chat:
        answer = await chat.reply(None, "go")
    assert answer.output == {"title": "Two words", "count": 2}
    assert answer.as_json()["output"] == answer.output


async def test_without_an_object_the_status_says_none(buffer: EventBuffer) -> None:
    async with service(buffer, ScriptedModel.text("{}", repeat=True)) as chat:
        answer = await chat.reply(None, "go")
    assert (answer.status, answer.output) == ("error", None)
    assert "output" not in answer.as_json()
    assert answer.state.error is not None
    assert answer.state.error.code == "invalid_output"


async def test_another_worker_goes_on_with_what_the_model_was_told(buffer: EventBuffer) -> None:
    stall = Stall()
    first = ScriptedModel(['{"count": "many"}', Step(GOOD, stall_after=1, stall=stall)])
    async with service(buffer, first, limits=ServiceLimits(drain_seconds=0.0)) as chat:
        run = await chat.start(None, "go")
        await stall.reached()
    assert (await buffer.get(run.run_id)).status == "queued"
    second = ScriptedModel([GOOD])
    async with service(buffer, second, limits=ServiceLimits(look_every=0.01)) as chat:
        async for _ in chat.attach(run.run_id).events():
            pass
        status = await chat.status(run.run_id)
    assert (status.status, status.output) == ("success", {"title": "Two words", "count": 2})
    assert check_log(await read_log(buffer, run.run_id)) == "over"
    (request,) = second.requests
    assert [message.role for message in request.messages] == ["user", "assistant", "user"]
    assert "title" in str(request.messages[2].content)


class Trip(BaseModel):
    days: int


async def test_a_run_has_a_type_of_its_own_in_whichever_process(buffer: EventBuffer) -> None:
    model = ScriptedModel(['{"days": "many"}', '{"days": 3}', GOOD])
    watched: Any = WatchedBuffer(buffer)
    named: dict[str, Any] = {"buffer": watched, "allow_anonymous": True, "output_types": [Trip]}
    async with StreamChat(model=model, work=False, **named) as web:
        trip = await web.start(None, "go", output_type=Trip)
    async with StreamChat(model=model, options=OPTIONS, **named) as worker:
        await drain(worker, trip.run_id)
        assert (await worker.status(trip.run_id)).output == {"days": 3}
        assert (await worker.reply(None, "go")).output == {"title": "Two words", "count": 2}
        again = await worker.start(None, "go", output_type="Trip", idempotency_key="k")
        with pytest.raises(IdempotencyConflict):
            await worker.start(None, "go", idempotency_key="k")
        await worker.cancel(again.run_id)


async def test_a_type_that_a_process_does_not_know_is_refused_and_never_guessed(buffer: EventBuffer) -> None:
    watched: Any = WatchedBuffer(buffer)
    more: dict[str, Any] = {"buffer": watched, "allow_anonymous": True}
    async with StreamChat(model=ScriptedModel([]), work=False, output_types=[Trip], **more) as web:
        with pytest.raises(InvalidInput, match="output_types"):
            await web.start(None, "go", output_type=Answer)
        trip = await web.start(None, "go", output_type="Trip")
    async with StreamChat(model=ScriptedModel([]), **more) as worker:
        await drain(worker, trip.run_id)
        ended = await worker.status(trip.run_id)
        assert (ended.status, ended.output) == ("error", None)
    with pytest.raises(InvalidInput, match="Trip"):
        StreamChat(
            model=ScriptedModel([]), output_types=[Trip, type("Trip", (Answer,), {})], allow_anonymous=True
        )
