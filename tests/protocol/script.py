"""What a worker writes next, by what its log amounts to: the orchestrator in small, over the real events.

The real `fold`, `conclude`, `check_log` and `next_move` decide; this module only chooses among a few events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from streamchat.core.conclude import conclude
from streamchat.core.fold import RunState, fold
from streamchat.core.lifecycle import check_log
from streamchat.core.next_move import Move
from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    Cancelled,
    ErrorEvent,
    Finalized,
    JobResult,
    MessageCompleted,
    ModelCompleted,
    RunResumed,
    RunStarted,
    StepFinished,
    StepReset,
    StepStarted,
    StreamEvent,
    Suspended,
    TextDelta,
    ToolCallEvent,
    ToolResult,
    ToolStarted,
    Wait,
)
from tests.protocol.state import Batch, Entry, Ev

__all__ = ["amounts_to", "concluded", "is_legal", "next_batches", "real"]

CALL, JOB = "c", "j"
_ENDING = (Ev("step_finished"), Ev("message_completed"), Ev("finalized", "success"))


@cache
def real(kind: str, says: str) -> StreamEvent:
    """The event of the library that a model's event stands for."""
    part, _, text = says.partition(":")
    makers: dict[str, Callable[[], StreamEvent]] = {
        "run_started": lambda: RunStarted(run_id="r", conversation_id="v", message_id="m"),
        "run_resumed": lambda: RunResumed(reason="takeover", worker=says),
        "step_started": lambda: StepStarted(step=1),
        "step_reset": lambda: StepReset(step=1, attempt=int(says), reason="takeover"),
        "text_delta": lambda: TextDelta(step=1, part=int(part), text=text),
        "tool_call": lambda: ToolCallEvent(
            step=1, part=int(part), call_id=CALL, name=text, arguments={"to": "x"}
        ),
        "model_completed": lambda: ModelCompleted(step=1, call_ids=(CALL,) if says else ()),
        "approval_requested": lambda: ApprovalRequested(step=1, approval_id="a", call_id=CALL),
        "approval_resolved": lambda: ApprovalResolved(
            step=1, approval_id="a", call_id=CALL, approved=says == "yes"
        ),
        "tool_started": lambda: ToolStarted(
            step=1, call_id=CALL, attempt=int(says), idempotency_key=f"r:{CALL}"
        ),
        "tool_result": lambda: ToolResult(
            step=1,
            call_id=CALL,
            outcome=says,  # type: ignore[arg-type]
            job_id=JOB if says == "deferred" else None,
        ),
        "job_result": lambda: JobResult(step=1, job_id=JOB, call_id=CALL, outcome=says),  # type: ignore[arg-type]
        "suspended": lambda: Suspended(
            waits=(
                Wait(kind="approval", call_id=CALL, approval_id="a")
                if says == "approval"
                else Wait(kind="job", call_id=CALL, job_id=JOB),
            )
        ),
        "step_finished": lambda: StepFinished(step=1),
        "cancelled": lambda: Cancelled(),
        "error": lambda: ErrorEvent(phase="orchestration", code="c", message="m"),
        "message_completed": lambda: MessageCompleted(content=()),
        "finalized": lambda: Finalized(status=says),  # type: ignore[arg-type]
    }
    return makers[kind]()


def _short(event: StreamEvent) -> Ev:
    """The model's event for one that `conclude` made."""
    for field in ("outcome", "status", "worker"):
        value = getattr(event, field, None)
        if isinstance(value, str):
            return Ev(event.type, value)
    return Ev(event.type)


@cache
def _events(log: tuple[Entry, ...]) -> tuple[StreamEvent, ...]:
    return tuple(real(entry.type, entry.says) for entry in log)


@cache
def amounts_to(log: tuple[Entry, ...]) -> RunState:
    """The real fold of a log."""
    return fold(_events(log))


@cache
def is_legal(log: tuple[Entry, ...]) -> bool:
    """Whether the real table of orders lets this log be."""
    check_log(_events(log))
    return True


@cache
def concluded(log: tuple[Entry, ...], worker: str, cancelled: bool) -> tuple[Ev, ...]:
    """What the real `conclude` appends where somebody new ends the log."""
    reason = Cancelled() if cancelled else "worker_lost"
    return tuple(_short(event) for event in conclude(_events(log), reason, resumed="cancel", worker=worker))


