"""An edited message begins a branch: what it replaces is kept, and the model is not told of it."""

from __future__ import annotations

from typing import Any

import pytest

from streamchat import EventBuffer, StreamChat
from streamchat.errors import ConversationBusy, InvalidInput
from streamchat.testing import ScriptedModel, Stall, Step

from .support import WatchedBuffer, drain


def told(model: ScriptedModel) -> list[str]:
    return [str(message.content) for message in model.requests[-1].messages]


@pytest.mark.anyio
async def test_a_message_that_branches_follows_the_message_it_names() -> None:
    model = ScriptedModel(lambda request: f"answer {len(request.messages)}")
    async with StreamChat(model=model, allow_anonymous=True) as chat:
        first = await chat.reply(None, "one")
        c = first.conversation_id
        await chat.reply(c, "two")
        await chat.reply(c, "two, edited", branch_at=first.message_id)
        assert told(model) == ["one", "answer 1", "two, edited"]
        await chat.reply(c, "three")
        assert told(model) == ["one", "answer 1", "two, edited", "answer 3", "three"]
        await chat.reply(c, "one, edited", branch_at="")
        assert told(model) == ["one, edited"]
        rows = await chat.history(c)
        assert len(rows) == 10
        assert [row.parent_id for row in rows if row.role == "user"][2:] == [
            first.message_id,
            rows[5].message_id,
            None,
        ]


@pytest.mark.anyio
async def test_a_branch_at_a_message_of_another_conversation_is_refused() -> None:
    async with StreamChat(model=ScriptedModel.text("Hi.", repeat=True), allow_anonymous=True) as chat:
        other = await chat.reply(None, "one")
        mine = await chat.reply(None, "one")
        with pytest.raises(InvalidInput, match="branch"):
            await chat.start(mine.conversation_id, "two", branch_at=other.message_id)


@pytest.mark.anyio
async def test_an_edited_message_takes_the_place_of_what_was_said_and_the_older_branch_stays(
    any_store: EventBuffer,
) -> None:
    model = ScriptedModel(lambda request: f"answer {len(request.messages)}")
    watched: Any = WatchedBuffer(any_store)
    async with StreamChat(model=model, allow_anonymous=True, buffer=watched) as chat:
        c = (await chat.reply(None, "one")).conversation_id
        await chat.reply(c, "two")
        one, answer, two, other = await chat.history(c)
        await chat.reply(c, "two, edited", edits=two.message_id)
        assert told(model) == ["one", "answer 1", "two, edited"]
        await chat.reply(c, "three")
        assert told(model) == ["one", "answer 1", "two, edited", "answer 3", "three"]
        await chat.reply(c, "one, edited", edits=one.message_id)
        assert told(model) == ["one, edited"]
        rows = await chat.history(c)
        assert rows[:4] == [one, answer, two, other]
        assert [row.parent_id for row in rows if row.role == "user"] == [
            None,
            answer.message_id,
            answer.message_id,
            rows[5].message_id,
            None,
        ]
        for wrong in (answer.message_id, "no-such-message"):
            with pytest.raises(InvalidInput) as refusal:
                await chat.start(c, "x", edits=wrong)
            assert refusal.value.field == "edits"


@pytest.mark.anyio
async def test_an_edit_of_a_message_that_is_being_answered_waits_or_interrupts() -> None:
    stall = Stall()
    model = ScriptedModel([Step("Half.", stall_after=1, stall=stall), Step("Two."), Step("Three.")])
    async with StreamChat(model=model, allow_anonymous=True) as chat:
        first = await chat.start(None, "a")
        await stall.reached()
        c = first.conversation_id
        (asked, _) = await chat.history(c)
        with pytest.raises(ConversationBusy):
            await chat.start(c, "b", edits=asked.message_id)
        edited = await chat.start(c, "b", edits=asked.message_id, on_busy="enqueue")
        assert edited.enqueued
        stall.release()
        await drain(chat, edited.run_id)
        assert told(model) == ["b"]
        last = await chat.start(c, "c", edits=asked.message_id, on_busy="interrupt")
        await drain(chat, last.run_id)
        assert told(model) == ["c"]
