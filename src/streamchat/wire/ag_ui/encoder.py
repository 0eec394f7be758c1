"""From a run's events to AG-UI 1.0 events: what one client is sent on one response.

The rules that AG-UI's own client enforces (`@ag-ui/client` 1.0, ``verifyEvents``): ``RUN_STARTED`` first,
content only between a start and an end, nothing open at ``RUN_FINISHED``, nothing behind the end. What was
sent and does not stand (a withdrawn step, edited arguments, a job's late result) is put right by
``MESSAGES_SNAPSHOT``, which drops every message that it does not name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from streamchat.core.fold import Folder, RunState
from streamchat.events import (
    ApprovalResolved,
    CustomEvent,
    FileEvent,
    Finalized,
    JobResult,
    MessageCompleted,
    ModelCompleted,
    ReasoningDelta,
    RefusalDelta,
    RunResumed,
    RunStarted,
    SourceEvent,
    StatusEvent,
    StepFinished,
    StepReset,
    StepStarted,
    StoredEvent,
    StreamEvent,
    Suspended,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    ToolProgress,
    ToolResult,
    Wait,
)
from streamchat.messages import FilePart, SourcePart, ToolCallPart
from streamchat.wire.ag_ui.ending import end_of, outcome_of
from streamchat.wire.ag_ui.messages import (
    NAMESPACE,
    AGUIMessage,
    activity_of,
    progress_of,
    result_of,
    run_messages,
    snapshot_of,
)
from streamchat.wire.ag_ui.response import PROTOCOL_VERSION, OpenResponse
from streamchat.wire.ag_ui.shown import AGUIEvent, ShownStep
from streamchat.wire.ag_ui.state import BaseState, ShownState

__all__ = ["AGUIEncoder", "Before"]

Before: TypeAlias = Sequence[AGUIMessage] | Callable[[], Sequence[AGUIMessage]]
"""The thread's messages before the run's answer, or a function that returns them (asked when needed)."""


class AGUIEncoder:
    """Translates one run for one client; feed it every event of the log once, in order. Pure.

    ``thread_id`` and ``run_id`` are the client's own names (``RunAgentInput``). ``before`` is what the thread
    held before the answer, the user's message included: a ``MESSAGES_SNAPSHOT`` restates it, and what is not
    in it the client forgets. ``message_id`` is the answer's, for a log whose beginning may be gone.
    ``state`` is the agent's at that place: a client is told the whole of it when it joins late, before an
    interrupt, and in the place of a first patch that goes on from what earlier runs have left.
    ``metadata`` goes with ``RUN_STARTED``, beside the run's own ids.
    ``protocol_version`` is the client's (``RunAgentInput.protocolVersion``): without one it is older than
    1.0, and some outcomes would be an error to it.

    After a suspension that a person or the page must end, and after the end of the run, ``over`` is True, and
    whatever is fed then gives nothing. Events of one call belong into one write.
    """

    def __init__(
        self,
        thread_id: str,
        run_id: str,
        *,
        before: Before = (),
        state: BaseState = None,
        message_id: str | None = None,
        parent_run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        protocol_version: str | None = PROTOCOL_VERSION,
    ) -> None:
        self._before = before
        self._said = OpenResponse(
            thread_id,
            run_id,
            message_id=message_id,
            parent_run_id=parent_run_id,
            metadata=metadata,
            protocol_version=protocol_version,
        )
        self._ids = self._said.ids
        self._put = self._said.put
        self._paused = False
        self._folder = Folder()
        self._state = ShownState(state, self._put)
        self._step = ShownStep(self._ids, self._put)
        self._step_name: str | None = None
        self._unfinished: list[str] = []
        """Calls that the client was told of and that were never complete: they are in no final message."""
        self._wrong = False
        """Whether the client holds something that does not stand, or in another order."""

    @property
    def over(self) -> bool:
        """Whether the response has ended."""
        return self._said.over

    @property
    def paused(self) -> bool:
        """Whether the run waits for background jobs alone: the response may stay open, or end by `pause`."""
        return self._paused and not self.over

    def begin(self) -> list[AGUIEvent]:
        """Return ``RUN_STARTED``, for who answers before there is an event; later it gives nothing."""
        self._said.begin()
        return self._said.taken()

    def add(self, event: StreamEvent | StoredEvent) -> list[AGUIEvent]:
        """Return what to send for the next event."""
        if self.over:
            return []
        self._said.note_time(event)
        event = event.event if isinstance(event, StoredEvent) else event
        if isinstance(event, RunStarted):
            self._said.learn(event.run_id, event.message_id)
        self._said.begin()
        if isinstance(event, MessageCompleted):
            self._compare(event)
        self._state.take(event)
        self._folder.add(event)
        handler = _HANDLERS.get(event.type)
        if handler is not None:
            handler(self, event)
        return self._said.taken()

    def rejoin(
        self, events: Iterable[StreamEvent | StoredEvent], *, answered: bool = False
    ) -> list[AGUIEvent]:
        """Return what a client is sent that comes when ``events`` have been: no replay, but what they came
        to, with whatever is open opened again, so that `add` can go on.

        Of a run that is suspended, or over, that includes the ending; with ``answered`` a suspended run is
        about to go on.
        """
        for event in events:
            self._said.note_time(event)
            event = event.event if isinstance(event, StoredEvent) else event
            self._folder.add(event)
            self._state.take(event)
        return self._restate(answered=answered)

    def reset(self, state: RunState) -> list[AGUIEvent]:
        """Return the same for a log whose events up to here cannot be had (`HistoryReset`): `add` goes on
        behind ``state``."""
        if self.over:
            return []
        self._folder = Folder(state)
        self._state.lose()
        return self._restate()

    def pause(self) -> list[AGUIEvent]:
        """End the response of a run that is `paused`, as a success: the client may go on talking."""
        if self.over:
            return []
        about = {NAMESPACE: {"status": "suspended"}}
        self._end({"type": "RUN_FINISHED", "outcome": {"type": "success"}, "metadata": about})
        return self._said.taken()

    def break_off(self, code: str, message: str, **about: Any) -> list[AGUIEvent]:
        """End the response with ``RUN_ERROR``, whatever becomes of the run; ``message`` is for the client."""
        if self.over:
            return []
        self._said.begin()
        self._end({"type": "RUN_ERROR", "message": message, "code": code, "metadata": {NAMESPACE: about}})
        return self._said.taken()

    # What the client holds.

    def _snapshot(self) -> None:
        """Restate the thread as it stands; what the client holds besides is gone."""
        self._wrong = False
        before = self._before() if callable(self._before) else self._before
        messages = [*before, *run_messages(self._folder.state.parts, self._ids)]
        self._put("MESSAGES_SNAPSHOT", **snapshot_of(messages, self._said.reasoned))
        self._said.reasoned.update((each["id"], None) for each in messages if each["role"] == "reasoning")

    def _put_right(self) -> None:
        if self._wrong or self._step.wrong:
            self._step.wrong = False
            self._snapshot()

    def _restate(self, *, answered: bool = False) -> list[AGUIEvent]:
        """Say what the log came to so far, and open again what is open."""
        state = self._folder.state
        late = not self._said.begun
        self._said.learn(state.run_id, state.message_id)
        self._said.begin()
        if late:
            self._state.snapshot()
        self._close()
        self._snapshot()
        self._step = ShownStep(self._ids, self._put)
        self._unfinished = [
            part.call_id
            for part in state.parts
            if isinstance(part, ToolCallPart) and part.state == "streaming"
        ]
        if state.over:
            self._end(end_of(state))
        elif state.status == "suspended":
            if not answered:
                self._suspend(state.waits, restated=True)
        elif state.steps and not state.steps[-1].finished:
            self._reopen(state)
        return self._said.taken()

    def _reopen(self, state: RunState) -> None:
        step = state.steps[-1]
        self._open_step(step.step, step.name)
        if not step.model_completed:
            of_step = [part for part in state.parts if part.step == step.step]
            streaming = {part.call_id for part in of_step if isinstance(part, ToolCallPart)}
            self._unfinished = [call_id for call_id in self._unfinished if call_id not in streaming]
            self._step.adopt(of_step)

    # The run and its steps.

    def _on_run_resumed(self, event: RunResumed) -> None:
        self._paused = False

    def _open_step(self, number: int, name: str | None) -> None:
        self._close_step()
        self._step = ShownStep(self._ids, self._put, number)
        self._step_name = name or f"step {number}"
        self._put("STEP_STARTED", stepName=self._step_name)

    def _close_step(self) -> None:
        name, self._step_name = self._step_name, None
        if name is not None:
            self._put("STEP_FINISHED", stepName=name)

    def _close(self) -> None:
        """Close whatever is open."""
        self._unfinished += self._step.close()
        self._close_step()

    def _on_step_started(self, event: StepStarted) -> None:
        self._open_step(event.step, event.name)

    def _on_step_finished(self, event: StepFinished) -> None:
        self._close_step()

    def _on_step_reset(self, event: StepReset) -> None:
        step = self._step
        step.close()
        shown, unanswered = step.withdraw()
        for call_id in unanswered:
            self._revoke(call_id)
        self._step = ShownStep(self._ids, self._put, event.step)
        if shown:
            self._snapshot()

    def _revoke(self, call_id: str) -> None:
        """Answer a call that does not stand: one without a result would be the page's to execute. A snapshot
        then removes both."""
        self._put_result(ToolCallPart(call_id=call_id, outcome="cancelled"))

    # What the model says.

    def _on_text(self, event: TextDelta | RefusalDelta | ReasoningDelta) -> None:
        self._step.say(event)

    def _on_whole_part(self, event: SourceEvent | FileEvent) -> None:
        fields = event.model_dump(exclude={"type"})
        part = SourcePart(**fields) if isinstance(event, SourceEvent) else FilePart(**fields)
        self._step.note()
        self._put("ACTIVITY_SNAPSHOT", messageId=self._ids.activity(event.part), **activity_of(part))

    def _on_call_delta(self, event: ToolCallDelta) -> None:
        self._step.call_more(event)

    def _on_call(self, event: ToolCallEvent) -> None:
        self._step.call_whole(event)

    def _on_model_completed(self, event: ModelCompleted) -> None:
        self._unfinished += self._step.close()
        # A part's text is told only where it is another than what the deltas made.
        if any(part.text is not None for part in event.parts):
            self._wrong = True
        self._put_right()

    # What becomes of its calls.

    def _on_result(self, event: ToolResult) -> None:
        self._step.answered(event.call_id)
        call = self._folder.call(event.call_id)
        if call is None:  # known from the whole message alone, which is still to come
            fields = event.model_dump(include={"call_id", "outcome", "output", "error"})
            call = ToolCallPart(**fields)
        self._put_result(call)

    def _put_result(self, call: ToolCallPart) -> None:
        message_id = self._ids.result(call.call_id)
        self._put("TOOL_CALL_RESULT", messageId=message_id, **result_of(call, self._ids))

    def _on_job_result(self, event: JobResult) -> None:
        # A second result would be a second message: the first one is restated.
        self._snapshot()

    def _on_approval_resolved(self, event: ApprovalResolved) -> None:
        if event.arguments is not None:
            self._snapshot()

    def _on_progress(self, event: ToolProgress) -> None:
        told = event.model_dump(include={"message", "fraction", "data"}, exclude_none=True)
        activity = progress_of(self._ids.call(event.call_id), told)
        self._put("ACTIVITY_SNAPSHOT", messageId=self._ids.progress(event.call_id), **activity)

    # What is the application's.

    def _on_status(self, event: StatusEvent) -> None:
        value = event.model_dump(include={"status", "detail", "step"}, exclude_none=True)
        self._put("CUSTOM", name=f"{NAMESPACE}.status", value=value)

    def _on_custom(self, event: CustomEvent) -> None:
        self._state.say(event)

    # Pauses and ends.

    def _on_suspended(self, event: Suspended) -> None:
        self._suspend(event.waits)

    def _suspend(self, waits: Sequence[Wait], *, restated: bool = False) -> None:
        outcome = outcome_of(waits, self._folder.state, self._ids)
        if outcome is None:
            self._paused = True
            return
        if outcome["type"] == "interrupt" and not restated:
            # All that is needed to go on must have been said before.
            self._close()
            self._state.snapshot()
            self._snapshot()
        self._end({"type": "RUN_FINISHED", "outcome": outcome})

    def _compare(self, event: MessageCompleted) -> None:
        """The whole message, before it replaces what the events made: does the client hold the same?"""
        if event.content != self._folder.content():
            self._wrong = True

    def _on_message_completed(self, event: MessageCompleted) -> None:
        self._unfinished += self._step.close()
        for call_id in self._unfinished:
            self._revoke(call_id)
            self._wrong = True
        self._unfinished = []
        self._put_right()

    def _on_finalized(self, event: Finalized) -> None:
        self._end(end_of(self._folder.state))

    def _end(self, fields: dict[str, Any]) -> None:
        """Close whatever is open, and end the response."""
        self._close()
        self._said.end(fields)


_HANDLERS: dict[str, Callable[[AGUIEncoder, Any], None]] = {
    **dict.fromkeys(("text_delta", "refusal_delta", "reasoning_delta"), AGUIEncoder._on_text),
    **dict.fromkeys(("source", "file"), AGUIEncoder._on_whole_part),
    "run_resumed": AGUIEncoder._on_run_resumed,
    "status": AGUIEncoder._on_status,
    "step_started": AGUIEncoder._on_step_started,
    "step_finished": AGUIEncoder._on_step_finished,
    "step_reset": AGUIEncoder._on_step_reset,
    "tool_call_delta": AGUIEncoder._on_call_delta,
    "tool_call": AGUIEncoder._on_call,
    "model_completed": AGUIEncoder._on_model_completed,
    "approval_resolved": AGUIEncoder._on_approval_resolved,
    "tool_progress": AGUIEncoder._on_progress,
    "tool_result": AGUIEncoder._on_result,
    "job_result": AGUIEncoder._on_job_result,
    "suspended": AGUIEncoder._on_suspended,
    "custom": AGUIEncoder._on_custom,
    "message_completed": AGUIEncoder._on_message_completed,
    "finalized": AGUIEncoder._on_finalized,
}
