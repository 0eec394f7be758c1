"""What is written in one transaction with a batch of events: message rows, answers used up, what then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from streamchat.buffers.base import MessageRecord, RunRecord, Then
from streamchat.core.agent_state import StateChanges, change_of
from streamchat.events import CustomEvent, ModelCompleted, StoredEvent, StreamEvent, Suspended
from streamchat.service.inbox import Inbox
from streamchat.service.pending import DELTAS
from streamchat.service.rows import final_rows, row_so_far

__all__ = ["Companions", "WithEvents"]


class WithEvents(TypedDict, total=False):
    """What `EventBuffer.append` takes beside the events."""

    messages: list[MessageRecord]
    consumed: list[str]
    then: Then
    wake_at: int | None
    keep_slot: bool


class Companions:
    """Knows, for one run, what each batch must be written with.

    ``user_message_id`` is the message that the run answers.
    """

    def __init__(self, run: RunRecord, user_message_id: str | None, inbox: Inbox) -> None:
        self._run = run
        self._user_message_id = user_message_id
        self._inbox = inbox
        self._extras: dict[int, dict[str, Any]] = {}
        self._says_state = False

    def note(self, event: StreamEvent) -> None:
        """Keep what the model wants back on the next turn; told of each event that is stored already."""
        if isinstance(event, ModelCompleted) and event.private is not None:
            self._extras[event.step] = event.private
        elif isinstance(event, CustomEvent) and change_of(event) is not None:
            self._says_state = True

    def of(self, events: Sequence[StreamEvent]) -> WithEvents:
        """Return what goes with a batch: nothing, if it is only part of an answer.

        A suspension's row needs the log before it (see `row_so_far`), and so does that of a run which changed
        the agent's state (see `rows_at_end`).
        """
        with_it: WithEvents = {}
        for event in events:
            if event.type in DELTAS:
                continue
            self.note(event)
            if event.type == "finalized":
                rows = final_rows(self._run, self._user_message_id, events, self._extras)
                with_it |= {"then": "over", "messages": rows}
            elif isinstance(event, Suspended):
                times = [wait.expires_at for wait in event.waits if wait.expires_at is not None]
                keep_slot = any(wait.kind != "job" for wait in event.waits)
                with_it |= {"then": "suspend", "wake_at": min(times, default=None), "keep_slot": keep_slot}
        consumed = self._inbox.consumed_by(events)
        if consumed:
            with_it["consumed"] = consumed
        return with_it

    def with_state(self, with_it: WithEvents) -> bool:
        """Whether the rows of an ending batch are to be made by `rows_at_end`."""
        return self._says_state and with_it.get("then") == "over"

    def rows_at_end(
        self, log: Iterable[StreamEvent | StoredEvent], ending: Sequence[StreamEvent]
    ) -> list[MessageRecord]:
        """Return the rows of a run that is over after ``log`` and the batch ``ending``."""
        state = StateChanges()
        for event in (*log, *ending):
            state.add(event)
        return final_rows(self._run, self._user_message_id, ending, self._extras, state.kept())

    def row_so_far(self, log: Iterable[StreamEvent | StoredEvent]) -> MessageRecord:
        """Return the row of a run that pauses after ``log``, which is all of it."""
        return row_so_far(self._run, self._user_message_id, log)
