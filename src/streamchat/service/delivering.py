"""Messages on their way into the application's own table: after the commit, at least once, by message id.

Before a run is created, a note says that its messages are to be delivered; it goes when all of them were. So
whatever dies in between, the note becomes due, and another process delivers. Only messages that no longer
change are handed over: however often and in whatever order they come, a table keyed by ``message_id`` is
right.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from streamchat.buffers.base import EventBuffer, MessageRecord, RunRecord
from streamchat.buffers.notes import NewNote, Note, NoteStore
from streamchat.errors import ConversationNotFound, InvalidInput, RunNotFound, StreamChatError
from streamchat.events import dump_json
from streamchat.service.request import RunTerms

__all__ = ["NOTE", "Delivery", "MessageStore"]

log = logging.getLogger("streamchat.service")

NOTE = "messages"
_AGAIN = 60.0
_LONGEST = 3600.0
_PAGE = 1000


class MessageStore(Protocol):
    """An application's own table of messages."""

    def save(self, messages: Sequence[MessageRecord]) -> Awaitable[None] | None:
        """Insert these messages, or replace those whose ``message_id`` is there already. Sync or async.

        Called after they were stored here, at least once for each, in the order of the conversation within a
        call. They are final: a user's as it was sent, an assistant's when its run is over. Whatever is raised
        is logged, and the call repeated later.
        """
        ...


class Delivery:
    """Hands messages to a `MessageStore`; without one it does nothing. ``seconds`` bounds one call of it."""

    def __init__(
        self,
        target: MessageStore | None,
        buffer: EventBuffer,
        notes: NoteStore | None,
        *,
        seconds: float = 30.0,
    ) -> None:
        if target is not None and notes is None:
            raise StreamChatError(
                f"message_store needs a buffer that keeps notes (streamchat.buffers.notes.NoteStore), "
                f"which {type(buffer).__name__} does not: a crash would lose messages"
            )
        self._target = target
        self._buffer = buffer
        self._notes = notes
        self._seconds = seconds
        self._tasks: set[asyncio.Task[None]] = set()

    async def announce(self, run_id: str) -> None:
        """Note that the messages of a run that is about to be created are to be delivered."""
        if self._target is not None and self._notes is not None:
            await self._notes.write_notes([NewNote(run_id, NOTE, b"{}", _AGAIN)])

    def begun(self, run_id: str) -> None:
        """Deliver what there is of a run, in a task of its own."""
        if self._target is not None:
            task = asyncio.create_task(self.deliver(run_id), name=f"streamchat deliver {run_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def deliver(self, run_id: str) -> None:
        """Deliver a run's messages; never raises for what goes wrong."""
        if self._target is None or self._notes is None:
            return
        try:
            await self._deliver(run_id)
        except Exception:
            log.exception("run %s: its messages could not be delivered; it is tried again", run_id)

    async def redeliver(self, note: Note) -> None:
        """Act on a note that is due. Raises `BufferUnavailable`."""
        if self._target is None or self._notes is None:
            # Noted by a process that has a MessageStore, which this one has not: theirs to do.
            if self._notes is not None:
                await self._notes.write_notes([NewNote(note.run_id, note.name, note.body, _AGAIN)])
            return
        content: dict[str, Any] = json.loads(note.body)
        tries = content.get("tries", 0) + 1
        try:
            content["delivered"] = await self._deliver(note.run_id, content.get("delivered", ()))
        except Exception:
            log.exception(
                "run %s: its messages could not be delivered, for the %dth time", note.run_id, tries
            )
            wait = min(_AGAIN * 2 ** min(tries, 10), _LONGEST)
            content["tries"] = tries
        else:
            if content["delivered"] is None:
                return
            wait = _AGAIN
        await self._notes.write_notes([NewNote(note.run_id, NOTE, dump_json(content), wait)])

    async def close(self) -> None:
        """Wait for what was begun; each call is bounded in time."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _deliver(self, run_id: str, known: Sequence[str] = ()) -> list[str] | None:
        """Deliver what is final and not ``known``; return the ids of both, None when nothing will follow."""
        assert self._target is not None
        assert self._notes is not None
        remove = NewNote(run_id, NOTE, None)
        try:
            run = await self._buffer.get(run_id)
            messages = await self._messages(run)
        except (RunNotFound, ConversationNotFound):
            await self._notes.write_notes([remove])
            return None
        new = [message for message in messages if message.message_id not in known]
        if new:
            async with asyncio.timeout(self._seconds):
                answer = self._target.save(new)
                if inspect.isawaitable(answer):
                    await answer
        if run.over:
            await self._notes.write_notes([remove])
            return None
        return [*known, *(message.message_id for message in new)]

    async def _messages(self, run: RunRecord) -> list[MessageRecord]:
        """The run's messages that no longer change."""
        after = RunTerms.of(run.request).previous_message_id
        found: list[MessageRecord] = []
        while True:
            try:
                page = await self._buffer.messages(run.conversation_id, after=after, limit=_PAGE)
            except InvalidInput:  # the message to begin behind has gone
                if after is None:
                    raise
                after, found = None, []
                continue
            found += [
                message for message in page if message.run_id == run.run_id and message.status != "pending"
            ]
            if len(page) < _PAGE:
                return found
            after = page[-1].message_id
