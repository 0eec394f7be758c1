"""What of a run's log its retry begins with: the steps before one, or all but one call's attempts.

A retry is a run of its own, with the parent's kept events copied behind its ``run_started``; the first
holder then adds ``run_resumed(retry)`` and goes on from there. What only told of the parent's own course
(resumptions, suspensions, statuses) is left out.

A call that is done again may have taken effect: the idempotency key that it was started under goes with it,
in private, and it is started under that one again (`kept_key`).
"""

from __future__ import annotations

from collections.abc import Sequence

from streamchat.errors import InvalidInput, NotRetryable
from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    JobResult,
    ModelCompleted,
    StepFinished,
    StepStarted,
    StoredEvent,
    StreamEvent,
    ToolCallEvent,
    ToolProgress,
    ToolResult,
    ToolStarted,
    encode_event,
)

__all__ = ["kept_events", "kept_key"]

_KEY = "idempotency_key"

_COURSE = frozenset({"run_started", "run_resumed", "suspended", "status"})
_ENDING = frozenset({"error", "cancelled", "message_completed"})


def kept_events(
    log: Sequence[StoredEvent], *, from_step: int | None = None, call_id: str | None = None
) -> list[StoredEvent]:
    """Return the events that a retry of the run with this ``log`` begins with, in order.

    Without arguments none: the whole run is done anew. ``from_step`` keeps the steps before it, finished as
    they are; ``call_id`` keeps everything up to the call's step but for that call's attempts and result, and
    for an approval that was refused; of the attempts only the idempotency key is left (see `kept_key`).

    Raises `NotRetryable` for a run that is not over, a call that succeeded, is none of ours to run or was
    wrong in itself; `InvalidInput` for a step or call that the run does not have.
    """
    if not log or log[-1].type != "finalized":
        raise NotRetryable("the run is not over: cancel it first, or wait for its end", reason="run_active")
    if from_step is not None and call_id is not None:
        raise InvalidInput("give from_step or call_id, not both", field="call_id")
    events = [stored.event for stored in log]
    if call_id is not None:
        return _without_call(log, events, call_id)
    if from_step is None or from_step == 1:
        return []
    end = _start_of(events, from_step)
    if end is None:
        raise InvalidInput(f"the run has no step {from_step}", field="from_step")
    return _kept(log, events, end)


def kept_key(call: ToolCallEvent) -> str | None:
    """Return the idempotency key under which an earlier run started the call, None where none did."""
    return None if call.private is None else call.private.get(_KEY)


def _start_of(events: Sequence[StreamEvent], step: int) -> int | None:
    return next(
        (i for i, event in enumerate(events) if isinstance(event, StepStarted) and event.step == step), None
    )


def _kept(log: Sequence[StoredEvent], events: Sequence[StreamEvent], end: int) -> list[StoredEvent]:
    """Return what stands before ``end``, and what became of its jobs, wherever that is told."""
    calls = {event.call_id for event in events[:end] if isinstance(event, ToolCallEvent)}
    return [
        stored
        for place, (stored, event) in enumerate(zip(log, events, strict=True))
        if (place < end and event.type not in _COURSE)
        or (place >= end and isinstance(event, JobResult) and event.call_id in calls)
    ]


def _without_call(
    log: Sequence[StoredEvent], events: Sequence[StreamEvent], call_id: str
) -> list[StoredEvent]:
    step = _step_of(events, call_id)
    ending = next(place for place, event in enumerate(events) if event.type in _ENDING)
    following = _start_of(events, step + 1)
    end = ending if following is None else following
    agreed = any(
        isinstance(event, ApprovalResolved) and event.call_id == call_id and event.approved
        for event in events
    )
    gone = {
        stored.seq
        for stored, event in zip(log, events, strict=True)
        if (
            isinstance(event, ToolStarted | ToolProgress | ToolResult | JobResult)
            and event.call_id == call_id
        )
        or (
            isinstance(event, ApprovalRequested | ApprovalResolved)
            and event.call_id == call_id
            and not agreed
        )
        or (isinstance(event, StepFinished) and event.step == step)
    }
    key = _key_of(events, call_id)
    return [
        _with_key(stored, key) if key is not None and _is_call(stored.event, call_id) else stored
        for stored in _kept(log, events, end)
        if stored.seq not in gone
    ]


def _is_call(event: StreamEvent, call_id: str) -> bool:
    return isinstance(event, ToolCallEvent) and event.call_id == call_id


def _key_of(events: Sequence[StreamEvent], call_id: str) -> str | None:
    """Return the key of the call's attempts, or of those that a parent of this run made."""
    key: str | None = None
    for event in events:
        if isinstance(event, ToolCallEvent) and event.call_id == call_id:
            key = kept_key(event)
        elif isinstance(event, ToolStarted) and event.call_id == call_id:
            key = event.idempotency_key
    return key


def _with_key(stored: StoredEvent, key: str) -> StoredEvent:
    private = {**(stored.event.private or {}), _KEY: key}
    _, encoded = encode_event(stored.event.model_copy(update={"private": private}))
    return StoredEvent(
        stored.seq, stored.at, None, stored.generation, type=stored.type, data=stored.data, private=encoded
    )


def _step_of(events: Sequence[StreamEvent], call_id: str) -> int:
    """Return the step of a call that may be retried by itself."""
    call: ToolCallEvent | None = None
    outcome: str | None = None
    completed: set[int] = set()
    for event in events:
        if isinstance(event, ToolCallEvent) and event.call_id == call_id:
            call, outcome = event, None
        elif isinstance(event, ToolResult | JobResult) and event.call_id == call_id:
            outcome = event.outcome
        elif isinstance(event, ModelCompleted):
            completed.add(event.step)
    if call is None:
        raise InvalidInput(f"the run has no call {call_id!r:.200}", field="call_id")
    reason = _refusal(call, outcome, call.step in completed)
    if reason is not None:
        raise NotRetryable(f"call {call_id!r:.200}: {reason[1]}", reason=reason[0])
    return call.step


def _refusal(call: ToolCallEvent, outcome: str | None, stands: bool) -> tuple[str, str] | None:
    if not stands:
        return "step_incomplete", "the model's step was cut off: retry from that step"
    if outcome == "ok":
        return "call_succeeded", "it succeeded, and would take effect twice: retry from its step"
    if call.problem is not None:
        return "call_malformed", f"the call itself was wrong ({call.problem}): retry from its step"
    if call.executed_by == "provider":
        return "not_ours", "the provider executed it: retry from its step"
    return None
