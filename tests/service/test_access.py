"""Who may start in a conversation, also while it comes into being."""

from __future__ import annotations

import pytest

from streamchat import MemoryEventBuffer, Principal, StreamChat, owns
from streamchat.buffers.base import ConversationRecord
from streamchat.errors import ConversationBusy, ConversationNotFound
from streamchat.testing import ScriptedModel

pytestmark = pytest.mark.anyio

ANN, BOB = Principal("ann"), Principal("bob")


class MadeMeanwhile(MemoryEventBuffer):
    """A store in which another process makes the conversation behind the first look."""

    looks = 0

    async def conversation(self, conversation_id: str) -> ConversationRecord:
        self.looks += 1
        if self.looks == 1:
            raise ConversationNotFound(f"conversation {conversation_id!r} is not stored")
        return await super().conversation(conversation_id)


@pytest.mark.parametrize(("who", "refused"), [(ANN, ConversationBusy), (BOB, ConversationNotFound)])
async def test_a_conversation_that_is_made_between_two_looks_is_the_owners_and_nobody_elses(
    who: Principal, refused: type[Exception]
) -> None:
    buffer = MadeMeanwhile()
    model = ScriptedModel.text("Hello.", repeat=True)
    async with StreamChat(model=model, buffer=buffer, authorize=owns, work=False) as chat:
        buffer.looks = 1
        await chat.start("c", "First", ANN)
        buffer.looks = 0
        # The owner's own message waits for the first, as it would if it had come a moment later.
        with pytest.raises(refused):
            await chat.start("c", "Second", who)
