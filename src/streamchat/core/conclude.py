"""What must be appended to end a log cleanly after a crash, a hard stop, or a cancel that nobody holds."""

from __future__ import annotations

from collections.abc import Iterable

from streamchat.core.fold import Folder
from streamchat.events import (
    EVENT_TYPES,
    Cancelled,
    ErrorEvent,
    Finalized,
    FinalStatus,
    JobResult,
    MessageCompleted,
    Outcome,
    ResumeReason,
    RunResumed,
    StoredEvent,
    StreamEvent,
    ToolResult,
)

__all__ = ["cancelled_job", "conclude", "conclude_fold", "ending"]

_ENDING = frozenset({"error", "cancelled", "message_completed"})
_JOB_LEFT = "The run ended before the job did; whether the job takes effect is not known."
_MESSAGES = {
    "worker_lost": "The server stopped while it was working on this answer.",
    "interrupted": "The answer was interrupted.",
}


def conclude(
    events: Iterable[StreamEvent | StoredEvent],
    reason: str | ErrorEvent | Cancelled,
    *,
    resumed: ResumeReason | None = None,
    worker: str | None = None,
    duration: float | None = None,
) -> list[StreamEvent]:
    """Return the events that end a log: results for what is open, the ending, ``finalized``.

    Nothing for a log that is over, and nothing for an empty one, which no run stands behind. ``reason`` is
    the ending's first event, or a word: ``"cancelled"``, anything else being the code of an error with phase
    ``orchestration``. A call that was started and has no result becomes ``unknown``, one that never started
    ``cancelled``, an open job ``job_result(cancelled)``. A new holder gives ``resumed`` and ``worker``, which
    puts ``run_resumed`` first unless the log holds nothing but ``run_started``; a suspended log always gets
    one. Of an ending that is half there only the rest is returned, whatever the reason. ``duration`` is in
    seconds.
    """
    folder = Folder()
    last = ""
    for event in events:
        folder.add(event)
        if event.type in EVENT_TYPES:
            last = event.type
    return conclude_fold(folder, last, reason, resumed=resumed, worker=worker, duration=duration)


def conclude_fold(
    folder: Folder,
    last: str,
    reason: str | ErrorEvent | Cancelled,
    *,
    resumed: ResumeReason | None = None,
    worker: str | None = None,
    duration: float | None = None,
) -> list[StreamEvent]:
    """Return the same as `conclude`, for one who has folded the events: ``last`` is the newest known type.

    The returned events are folded into ``folder`` as far as they come before the ending.
    """
    state = folder.state
    if state.over or not last:
        return []
    if last in _ENDING:
        # An ending is one batch, so no store of ours holds half of one; a log from elsewhere may.
        first = state.error or state.cancelled
        rest = ending(folder, first, duration=duration)
        return rest[-1:] if last == "message_completed" else rest[1:]
    first = _first(reason)
    out: list[StreamEvent] = []
    if resumed is None and state.status == "suspended":
        resumed = "cancel" if isinstance(first, Cancelled) else "handover"
    if resumed is not None and state.events > 1:
        out.append(RunResumed(reason=resumed, worker=worker))
    for call in state.calls:
        if call.state == "deferred":
            out.append(cancelled_job(call.step, call.job_id or "", call.call_id))
        elif call.state != "done":
            outcome: Outcome = "unknown" if call.state == "running" else "cancelled"
            out.append(ToolResult(step=call.step, call_id=call.call_id, outcome=outcome))
    for event in out:
        folder.add(event)
    return [*out, *ending(folder, first, duration=duration)]


def cancelled_job(step: int, job_id: str, call_id: str) -> JobResult:
    """Return what a job comes to whose run ends before it: nobody will take its result."""
    return JobResult(step=step, job_id=job_id, call_id=call_id, outcome="cancelled", error=_JOB_LEFT)


def _first(reason: str | ErrorEvent | Cancelled) -> ErrorEvent | Cancelled:
    if not isinstance(reason, str):
        return reason
    if reason == "cancelled":
        return Cancelled()
    message = _MESSAGES.get(reason, "The answer could not be finished.")
    return ErrorEvent(phase="orchestration", code=reason, message=message, retryable=True)


def ending(
    folder: Folder, first: ErrorEvent | Cancelled | None = None, *, duration: float | None = None
) -> list[StreamEvent]:
    """Return a log's last batch: why it ends, the message, ``finalized``. All calls must have results."""
    state = folder.state
    message = MessageCompleted(
        content=folder.content(),
        finish_reason=state.finish_reason if first is None else None,
        usage=state.usage,
    )
    status: FinalStatus = "success"
    if first is not None:
        status = "error" if isinstance(first, ErrorEvent) else "cancelled"
    final = Finalized(status=status, usage=state.usage, duration=duration)
    return [*([first] if first is not None else []), message, final]
