"""``on_busy="enqueue"``: a message to a conversation that is being answered has its turn."""

from __future__ import annotations

from typing import Any

import pytest

from streamchat import (
    EventBuffer,
    MemoryEventBuffer,
    Principal,
    RunOptions,
    ServiceLimits,
    StreamChat,
    ToolContext,
    ToolRegistry,
    owns,
)
from streamchat.buffers.shared import now_ms
from streamchat.errors import ConversationBusy, ConversationNotFound
from streamchat.models.base import ModelRequest
from streamchat.orchestration.options import Limits
from streamchat.testing import Call, ScriptedModel, Stall, Step
from streamchat.tools import Deferred

from .support import WatchedBuffer, drain

pytestmark = pytest.mark.anyio

ANN = Principal("ann")


def service(buffer: EventBuffer, model: ScriptedModel, **more: Any) -> StreamChat:
    watched: Any = WatchedBuffer(buffer)
    options: dict[str, Any] = {"allow_anonymous": True, "on_busy": "enqueue", "lease_ttl": 1.0} | more
    return StreamChat(model=model, buffer=watched, **options)


def told(request: ModelRequest) -> list[tuple[str, str]]:
    return [(message.role, str(message.content)) for message in request.messages]


async def test_messages_are_answered_in_order_and_each_is_told_of_the_answers_before_it(
    any_store: EventBuffer,
) -> None:
    stall = Stall()
    model = ScriptedModel([Step("One.", stall_after=1, stall=stall), Step("Two."), Step("Three.")])
    async with service(any_store, model) as chat:
        first = await chat.start(None, "a")
        await stall.reached()
        c = first.conversation_id
        second = await chat.start(c, "b")
        third = await chat.start(c, "c")
        assert [first.enqueued, second.enqueued, third.enqueued] == [False, True, True]
        assert [run.run_id for run in await chat.enqueued(c)] == [second.run_id, third.run_id]
        assert (await chat.status(second.run_id)).status == "queued"
        going_on = await chat.find(c)
        assert going_on is not None
        assert going_on.run_id == first.run_id
        stall.release()
        for run, text in ((first, "One."), (second, "Two."), (third, "Three.")):
            await drain(chat, run.run_id)
            assert (await chat.status(run.run_id)).text == text
        assert await chat.enqueued(c) == []
        said = [(row.role, row.parent_id) for row in await chat.history(c)]
    assert told(model.requests[-1]) == [
        ("user", "a"),
        ("assistant", "One."),
        ("user", "b"),
        ("assistant", "Two."),
        ("user", "c"),
    ]
    assert [parent for role, parent in said if role == "user"] == [None, first.message_id, second.message_id]


async def test_a_run_that_never_began_is_cancelled_and_the_next_has_its_turn(any_store: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("One.", stall_after=1, stall=stall), Step("Three.")])
    async with service(any_store, model) as chat:
        first = await chat.start(None, "a")
        await stall.reached()
        c = first.conversation_id
        second, third = await chat.start(c, "b"), await chat.start(c, "c")
        await chat.cancel(second.run_id, reason="thought better of it")
        await drain(chat, second.run_id)
        assert (await chat.status(second.run_id)).status == "cancelled"
        assert [run.run_id for run in await chat.enqueued(c)] == [third.run_id]
        assert (await chat.status(first.run_id)).status == "running"
        stall.release()
        await drain(chat, third.run_id)
    assert told(model.requests[-1])[2:] == [("user", "b"), ("user", "c")]


async def test_the_system_prompt_and_the_history_are_made_when_the_run_begins(any_store: EventBuffer) -> None:
    stall = Stall()
    moods = iter(["Be kind.", "Be brief."])
    model = ScriptedModel([Step("One.", stall_after=1, stall=stall), Step("Two.")])
    async with service(
        any_store,
        model,
        instructions=lambda context: next(moods),
        prepare_messages=lambda messages, context: [*messages[:1], *messages[-2:]],
        allow_system_message=True,
    ) as chat:
        first = await chat.start(None, "a")
        await stall.reached()
        second = await chat.start(first.conversation_id, "b", system_message="Speak French.")
        stall.release()
        await drain(chat, second.run_id)
    assert told(model.requests[-1]) == [("system", "Be brief."), ("assistant", "One."), ("user", "b")]


def asking() -> ToolRegistry:
    tools = ToolRegistry()

    @tools.tool(requires_approval=True)
    async def send(to: str) -> str:
        """Send an email."""
        return f"sent to {to}"

    @tools.tool(deferred=True)
    async def render(ctx: ToolContext) -> Deferred:
        """Render a film."""
        return Deferred("begun")

    return tools


async def test_a_message_waits_for_the_decision_that_its_conversation_waits_for(
    any_store: EventBuffer,
) -> None:
    model = ScriptedModel([Step(calls=[Call("send", {"to": "bob"})]), Step("Sent."), Step("Noon.")])
    async with service(any_store, model, tools=asking()) as chat:
        first = await chat.reply(None, "Write to Bob")
        second = await chat.start(first.conversation_id, "And what time is it?")
        assert second.enqueued
        await chat.resolve_approval(first.run_id, first.state.waits[0].call_id, True)
        await drain(chat, second.run_id)
    roles = [role for role, _ in told(model.requests[-1])]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert model.requests[-1].messages[2].content == "sent to bob"


