"""The application's own table of messages: after the commit, at least once, whoever dies in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from streamchat import EventBuffer, MessageRecord, StreamChat
from streamchat.buffers.notes import NewNote, NoteStore, notes_of
from streamchat.errors import BufferUnavailable, ConversationBusy, StreamChatError
from streamchat.service.delivering import Delivery
from streamchat.testing import ScriptedModel, Stall, Step

from .support import WatchedBuffer

pytestmark = pytest.mark.anyio


class Table:
    """An application's table; it may be away, and it looks whether what it is given is committed."""

    def __init__(self, buffer: EventBuffer | None = None) -> None:
        self.rows: dict[str, MessageRecord] = {}
        self.calls: list[list[tuple[str, str]]] = []
        self.saved = asyncio.Event()
        self.away = False
        self._buffer = buffer

    async def save(self, messages: Sequence[MessageRecord]) -> None:
        if self.away:
            raise ConnectionError("no table")
        if self._buffer is not None:
            stored = await self._buffer.messages(messages[0].conversation_id)
            assert set(messages) <= set(stored)
        self.calls.append([(message.role, message.status) for message in messages])
        self.rows |= {message.message_id: message for message in messages}
        self.saved.set()

    async def has(self, count: int) -> None:
        while len(self.rows) < count:
            self.saved.clear()
            await self.saved.wait()


def service(buffer: EventBuffer, model: ScriptedModel, table: Any, **more: Any) -> StreamChat:
    watched: Any = WatchedBuffer(buffer)
    return StreamChat(model=model, buffer=watched, message_store=table, allow_anonymous=True, **more)


def store_of(buffer: EventBuffer) -> NoteStore:
    notes = notes_of(buffer)
    assert notes is not None
    return notes


async def test_messages_are_handed_over_once_they_no_longer_change(buffer: EventBuffer) -> None:
    table, stall = Table(buffer), Stall()
    model = ScriptedModel([Step("Hello there", stall_after=1, stall=stall), Step("Again.")])
    async with service(buffer, model, table) as chat:
        started = await chat.start(None, "hi")
        await table.has(1)
        assert [row.role for row in table.rows.values()] == ["user"]
        await stall.reached()
        stall.release()
        await table.has(2)
        assert json.loads(table.rows[started.message_id].content)[0]["text"] == "Hello there"
        await chat.reply(started.conversation_id, "and?")
        await table.has(4)
        stored = await buffer.messages(started.conversation_id)
    assert table.rows == {record.message_id: record for record in stored}
    assert all(status != "pending" for call in table.calls for _, status in call)
    assert await store_of(buffer).notes(started.run_id) == []


