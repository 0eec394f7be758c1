"""A conversation's title by hook: asked once, when the first answer is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from streamchat import EventBuffer, StreamChat
from streamchat.errors import StreamChatError
from streamchat.messages import ModelMessage
from streamchat.orchestration.context import RunContext
from streamchat.testing import ScriptedModel

from .support import WatchedBuffer

pytestmark = pytest.mark.anyio


@pytest.fixture
def buffer(any_store: EventBuffer) -> EventBuffer:
    """One of each sort: what is counted, kept and taken over is the store's doing."""
    return any_store


class Titles:
    """Waits until the store has been told."""

    def __init__(self, buffer: EventBuffer) -> None:
        self.watched: Any = WatchedBuffer(buffer)
        self.told = anyio.Event()
        setattr(self.watched, "set_title", self._set_title)  # noqa: B010

    async def _set_title(self, conversation_id: str, title: str | None) -> bool:
        known: bool = await self.watched.inner.set_title(conversation_id, title)
        self.told.set()
        return known


async def test_the_title_is_asked_once_with_the_first_answer(buffer: EventBuffer) -> None:
    asked: list[list[Any]] = []

    async def title(context: RunContext, messages: Sequence[ModelMessage]) -> str:
        asked.append([context.conversation_id, *(message.content for message in messages)])
        return "  About\ncats " + "!" * 500

    titles = Titles(buffer)
    model = ScriptedModel(["Cats.", "More cats."])
    async with StreamChat(model=model, buffer=titles.watched, allow_anonymous=True, title=title) as chat:
        first = await chat.reply(None, "What animals?")
        await titles.told.wait()
        await chat.reply(first.conversation_id, "More?")
        found = await buffer.conversation(first.conversation_id)
    assert asked == [[first.conversation_id, "What animals?", "Cats."]]
    assert str(found.title).startswith("About cats !!!")
    assert len(str(found.title)) == 200


@pytest.mark.parametrize("fails", [False, True])
async def test_without_a_title_the_first_words_stay(buffer: EventBuffer, fails: bool) -> None:
    asked = anyio.Event()

    def title(context: RunContext, messages: Sequence[ModelMessage]) -> None:
        asked.set()
        if fails:
            raise RuntimeError("no title")

    model = ScriptedModel.text("Cats.")
    watched: Any = WatchedBuffer(buffer)
    async with StreamChat(model=model, buffer=watched, allow_anonymous=True, title=title) as chat:
        first = await chat.reply(None, "What animals?")
        await asked.wait()
    assert (await buffer.conversation(first.conversation_id)).title == "What animals?"


async def test_a_buffer_that_cannot_keep_titles_is_refused(buffer: EventBuffer) -> None:
    watched: Any = WatchedBuffer(buffer)
    watched.set_title = None
    with pytest.raises(StreamChatError, match="set_title"):
        StreamChat(
            model=ScriptedModel(), buffer=watched, allow_anonymous=True, title=lambda context, messages: None
        )