def next_batches(
    log: tuple[Entry, ...],
    *,
    began: bool,
    worker: str,
    unread: Iterable[tuple[str, str]],
    task: str,
    script: str,
    texts: int,
    approve: bool,
    expires: bool,
    again: Callable[[bool], Move],
) -> list[Batch]:
    """Return the batches that a holder may write behind ``log``, which is all that it knows.

    ``unread`` are the inputs that it has looked at, ``began`` says that it has
    written something, ``task`` is what its own process knows of the call,
    ``again(started)`` the real decision on a call that has no result.
    """
    state = amounts_to(log)
    inputs = dict(unread)
    if "cancel" in inputs:
        resumed = concluded(log, worker, True)
        events = resumed if not began else tuple(e for e in resumed if e.type != "run_resumed")
        return [Batch(events, "over", consumed=tuple(sorted(inputs)))]
    first: tuple[Ev, ...] = (Ev("run_resumed", worker),) if not began and state.events > 1 else ()
    step = state.steps[-1] if state.steps else None
    part = state.last_part + 1
    if step is None:
        said: tuple[Ev, ...] = (Ev("text_delta", f"{part}:{worker}.1"),) if texts else ()
        if script == "job":
            return [_a_job(first, part)]
        return [Batch((*first, Ev("step_started"), *said))]
    if not step.model_completed:
        if first:
            return [Batch((*first, Ev("step_reset", str(step.resets + 2))))]
        return _speak(log, worker, state, script, texts)
    if first:
        return [Batch(first)]
    if not state.calls or state.calls[0].state == "done":
        return [Batch(_ENDING, "over")]
    return [batch._replace(wakes=expires) for batch in _tools(log, inputs, task, approve, expires, again)]


def _a_job(first: tuple[Ev, ...], part: int) -> Batch:
    """A step whose only call goes on in the background, in one batch: here it is the slot that matters."""
    events = (
        Ev("step_started"),
        Ev("tool_call", f"{part}:job"),
        Ev("model_completed", CALL),
        Ev("tool_started", "1"),
        Ev("tool_result", "deferred"),
        Ev("suspended", "job"),
    )
    return Batch((*first, *events), "suspend", keep_slot=False)


def _speak(log: tuple[Entry, ...], worker: str, state: RunState, script: str, texts: int) -> list[Batch]:
    part = state.last_part + 1
    out = []
    said = sum(entry.type == "text_delta" for entry in log)
    if said < texts:
        out.append(Batch((Ev("text_delta", f"{part}:{worker}.{said + 1}"),)))
    if script == "text":
        out.append(Batch((Ev("model_completed"), *_ENDING), "over"))
    else:
        out.append(Batch((Ev("tool_call", f"{part}:{script}"), Ev("model_completed", CALL))))
    return out


def _tools(
    log: tuple[Entry, ...],
    inputs: dict[str, str],
    task: str,
    approve: bool,
    expires: bool,
    again: Callable[[bool], Move],
) -> list[Batch]:
    call = amounts_to(log).calls[0]
    if call.state == "deferred":
        if "job_result" in inputs:
            return [Batch((Ev("job_result", inputs["job_result"]),), consumed=("job_result",))]
        return [Batch((Ev("suspended", "job"),), "suspend", keep_slot=False)]
    if call.state == "approval":
        if "approval" in inputs:
            said = Ev("approval_resolved", inputs["approval"])
            return [Batch((said,), consumed=("approval",))]
        denied = [Batch((Ev("approval_resolved", "no"),))] if expires else []
        return [*denied, Batch((Ev("suspended", "approval"),), "suspend")]
    answer = next((entry.says for entry in log if entry.type == "approval_resolved"), None)
    if answer == "no":
        return [Batch((Ev("tool_result", "denied"),))]
    if approve and answer is None and "approval" in inputs:
        # A failover has lost the question, which somebody has read, and answered.
        said = Ev("approval_resolved", inputs["approval"])
        return [Batch((Ev("approval_requested"), said), consumed=("approval",))]
    if approve and answer is None:
        return [Batch((Ev("approval_requested"), Ev("suspended", "approval")), "suspend")]
    if task == "done":
        return [Batch((Ev("tool_result", "ok"),))]
    if task == "due":
        return []
    move = again(call.state == "running")
    if move in ("start", "start_again"):
        return [Batch((Ev("tool_started", str(call.attempts + 1)),))]
    return [Batch((Ev("tool_result", "unknown"),))]
