"""A message to a conversation that is being answered: refused, or in the place of the run that is at work."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamchat import (
    EventBuffer,
    Principal,
    ServiceLimits,
    StoredEvent,
    StreamChat,
    ToolContext,
    ToolRegistry,
    fold,
    owns,
)
from streamchat.errors import ConversationBusy, InvalidInput
from streamchat.models import ModelRequest
from streamchat.service.status import Started
from streamchat.testing import Call, ScriptedModel, Stall, Step
from streamchat.tools import Deferred

from .support import WatchedBuffer

pytestmark = pytest.mark.anyio

ANN = Principal("ann")


@pytest.fixture
def watched(any_store: EventBuffer) -> Any:
    """One of each sort of store, which outlives the service."""
    return WatchedBuffer(any_store)


async def log_of(chat: StreamChat, run_id: str) -> list[StoredEvent]:
    events = chat.attach(run_id, principal=ANN).events()
    return [event async for event in events if isinstance(event, StoredEvent)]


async def test_an_interrupting_message_ends_the_run_and_the_model_sees_what_it_had_said(watched: Any) -> None:
    stall = Stall()
    model = ScriptedModel([Step("Half an answer", stall_after=1, stall=stall), Step("Of course.")])
    async with StreamChat(model=model, authorize=owns, buffer=watched, on_busy="interrupt") as chat:
        first = await chat.start(None, "Tell me all", ANN)
        await stall.reached()
        second = await chat.start(first.conversation_id, "Stop, shorter", ANN)
        assert fold(await log_of(chat, second.run_id)).text == "Of course."
        ended = fold(await log_of(chat, first.run_id))
        assert ended.status == "cancelled"
        assert ended.cancelled is not None
        assert (ended.cancelled.by, ended.cancelled.reason) == ("ann", "interrupted")
    said = [(message.role, message.content) for message in model.requests[-1].messages]
    assert [role for role, _ in said] == ["user", "assistant", "user"]
    assert said[1][1]
    assert "Half an answer".startswith(str(said[1][1]))


async def test_a_run_that_waits_for_an_approval_is_interrupted_and_leaves_no_call_unanswered(
    watched: Any,
) -> None:
    tools = ToolRegistry()
    sent: list[str] = []

    @tools.tool(requires_approval=True)
    async def send(to: str) -> str:
        """Send an email."""
        sent.append(to)
        return "sent"

    model = ScriptedModel([Step(calls=[Call("send", {"to": "bob"})]), Step("Never mind.")])
    async with StreamChat(model=model, tools=tools, authorize=owns, buffer=watched) as chat:
        first = await chat.start(None, "Write to Bob", ANN)
        events = chat.attach(first.run_id, principal=ANN).events()
        async for event in events:
            if event.type == "suspended":
                break
        await events.aclose()
        with pytest.raises(ConversationBusy):
            await chat.start(first.conversation_id, "Rather not", ANN)
        second = await chat.start(first.conversation_id, "Rather not", ANN, on_busy="interrupt")
        assert fold(await log_of(chat, second.run_id)).text == "Never mind."
        assert [call.outcome for call in fold(await log_of(chat, first.run_id)).calls] == ["cancelled"]
    assert sent == []
    calls = [call.call_id for message in model.requests[-1].messages for call in message.calls]
    answers = [message.call_id for message in model.requests[-1].messages if message.role == "tool"]
    assert len(calls) == 1
    assert answers == calls


async def test_a_run_that_does_not_stop_in_time_keeps_its_conversation(watched: Any) -> None:
    tools, stall = ToolRegistry(), Stall()

    @tools.tool(timeout=30)
    async def stubborn() -> str:
        """Does not stop when it is told to."""
        import asyncio

        while True:
            try:
                await stall.wait()
                return "done"
            except asyncio.CancelledError:
                continue

    model = ScriptedModel([Step(calls=[Call("stubborn", {})]), Step("Done.")])
    limits = ServiceLimits(interrupt_seconds=0.05)
    async with StreamChat(model=model, tools=tools, authorize=owns, buffer=watched, limits=limits) as chat:
        first = await chat.start(None, "Do it", ANN)
        await stall.reached()
        with pytest.raises(ConversationBusy) as caught:
            await chat.start(first.conversation_id, "Stop", ANN, on_busy="interrupt")
        assert caught.value.active_run_id == first.run_id
        stall.release()
        assert fold(await log_of(chat, first.run_id)).over


def test_a_policy_that_is_none_is_refused_at_construction() -> None:
    policy: Any = "intterupt"
    with pytest.raises(InvalidInput, match="interrupt"):
        StreamChat(model=ScriptedModel.text("x"), allow_anonymous=True, on_busy=policy)


JOB_THEN_PAY = [Step(calls=[Call("render", id="j")]), Step("Shall I?", calls=[Call("pay", id="p")])]


def studio() -> tuple[ToolRegistry, list[str]]:
    """A tool that leaves a job behind, and one that a person decides on."""
    tools, paid = ToolRegistry(), list[str]()

    @tools.tool(deferred=True)
    async def render() -> Deferred:
        return Deferred("Rendering.")

    @tools.tool(requires_approval=True)
    async def pay(ctx: ToolContext) -> str:
        paid.append(ctx.run_id)
        return "paid"

    return tools, paid


async def until_it_waits_for(chat: StreamChat, run_id: str, kind: str) -> None:
    while True:
        status = await chat.status(run_id, ANN)
        if status.status == "suspended" and [wait.kind for wait in status.state.waits] == [kind]:
            return
        await asyncio.sleep(0.01)


async def asked_after_a_job(chat: StreamChat) -> Started:
    """Begin a run that gives its slot up for a job, goes on, and then waits for a person."""
    started = await chat.start(None, "Film, then pay", ANN)
    await until_it_waits_for(chat, started.run_id, "job")
    await chat.complete_job(f"{started.run_id}:j", "film")
    await until_it_waits_for(chat, started.run_id, "approval")
    return started


async def test_a_run_that_asks_a_person_after_its_job_is_again_what_its_conversation_is_busy_with(
    watched: Any,
) -> None:
    tools, paid = studio()
    model = ScriptedModel([*JOB_THEN_PAY, "Paid.", "You are welcome."])
    async with StreamChat(model=model, tools=tools, authorize=owns, buffer=watched) as chat:
        first = await asked_after_a_job(chat)
        with pytest.raises(ConversationBusy) as refused:
            await chat.start(first.conversation_id, "Well?", ANN)
        assert refused.value.active_run_id == first.run_id
        second = await chat.start(first.conversation_id, "Well?", ANN, on_busy="enqueue")
        assert second.enqueued
        await chat.resolve_approval(first.run_id, "p", True, principal=ANN)
        assert fold(await log_of(chat, second.run_id)).text == "You are welcome."
    assert paid == [first.run_id]


async def test_a_question_that_came_after_a_job_can_be_withdrawn_by_an_interrupting_message(
    watched: Any,
) -> None:
    tools, paid = studio()
    model = ScriptedModel([*JOB_THEN_PAY, "Never mind."])
    async with StreamChat(
        model=model, tools=tools, authorize=owns, buffer=watched, on_busy="interrupt"
    ) as chat:
        first = await asked_after_a_job(chat)
        second = await chat.start(first.conversation_id, "No, leave it", ANN)
        assert fold(await log_of(chat, second.run_id)).text == "Never mind."
        assert fold(await log_of(chat, first.run_id)).status == "cancelled"
    assert paid == []


async def test_beside_another_run_a_question_stands_and_later_turns_are_told_so(watched: Any) -> None:
    tools, paid = studio()
    stall = Stall()
    replies = iter(JOB_THEN_PAY)

    def say(request: ModelRequest) -> Step:
        if request.messages[-1].content == "Meanwhile":
            return Step("Meanwhile", stall_after=1, stall=stall)
        return Step("Next.") if request.messages[-1].content == "And now?" else next(replies, Step("Paid."))

    model = ScriptedModel(say)
    async with StreamChat(model=model, tools=tools, authorize=owns, buffer=watched) as chat:
        first = await chat.start(None, "Film, then pay", ANN)
        await until_it_waits_for(chat, first.run_id, "job")
        beside = await chat.start(first.conversation_id, "Meanwhile", ANN)
        await stall.reached()
        await chat.complete_job(f"{first.run_id}:j", "film")
        await until_it_waits_for(chat, first.run_id, "approval")
        stall.release()
        assert fold(await log_of(chat, beside.run_id)).status == "success"
        answer = await chat.reply(first.conversation_id, "And now?", ANN)
        assert answer.text == "Next."
        told = [str(message.content) for message in model.requests[-1].messages if message.role == "tool"]
        assert "waits for a person's decision" in told[-1]
        await chat.resolve_approval(first.run_id, "p", True, principal=ANN)
        assert fold(await log_of(chat, first.run_id)).status == "success"
    assert paid == [first.run_id]
