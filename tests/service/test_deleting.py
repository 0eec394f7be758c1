"""Deletion: workers and tools are told first, then nothing is left, here or in the store."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from streamchat import (
    EventBuffer,
    Principal,
    RunSummary,
    ServiceLimits,
    StreamChat,
    Subscription,
    ToolRegistry,
)
from streamchat.errors import (
    BufferUnavailable,
    ConversationNotFound,
    InvalidInput,
    NotAuthorized,
    RunNotFound,
)
from streamchat.testing import Call, ScriptedModel, Stall, Step
from streamchat.tools import Deferred

from .support import Mortal, WatchedBuffer, drain, paused

pytestmark = pytest.mark.anyio

ADA, BOB = Principal("ada", "acme"), Principal("bob", "acme")


def service(buffer: EventBuffer, model: ScriptedModel, **more: Any) -> StreamChat:
    watched: Any = WatchedBuffer(buffer)
    return StreamChat(model=model, buffer=watched, **{"allow_anonymous": True, **more})


def working() -> tuple[ToolRegistry, asyncio.Event, asyncio.Event]:
    """A tool that works until it is cancelled; whether it began, and was told."""
    tools, began, told = ToolRegistry(), asyncio.Event(), asyncio.Event()

    @tools.tool
    async def work() -> str:
        """Work."""
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            told.set()
        return "done"

    return tools, began, told


async def test_a_deleted_conversation_stops_its_run_and_its_tool_first(buffer: EventBuffer) -> None:
    tools, began, told = working()
    summaries: asyncio.Queue[RunSummary] = asyncio.Queue()
    model = ScriptedModel([Step(calls=[Call("work")])])
    async with service(buffer, model, tools=tools, on_run_finished=summaries.put_nowait) as chat:
        started = await chat.start(None, "go", ADA)
        await began.wait()
        assert await chat.delete(started.conversation_id, ADA) == 1
        assert told.is_set()
        assert (await summaries.get()).outcome == "cancelled"
        for refused in (chat.status, chat.presence, chat.cancel):
            with pytest.raises(RunNotFound):
                await refused(started.run_id, ADA)
        with pytest.raises(RunNotFound):
            await chat.attach(started.run_id, principal=ADA)
        with pytest.raises(ConversationNotFound):
            await chat.history(started.conversation_id, ADA)
        assert await chat.conversations(ADA) == []
        # The id is buried: nobody gets it again.
        with pytest.raises(ConversationNotFound):
            await chat.start(started.conversation_id, "again", ADA)


def working_behind_a_newer_run() -> tuple[ToolRegistry, ScriptedModel, asyncio.Event, asyncio.Event]:
    """A run that waits for a job and then works in a tool, one that waits for approval, and what is seen."""
    tools, began, told = working()

    @tools.tool(deferred=True)
    async def build() -> Deferred:
        """Build."""
        return Deferred("It is being built.")

    @tools.tool(requires_approval=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    calls = (Call("build", id="job"), Call("pay"), Call("work"))
    return tools, ScriptedModel([Step(calls=[call]) for call in calls]), began, told


@pytest.mark.parametrize("what", ["conversation", "principal"])
async def test_a_run_that_works_behind_a_newer_one_is_stopped_too(buffer: EventBuffer, what: str) -> None:
    tools, model, began, told = working_behind_a_newer_run()
    async with service(buffer, model, tools=tools) as chat:
        first = await chat.start("home", "build", ADA)
        await paused(chat, first.run_id, ADA)
        second = await chat.start("home", "pay", ADA)
        await paused(chat, second.run_id, ADA)
        await chat.complete_job(f"{first.run_id}:job", "built")
        await began.wait()
        if what == "conversation":
            assert await chat.delete("home", ADA) == 2
        else:
            assert await chat.delete_principal(ADA, ADA) == 2
        assert told.is_set()


async def test_what_works_behind_a_run_that_does_not_stop_in_time_is_told_too(buffer: EventBuffer) -> None:
    tools, model, began, told = working_behind_a_newer_run()
    async with service(buffer, model, tools=tools) as chat:
        first = await chat.start("home", "build", ADA)
        await paused(chat, first.run_id, ADA)
        second = await chat.start("home", "pay", ADA)
        await paused(chat, second.run_id, ADA)
        await chat.complete_job(f"{first.run_id}:job", "built")
        await began.wait()
        stop, stopped = chat._stopper.stop, list[str]()

        async def impatient(run_id: str, reason: str, by: str | None, seconds: float) -> bool:
            stopped.append(run_id)
            return run_id != second.run_id and await stop(run_id, reason, by, seconds)

        chat._stopper.stop = impatient  # type: ignore[method-assign]
        assert await chat.delete("home", ADA) == 2
        assert stopped == [second.run_id, first.run_id]
        assert told.is_set()


async def read_on(subscription: Subscription) -> None:
    while True:
        await subscription.next()


async def test_what_does_not_stop_in_time_is_deleted_all_the_same(buffer: EventBuffer) -> None:
    model = ScriptedModel([Step("Hello", stall_after=0)], repeat=True)
    async with service(buffer, model, limits=ServiceLimits(delete_seconds=0.0)) as chat:
        started = await chat.start(None, "go")
        subscription = await chat.attach(started.run_id)
        assert await chat.delete(run_id=started.run_id) == 1
        # It may have seen the end before the rows went.
        with pytest.raises((RunNotFound, StopAsyncIteration)):
            await read_on(subscription)
        await subscription.close()
        # Its worker finds out by itself, and nothing of it stays in this process.
        supervisor = chat._supervisor
        assert supervisor is not None
        while supervisor.active:
            await asyncio.sleep(0.01)
        assert chat.hub._topics == {}
        assert chat.hub._fed == set()


async def test_a_deleted_run_goes_alone(buffer: EventBuffer) -> None:
    async with service(buffer, ScriptedModel.text("Hi.", repeat=True)) as chat:
        first = await chat.reply(None, "one")
        second = await chat.reply(first.conversation_id, "two")
        assert await chat.delete(run_id=second.run_id) == 1
        assert [record.run_id for record in await chat.history(first.conversation_id)] == [first.run_id] * 2
        with pytest.raises(RunNotFound):
            await chat.delete(run_id=second.run_id)
        await chat.reply(first.conversation_id, "three")


async def test_what_is_anothers_cannot_be_deleted_and_looks_unknown(buffer: EventBuffer) -> None:
    async with service(buffer, ScriptedModel.text("Hi.", repeat=True)) as chat:
        mine = await chat.reply(None, "one", ADA)
        for conversation_id in (mine.conversation_id, "unknown"):
            with pytest.raises(ConversationNotFound):
                await chat.delete(conversation_id, BOB)
        with pytest.raises(RunNotFound):
            await chat.delete(principal=BOB, run_id=mine.run_id)
        with pytest.raises(NotAuthorized):
            await chat.delete_principal(ADA, BOB)
        with pytest.raises(InvalidInput):
            await chat.delete(mine.conversation_id, ADA, run_id=mine.run_id)
        with pytest.raises(InvalidInput):
            await chat.delete(principal=ADA)
        assert (await chat.status(mine.run_id, ADA)).status == "success"


@pytest.mark.parametrize("what", ["run", "conversation", "principal"])
async def test_a_store_that_goes_away_while_runs_are_stopped_is_said_to_be(
    buffer: EventBuffer, what: str
) -> None:
    mortal = Mortal(buffer)
    async with service(cast(EventBuffer, mortal), ScriptedModel(), work=False) as chat:
        started = await chat.start(None, "go", ADA)
        delete = {
            "run": lambda: chat.delete(principal=ADA, run_id=started.run_id),
            "conversation": lambda: chat.delete(started.conversation_id, ADA),
            "principal": lambda: chat.delete_principal(ADA, ADA),
        }[what]
        mortal.unheard = {"post"}
        with pytest.raises(BufferUnavailable):
            await delete()
    assert (await buffer.get(started.run_id)).run_id == started.run_id


async def test_all_of_a_principal_is_deleted_and_nothing_of_others(buffer: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("a"), Step("b"), Step("c"), Step("d e", stall_after=1, stall=stall)])
    namesake = Principal("ada", "other")
    async with service(buffer, model) as chat:
        old = await chat.reply(None, "one", ADA)
        others = [await chat.reply(None, "two", BOB), await chat.reply(None, "three", namesake)]
        active = await chat.start(None, "four", ADA)
        await stall.reached()
        assert await chat.delete_principal(ADA, ADA) == 2
        for gone in (old.run_id, active.run_id):
            with pytest.raises(RunNotFound):
                await chat.status(gone, ADA)
        assert await chat.conversations(ADA) == []
        assert (await chat.status(others[0].run_id, BOB)).status == "success"
        assert (await chat.status(others[1].run_id, namesake)).status == "success"
        assert await chat.delete_principal(ADA, ADA) == 0


async def test_authorize_decides_on_deletions(buffer: EventBuffer) -> None:
    asked: list[tuple[str, str | None, str | None]] = []

    def authorize(principal: Principal | None, action: str, resource: Any) -> bool:
        asked.append((action, resource.conversation_id, resource.owner))
        return action != "delete" or principal == BOB  # an administrator

    async with service(buffer, ScriptedModel.text("Hi."), authorize=authorize) as chat:
        mine = await chat.reply(None, "one", ADA)
        with pytest.raises(ConversationNotFound):
            await chat.delete(mine.conversation_id, ADA)
        assert await chat.delete_principal(ADA, BOB) == 1
        assert asked[-1] == ("delete", None, "ada")


async def test_a_reader_behind_the_background_trim_gets_one_reset_with_the_whole_message(
    buffer: EventBuffer,
) -> None:
    text = " ".join(f"word{number}" for number in range(40))
    async with service(buffer, ScriptedModel.text(text), limits=ServiceLimits(retention=0.0)) as chat:
        answer = await chat.reply(None, "go")
        while (page := await buffer.read(answer.run_id)).first_seq == 1:
            await asyncio.sleep(0.02)
        assert page.closed
        async with chat.attach(answer.run_id) as subscription:
            reset = await subscription.next()
            assert getattr(reset, "reason", None) == "trimmed"
            assert subscription.finished
        assert (await chat.status(answer.run_id)).text == text
        assert await drain(chat, answer.run_id, page.events[0].id) == list(page.events[1:])


async def test_what_came_before_and_after_a_deleted_run_is_still_told_to_the_model(
    any_store: EventBuffer,
) -> None:
    model = ScriptedModel(lambda request: Step(f"{request.messages[-1].content}!"))
    async with service(any_store, model) as chat:
        first, second, *_ = [await chat.reply("home", text) for text in ("one", "two", "three")]
        assert second.conversation_id == first.conversation_id == "home"
        await chat.delete(run_id=second.run_id)
        await chat.reply("home", "four")
        said = [message.content for message in model.requests[-1].messages]
        assert said == ["one", "one!", "three", "three!", "four"]


async def test_an_enqueued_message_is_told_of_what_came_before_a_deleted_one(any_store: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("First.", stall_after=0, stall=stall), "Third.", "Fourth."])
    async with service(any_store, model, on_busy="enqueue") as chat:
        await chat.start("home", "one")
        await stall.reached()
        second = await chat.start("home", "two")
        third = await chat.start("home", "three")
        await chat.delete(run_id=second.run_id)
        stall.release()
        await drain(chat, third.run_id)
        assert [message.content for message in model.requests[-1].messages] == ["one", "First.", "three"]
