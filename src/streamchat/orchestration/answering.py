"""What an answer from outside comes to: checked at the door by `check_answer`, told by events in the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from streamchat.core.answers import Answer, AnswerKind, awaited
from streamchat.core.fold import RunState
from streamchat.errors import AnswerConflict, InvalidInput, WaitNotFound
from streamchat.events import ApprovalResolved, JobResult, StreamEvent, ToolResult
from streamchat.messages import ToolCallPart
from streamchat.tools import OutputUnusable, ResultInvalid, Tool, ToolRegistry
from streamchat.tools.output import json_value, limit_output

__all__ = ["answer_events", "check_answer", "expiry_events"]

_NOT_DECIDED = "The time to decide on it ran out."
_NOT_BROUGHT = "The user's side brought no result."
_NOT_COMPLETED = "Its job brought no result; whether it takes effect is not known."


class _Brought(NamedTuple):
    """What a client or a job brought."""

    outcome: Literal["ok", "error"]
    output: Any = None
    error: str | None = None


def _brought(body: Mapping[str, Any], tool: Tool | None, most: int | None) -> _Brought:
    """Raises `ResultInvalid`, `OutputUnusable`."""
    if tool is not None and tool.max_output_bytes is not None:
        most = tool.max_output_bytes
    error = body.get("error")
    if error is not None:
        return _Brought("error", error=limit_output(json_value(str(error)), most))
    output = json_value(body.get("output"))
    return _Brought("ok", limit_output(output if tool is None else tool.result(output), most))


def _told(body: Mapping[str, Any], tool: Tool | None, most: int | None) -> _Brought:
    try:
        return _brought(body, tool, most)
    except ResultInvalid as problem:
        return _Brought("error", error=str(problem))
    except OutputUnusable as problem:
        return _Brought("error", error=f"The result cannot be passed on: {problem}.")


def answer_events(
    call: ToolCallPart, answer: Answer, tool: Tool | None, *, most: int | None
) -> list[StreamEvent]:
    """Return the events for an answer that ``call`` waits for.

    ``most`` bounds the output in bytes where the tool does not. What does not fit is told to the model: an
    answer that got past `check_answer` (the tool may have changed since) is not left standing.
    """
    step, call_id, body = call.step, call.call_id, answer.body
    if answer.kind == "approval":
        approved = body.get("approved") is True
        edited = body.get("arguments") if approved else None
        resolved = ApprovalResolved(
            step=step,
            approval_id=call.approval.approval_id if call.approval else call_id,
            call_id=call_id,
            approved=approved,
            reason=body.get("reason"),
            arguments=edited if isinstance(edited, dict) else None,
            by=answer.by,
        )
        if approved:
            return [resolved]
        return [resolved, ToolResult(step=step, call_id=call_id, outcome="denied", error=resolved.reason)]
    outcome, output, error = _told(body, tool, most)
    if answer.kind == "tool_result":
        return [ToolResult(step=step, call_id=call_id, outcome=outcome, output=output, error=error)]
    return [
        JobResult(
            step=step, job_id=call.job_id or "", call_id=call_id, outcome=outcome, output=output, error=error
        )
    ]


def expiry_events(call: ToolCallPart, kind: AnswerKind) -> list[StreamEvent]:
    """Return the event for a wait whose time is over."""
    step, call_id = call.step, call.call_id
    if kind == "job_result":
        job_id = call.job_id or ""
        return [JobResult(step=step, job_id=job_id, call_id=call_id, outcome="timeout", error=_NOT_COMPLETED)]
    if kind == "approval":
        return [ToolResult(step=step, call_id=call_id, outcome="denied", error=_NOT_DECIDED)]
    return [ToolResult(step=step, call_id=call_id, outcome="timeout", error=_NOT_BROUGHT)]


def check_answer(
    state: RunState, tools: ToolRegistry, answer: Answer, *, most: int | None = None, now: int | None = None
) -> None:
    """Check an answer against what the run asked for, before it is left for the run to take. Pure.

    ``state`` is the fold of the stored log, ``most`` the run's limit on outputs in bytes, ``now`` the time in
    milliseconds (None: no expiry is looked at). Returns for an answer that fits an open wait; for one to a
    wait that was answered before, and where the run is over, whether it is the same is for the store to say
    (`EventBuffer.post`).

    Raises `WaitNotFound` for what was never asked, `AnswerConflict` for a wait that ended without an answer
    or whose time is over, and for a job's result where the call came to something else, and `InvalidInput`
    (with ``field``) for a body of another shape, for arguments that do not fit the tool, and for a result
    that is not of the declared type or too large.
    """
    call = next((call for call in state.calls if call.call_id == answer.call_id), None)
    tool = tools.get(call.name) if call is not None else None
    if call is None or not _was_asked(call, answer.kind, tool):
        raise WaitNotFound(
            f"run {state.run_id}: call {answer.call_id!r} never waited for an answer of kind {answer.kind!r}"
        )
    written_off = answer.kind == "job_result" and call.state == "done" and call.job is None
    if written_off or (not state.over and _ended_unanswered(call, answer.kind)):
        raise AnswerConflict(
            f"run {state.run_id}: call {call.call_id!r} no longer waits for an answer: "
            f"it came to {call.outcome!r}"
        )
    _check_shape(answer)
    if awaited(call) != answer.kind and not (answer.kind == "job_result" and call.state == "running"):
        return
    expires_at = _expires_at(state, call, answer.kind)
    if now is not None and expires_at is not None and now >= expires_at:
        raise AnswerConflict(f"run {state.run_id}: the time to answer call {call.call_id!r} is over")
    _check_content(answer, tool, most)


def _was_asked(call: ToolCallPart, kind: AnswerKind, tool: Tool | None) -> bool:
    if kind == "approval":
        return call.approval is not None
    if kind == "tool_result":
        return call.executed_by == "client" and call.problem is None
    if call.job is not None:
        return True
    if call.state == "done":  # it may have begun a job before it came to something else
        return call.attempts > 0 and (tool is None or tool.deferred)
    # A job may be over before the tool that began it has returned.
    return call.state == "running" and tool is not None and tool.deferred


def _ended_unanswered(call: ToolCallPart, kind: AnswerKind) -> bool:
    if kind == "approval":
        assert call.approval is not None
        return call.state == "done" and call.approval.approved is None
    return call.state == "done" and call.outcome not in ("ok", "error")


def _expires_at(state: RunState, call: ToolCallPart, kind: AnswerKind) -> int | None:
    if kind == "approval":
        return call.approval.expires_at if call.approval else None
    if kind == "job_result":
        return call.job.expires_at if call.job else None
    return next((wait.expires_at for wait in state.waits if wait.call_id == call.call_id), None)


def _check_shape(answer: Answer) -> None:
    body = answer.body
    if answer.kind != "approval":
        if ("output" in body) == (body.get("error") is not None):
            raise InvalidInput("give either output or error", field="output")
        if not isinstance(body.get("error"), str | None):
            raise InvalidInput(f"error must be text, not {body['error']!r:.80}", field="error")
        return
    approved, arguments = body.get("approved"), body.get("arguments")
    if not isinstance(approved, bool):
        raise InvalidInput(f"approved must be true or false, not {approved!r:.80}", field="approved")
    if not isinstance(body.get("reason"), str | None):
        raise InvalidInput(f"reason must be text, not {body['reason']!r:.80}", field="reason")
    if arguments is not None and not (approved and isinstance(arguments, dict)):
        raise InvalidInput("arguments must be an object, and go with approved only", field="arguments")


def _check_content(answer: Answer, tool: Tool | None, most: int | None) -> None:
    if answer.kind == "approval":
        arguments = answer.body.get("arguments")
        wrong = tool.misfit(arguments) if tool is not None and arguments is not None else None
        if wrong is not None:
            raise InvalidInput(str(wrong), field=f"arguments.{wrong.field}" if wrong.field else "arguments")
        return
    try:
        _brought(answer.body, tool, most)
    except OutputUnusable as problem:
        raise InvalidInput(f"the output cannot be passed on: {problem}", field="output") from problem
