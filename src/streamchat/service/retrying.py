"""What `StreamChat.retry` writes: a run with a parent, and what is kept of the parent's log."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence

from streamchat.buffers.base import EventBuffer, MessageRecord, NewEvent, NewRun, RunRecord
from streamchat.core.retry import kept_events
from streamchat.errors import NotRetryable
from streamchat.events import RunStarted, StoredEvent, dump_json
from streamchat.models.base import Model, WorkflowSource
from streamchat.service.request import RunRequest

__all__ = ["retry_of"]


async def retry_of(
    buffer: EventBuffer,
    parent: RunRecord,
    model: Model,
    *,
    from_step: int | None,
    call_id: str | None,
    idempotency_key: str | None,
) -> tuple[NewRun, list[MessageRecord], list[NewEvent]]:
    """Return the run, its message and the kept events, for `EventBuffer.create`.

    The answer is a sibling of the parent's: both answer one user message, and the conversation goes on from
    the newer. Raises `NotRetryable`, `InvalidInput`.
    """
    whole = from_step in (None, 1) and call_id is None
    if not parent.over:
        raise NotRetryable(
            f"run {parent.run_id} is {parent.status}: cancel it first, or wait for its end",
            reason="run_active",
        )
    kept = [] if whole else kept_events(await _log(buffer, parent), from_step=from_step, call_id=call_id)
    if kept and isinstance(model, WorkflowSource) and not model.takes_kept_steps:
        raise NotRetryable(
            f"run {parent.run_id}: the workflow {model.name!r} cannot go on behind steps of an earlier run: "
            "retry the whole run",
            reason="whole_run_only",
        )
    request = RunRequest.model_validate_json(parent.request)
    run_id, message_id = uuid.uuid4().hex, uuid.uuid4().hex
    started = RunStarted(
        run_id=run_id,
        conversation_id=parent.conversation_id,
        message_id=message_id,
        parent_run_id=parent.run_id,
        model=model.name,
    )
    digest = dump_json(["retry", parent.run_id, from_step, call_id])
    run = NewRun(
        run_id=run_id,
        conversation_id=parent.conversation_id,
        message_id=message_id,
        started=NewEvent.of(started),
        request=parent.request,
        principal=parent.principal,
        parent_run_id=parent.run_id,
        idempotency_key=idempotency_key,
        digest=None if idempotency_key is None else hashlib.sha256(digest).hexdigest(),
        log_version=parent.log_version,
    )
    placeholder = MessageRecord(
        message_id=message_id,
        conversation_id=parent.conversation_id,
        run_id=run_id,
        role="assistant",
        status="pending",
        content=b"[]",
        parent_id=request.user_message_id,
    )
    return run, [placeholder], [NewEvent(event.type, event.data, event.private) for event in kept]


async def _log(buffer: EventBuffer, parent: RunRecord) -> Sequence[StoredEvent]:
    """Read the parent's whole log; what was trimmed cannot be kept."""
    events: list[StoredEvent] = []
    while not events or events[-1].seq < parent.head_seq:
        page = await buffer.read(parent.run_id, events[-1].seq if events else 0)
        if page.first_seq > 1 or not page.events:
            raise NotRetryable(
                f"the history of run {parent.run_id} was trimmed up to event {page.first_seq}: "
                f"only the whole run can be retried",
                reason="history_trimmed",
            )
        events += page.events
    return events
