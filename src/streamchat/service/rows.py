"""The assistant's message as the conversation keeps it: when the run ends, and when it pauses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from streamchat.buffers.base import MessageRecord, RunRecord
from streamchat.core.agent_state import StateChanges
from streamchat.core.fold import Folder
from streamchat.core.history import private_of
from streamchat.events import MessageCompleted, StoredEvent, StreamEvent, dump_json
from streamchat.messages import ContentPart

__all__ = ["final_rows", "kept_state", "row_so_far"]


def final_rows(
    run: RunRecord,
    parent_id: str | None,
    events: Sequence[StreamEvent],
    extras: Mapping[int, Mapping[str, Any]],
    state: Mapping[str, Any] | None = None,
) -> list[MessageRecord]:
    """Return the row of an ending batch. ``extras`` is what the steps' models want back on the next turn,
    ``state`` what `StateChanges.kept` says of the run."""
    kinds = {event.type for event in events}
    status: Literal["error", "cancelled", "complete"] = (
        "error" if "error" in kinds else "cancelled" if "cancelled" in kinds else "complete"
    )
    return [
        _row(run, parent_id, status, event.content, extras, state)
        for event in events
        if isinstance(event, MessageCompleted)
    ]


def row_so_far(
    run: RunRecord, parent_id: str | None, events: Iterable[StreamEvent | StoredEvent]
) -> MessageRecord:
    """Return the row of a run that pauses after ``events``, its whole log: what follows in the conversation
    meanwhile is to be told what was said and what is at work."""
    folder, state = Folder(), StateChanges()
    for event in events:
        folder.add(event)
        state.add(event)
    return _row(run, parent_id, "pending", folder.content(), folder.extras, state.kept())


def kept_state(row: MessageRecord) -> dict[str, Any] | None:
    """Return what a row keeps of its run's changes of the agent's state (`StateChanges.kept`)."""
    if row.private is None:
        return None
    kept: dict[str, Any] | None = json.loads(row.private).get("state")
    return kept


def _row(
    run: RunRecord,
    parent_id: str | None,
    status: Literal["pending", "error", "cancelled", "complete"],
    content: Iterable[ContentPart],
    extras: Mapping[int, Mapping[str, Any]],
    state: Mapping[str, Any] | None,
) -> MessageRecord:
    private = private_of(extras)
    if state is not None:
        private = {**(private or {}), "state": state}
    return MessageRecord(
        message_id=run.message_id,
        conversation_id=run.conversation_id,
        run_id=run.run_id,
        role="assistant",
        parent_id=parent_id,
        status=status,
        content=dump_json([part.model_dump(exclude_none=True) for part in content]),
        private=None if private is None else dump_json(private),
    )