async def test_a_conversation_that_waits_for_jobs_alone_answers_what_is_enqueued(
    any_store: EventBuffer,
) -> None:
    stall = Stall()
    model = ScriptedModel(
        [Step("Well. ", calls=[Call("render", {})], stall_after=1, stall=stall), Step("Noon."), Step("Here.")]
    )
    async with service(any_store, model, tools=asking()) as chat:
        first = await chat.start(None, "A film, please")
        await stall.reached()
        second = await chat.start(first.conversation_id, "And what time is it?")
        stall.release()
        await drain(chat, second.run_id)
        assert (await chat.status(second.run_id)).text == "Noon."
        (wait,) = (await chat.status(first.run_id)).state.waits
        await chat.complete_job(f"{first.run_id}:{wait.call_id}", "film.mp4")
        await drain(chat, first.run_id)


async def test_an_interrupting_message_also_ends_what_is_enqueued(any_store: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("One.", stall_after=1, stall=stall), Step("Last.")])
    async with service(any_store, model) as chat:
        first = await chat.start(None, "a")
        await stall.reached()
        c = first.conversation_id
        waiting = [await chat.start(c, text) for text in "bc"]
        last = await chat.start(c, "stop all that", on_busy="interrupt")
        assert not last.enqueued
        await drain(chat, last.run_id)
        ended = [(await chat.status(run.run_id)).status for run in (first, *waiting)]
    assert ended == ["cancelled"] * 3
    assert len(model.requests) == 2, "what was enqueued never began"


async def test_only_so_many_messages_wait(any_store: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("One.", stall_after=1, stall=stall), Step("Two.")])
    async with service(any_store, model, limits=ServiceLimits(max_enqueued=1)) as chat:
        first = await chat.start(None, "a", idempotency_key="k1")
        await stall.reached()
        c = first.conversation_id
        second = await chat.start(c, "b", idempotency_key="k2")
        with pytest.raises(ConversationBusy, match="max_enqueued") as refusal:
            await chat.start(c, "c")
        assert refusal.value.active_run_id == first.run_id
        again = await chat.start(c, "b", idempotency_key="k2")
        assert (again.run_id, again.new, again.enqueued) == (second.run_id, False, True)
        stall.release()
        await drain(chat, second.run_id)


async def test_a_deleted_run_lets_the_next_begin_and_a_deleted_conversation_none(
    any_store: EventBuffer,
) -> None:
    stall, other = Stall(), Stall()
    model = ScriptedModel(
        [Step("One.", stall_after=1, stall=stall), Step("Two.", stall_after=1, stall=other)]
    )
    async with service(any_store, model) as chat:
        first = await chat.start(None, "a")
        await stall.reached()
        c = first.conversation_id
        second, _ = await chat.start(c, "b"), await chat.start(c, "c")
        await chat.delete(run_id=first.run_id)
        going_on = await chat.find(c)
        assert going_on is not None
        assert going_on.run_id == second.run_id
        await other.reached()
        assert await chat.delete(c) == 2
        with pytest.raises(ConversationNotFound):
            await chat.enqueued(c)
    assert len(model.requests) == 2


async def test_another_principal_is_not_told_what_is_enqueued(buffer: EventBuffer) -> None:
    async with service(buffer, ScriptedModel.text("x"), allow_anonymous=False, authorize=owns) as chat:
        mine = await chat.reply(None, "a", ANN)
        assert await chat.enqueued(mine.conversation_id, ANN) == []
        with pytest.raises(ConversationNotFound):
            await chat.enqueued(mine.conversation_id, Principal("bob"))


async def test_the_time_in_the_line_does_not_count_against_the_deadline() -> None:
    ahead = 0
    stall = Stall()
    model = ScriptedModel([Step("One.", stall_after=1, stall=stall), Step("Two.")])
    options = RunOptions(limits=Limits(deadline=60.0))
    buffer = MemoryEventBuffer(clock=lambda: now_ms() + ahead)
    async with service(buffer, model, options=options, lease_ttl=7200.0) as chat:
        first = await chat.start(None, "a")
        await stall.reached()
        second = await chat.start(first.conversation_id, "b")
        ahead = 3_600_000
        stall.release()
        await drain(chat, second.run_id)
        assert (await chat.status(second.run_id)).text == "Two."


async def test_nobody_looks_for_what_is_enqueued_whoever_sent_it(any_store: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("One.", stall_after=1, stall=stall), Step("Two.")])
    never = ServiceLimits(look_every=3600.0)
    web = service(any_store, ScriptedModel([]), work=False)
    async with web, service(any_store, model, limits=never, lease_ttl=60.0) as worker:
        first = await worker.start(None, "a")
        await stall.reached()
        second = await web.start(first.conversation_id, "b")
        assert second.enqueued
        stall.release()
        await drain(worker, second.run_id)
        assert (await web.status(second.run_id)).text == "Two."
