"""What a run waits for from outside: which answers and expiries it takes, and what comes when it has none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from streamchat.core.answers import Answer, AnswerKind, awaited, may_be_used
from streamchat.core.conclude import cancelled_job
from streamchat.core.fold import RunState
from streamchat.events import ResumeReason, StatusEvent, StreamEvent, Suspended, ToolResult, Wait
from streamchat.messages import ToolCallPart
from streamchat.orchestration.answering import answer_events, expiry_events
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.orchestration.run_log import RunLog
from streamchat.tools import ToolRegistry

__all__ = ["Waits", "close_jobs"]

_REASONS: dict[AnswerKind, ResumeReason] = {
    "approval": "approval",
    "tool_result": "tool_result",
    "job_result": "job",
}


class _OpenWait(NamedTuple):
    call: ToolCallPart
    kind: AnswerKind
    expires_at: int | None


class Waits:
    """The waits of one run, as its log tells them; nothing of them is kept here."""

    def __init__(self, context: RunContext, log: RunLog, tools: ToolRegistry, options: RunOptions) -> None:
        self._context = context
        self._log = log
        self._tools = tools
        self._options = options

    def _open(self, state: RunState) -> Iterator[_OpenWait]:
        for call in state.calls:
            kind = awaited(call)
            if kind is not None:
                yield _OpenWait(call, kind, self._expires_at(call, kind))

    def _expires_at(self, call: ToolCallPart, kind: AnswerKind) -> int | None:
        if kind == "approval":
            return call.approval.expires_at if call.approval else None
        if kind == "job_result":
            return call.job.expires_at if call.job else None
        tool, default = self._tools.get(call.name), self._options.client_timeout
        return self._log.client_expiry(call, default if tool is None else tool.time_limit(default))

    def reason(self, state: RunState) -> ResumeReason:
        """Return why a suspended run goes on."""
        if self._context.stopping:
            return "cancel"
        expired = False
        for wait in self._open(state):
            if self._answer(wait) is not None:
                return _REASONS[wait.kind]
            expired = expired or self._is_over(wait)
        return "expired" if expired else self._context.resumed or "handover"

    def _answer(self, wait: _OpenWait) -> Answer | None:
        """The answer to a wait, unless it came when its time was over."""
        for answer in self._context.inputs:
            if answer.kind == wait.kind and answer.call_id == wait.call.call_id:
                at = self._context.clock() if answer.at is None else answer.at
                return answer if wait.expires_at is None or at < wait.expires_at else None
        return None

    def _is_over(self, wait: _OpenWait) -> bool:
        if wait.expires_at is None:
            return False
        # An answer that came too late says so as well as the clock does.
        came = [a.at for a in self._context.inputs if (a.kind, a.call_id) == (wait.kind, wait.call.call_id)]
        return max([self._context.clock(), *(at for at in came if at is not None)]) >= wait.expires_at

    def take(self, state: RunState) -> list[StreamEvent]:
        """Return the events for answers that came and for waits whose time is over.

        From the context's inputs these answers are removed, and those that can be of no use any more.
        """
        events: list[StreamEvent] = []
        settled: set[str] = set()
        for wait in self._open(state):
            answer = self._answer(wait)
            if answer is not None:
                most = self._options.limits.max_tool_output_bytes
                events += answer_events(wait.call, answer, self._tools.get(wait.call.name), most=most)
            elif self._is_over(wait):
                events += expiry_events(wait.call, wait.kind)
            else:
                continue
            settled.add(wait.call.call_id)
        calls = {call.call_id: call for call in state.calls if call.call_id not in settled}
        self._context.inputs[:] = [
            answer for answer in self._context.inputs if may_be_used(answer.kind, calls.get(answer.call_id))
        ]
        return events

    def job_is_over(self, call: ToolCallPart) -> bool:
        """Say whether what a call's job came to is there already, though the call itself was cut off."""
        return any(a.kind == "job_result" and a.call_id == call.call_id for a in self._context.inputs)

    def suspend(self, state: RunState, step: int) -> list[StreamEvent]:
        """Return the events with which the run pauses until something comes."""
        waits = tuple(
            Wait(
                kind="job" if kind == "job_result" else kind,
                call_id=call.call_id,
                approval_id=call.approval.approval_id if kind == "approval" and call.approval else None,
                job_id=call.job_id if kind == "job_result" else None,
                expires_at=expires_at,
            )
            for call, kind, expires_at in self._open(state)
        )
        building = all(wait.kind == "job" for wait in waits)
        return [StatusEvent(step=step, status="building" if building else "waiting"), Suspended(waits=waits)]

    # Between steps only jobs are open.

    def holds_up(self, state: RunState) -> bool:
        """Say whether the model is not to be asked before a job that is at work is over."""
        return any(call.state == "deferred" and self._waits_for_job(call) for call in state.calls)

    def _waits_for_job(self, call: ToolCallPart) -> bool:
        tool = self._tools.get(call.name)
        return tool is None or tool.wait_for_job

    def has_jobs(self, state: RunState) -> bool:
        """Say whether a job is at work."""
        return any(call.state == "deferred" for call in state.calls)

    def has_news(self, state: RunState) -> bool:
        """Say whether the model is to be asked again: the newest step brought results that it does not
        know."""
        newest = state.steps[-1].step if state.steps else 0
        return any(self._is_news(call, newest) for call in state.calls if call.executed_by != "provider")

    def _is_news(self, call: ToolCallPart, newest: int) -> bool:
        ended_in = call.job.ended_in if call.job else None
        if newest not in (call.step, ended_in):
            return False
        tool = self._tools.get(call.name)
        if newest == call.step and tool is not None and not tool.wait_for_job:
            return True  # the model is asked beside the job, however fast that is
        return ended_in is None or tool is None or tool.after_job == "model"


def close_jobs(state: RunState, results: list[StreamEvent]) -> list[StreamEvent]:
    """Return what ends the jobs that are at work, those that ``results`` have only just told of included."""
    jobs = [(call.step, call.job_id or "", call.call_id) for call in state.calls if call.state == "deferred"]
    jobs += [
        (event.step, event.job_id or "", event.call_id)
        for event in results
        if isinstance(event, ToolResult) and event.outcome == "deferred"
    ]
    return [cancelled_job(*job) for job in jobs]