async def test_a_table_that_is_away_hinders_no_run_and_gets_everything_later(
    buffer: EventBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    table, ended = Table(buffer), asyncio.Event()
    table.away = True
    async with service(
        buffer, ScriptedModel.text("Hello."), table, on_run_finished=lambda _: ended.set()
    ) as chat:
        answer = await chat.reply(None, "hi")
        await ended.wait()
    assert "could not be delivered" in caplog.text
    assert table.rows == {}
    (note,) = await store_of(buffer).notes(answer.run_id)
    # Another process, later.
    other = Delivery(table, buffer, store_of(buffer))
    await other.redeliver(note)
    (again,) = await store_of(buffer).notes(answer.run_id)
    assert json.loads(again.body)["tries"] == 1
    assert again.expires_at > note.expires_at
    table.away = False
    await other.redeliver(again)
    assert [(row.role, row.status) for row in table.rows.values()] == [
        ("user", "complete"),
        ("assistant", "complete"),
    ]
    assert await store_of(buffer).notes(answer.run_id) == []


@pytest.mark.parametrize("over", [False, True])
async def test_what_a_process_that_died_did_not_deliver_another_does(buffer: EventBuffer, over: bool) -> None:
    table, lost = Table(buffer), Table()
    lost.away = True
    async with service(buffer, ScriptedModel([Step("Hello there", stall_after=1)]), lost) as chat:
        started = await chat.start(None, "hi")
        if over:
            await chat.cancel(started.run_id)
            while not (await buffer.get(started.run_id)).over:
                await asyncio.sleep(0.01)
        await chat.drain(0)
    store = store_of(buffer)
    (note,) = await store.notes(started.run_id)
    other = Delivery(table, buffer, store)
    await other.redeliver(note)
    roles = [row.role for row in table.rows.values()]
    left = await store.notes(started.run_id)
    if over:
        assert (roles, left) == (["user", "assistant"], [])
    else:
        # What is final was delivered, and is not again at each look.
        assert (roles, len(left)) == (["user"], 1)
        await other.redeliver(left[0])
        assert len(table.calls) == 1


async def test_a_run_that_was_announced_and_never_created_is_forgotten(buffer: EventBuffer) -> None:
    table, store = Table(buffer), store_of(buffer)
    async with service(buffer, ScriptedModel([Step("Hello", stall_after=0)]), table) as chat:
        busy = await chat.start(None, "first")
        with pytest.raises(ConversationBusy):
            await chat.start(busy.conversation_id, "second")
        await table.has(1)
    await store.write_notes([NewNote("never-created", "messages", b"{}", 0.0)])
    (note,) = await store.due_notes()
    await Delivery(table, buffer, store).redeliver(note)
    assert len(table.rows) == 1
    assert await store.notes("never-created") == []


async def test_a_due_note_is_acted_on_by_the_housekeeping_of_any_process(buffer: EventBuffer) -> None:
    table = Table(buffer)
    lost = Table()
    lost.away = True
    async with service(buffer, ScriptedModel.text("Hello."), lost) as chat:
        answer = await chat.reply(None, "hi")
    await store_of(buffer).write_notes([NewNote(answer.run_id, "messages", b"{}", 0.0)])
    async with service(buffer, ScriptedModel.text("x"), table) as chat:
        assert chat._housekeeper is not None
        await chat._housekeeper._sweep()
        assert len(table.rows) == 2


async def test_a_process_without_a_table_leaves_the_notes_of_others_alone(buffer: EventBuffer) -> None:
    store = store_of(buffer)
    await store.write_notes([NewNote("run", "messages", b"{}", 0.0), NewNote("run", "unheard-of", b"?", 0.0)])
    async with service(buffer, ScriptedModel.text("x"), None) as chat:
        assert chat._housekeeper is not None
        await chat._housekeeper._sweep()
        assert [note.name for note in await store.notes("run")] == ["messages", "unheard-of"]
        assert await store.due_notes() == []


async def test_a_run_that_cannot_be_announced_is_not_created(buffer: EventBuffer) -> None:
    class Away(WatchedBuffer):
        async def write_notes(self, notes: Any) -> None:
            raise BufferUnavailable("away")

        async def notes(self, run_id: str) -> Any:
            return await store_of(buffer).notes(run_id)

        async def due_notes(self, limit: int = 100) -> Any:
            return []

        async def drop_notes(self, notes: Any) -> int:
            return 0

    away: Any = Away(buffer)
    async with StreamChat(
        model=ScriptedModel.text("x"), buffer=away, message_store=Table(), allow_anonymous=True
    ) as chat:
        with pytest.raises(BufferUnavailable):
            await chat.start("chosen", "hi")
        assert await chat.find("chosen") is None


def test_a_buffer_without_notes_cannot_promise_delivery() -> None:
    class Bare:
        """Not a buffer that keeps notes."""

        open = close = create = claim = append = read = get = staticmethod(print)

    bare: Any = Bare()
    with pytest.raises(StreamChatError, match="keeps notes"):
        StreamChat(model=ScriptedModel.text("x"), buffer=bare, message_store=Table(), allow_anonymous=True)
