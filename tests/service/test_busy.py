"""A message to a conversation that is being answered: refused, or in the place of the run that is at work."""

from __future__ import annotations

from typing import Any

import pytest

from streamchat import (
    EventBuffer,
    Principal,
    ServiceLimits,
    StoredEvent,
    StreamChat,
    ToolRegistry,
    fold,
    owns,
)
from streamchat.errors import ConversationBusy, InvalidInput
from streamchat.testing import Call, ScriptedModel, Stall, Step

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
