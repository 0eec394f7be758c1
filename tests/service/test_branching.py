"""An edited message begins a branch: what it replaces is kept, and the model is not told of it."""

from __future__ import annotations

import pytest

from streamchat import StreamChat
from streamchat.errors import InvalidInput
from streamchat.testing import ScriptedModel


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
