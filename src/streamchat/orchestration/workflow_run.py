"""A run whose tokens come from a workflow: one stream for all its steps, which are named before they begin.

The stream stays open from step to step and is asked for what comes after one only when that one's
``model_completed`` and ``step_finished`` were handed out. It is asked anew after a failure, a take-over and a
wait for somebody's answer; then the workflow is told which steps stand, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from streamchat.core.fold import RunState
from streamchat.errors import ModelError
from streamchat.events import ModelCompleted, StepReset, StepStarted, StoredEvent, StreamEvent
from streamchat.messages import ModelMessage, TextPart
from streamchat.models.base import (
    Model,
    ModelRequest,
    NextStep,
    WorkflowProgress,
    WorkflowSource,
    WorkflowStep,
)
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.failures import failure_event, refusal_event
from streamchat.orchestration.judged_run import JudgedRun
from streamchat.orchestration.options import Refuse, RunOptions
from streamchat.orchestration.run import Phase, Run
from streamchat.tools import ToolRegistry

__all__ = ["WorkflowRunner", "tools_of"]


def tools_of(model: Model, tools: ToolRegistry) -> ToolRegistry:
    """Return the tools that a run of ``model`` knows: ``tools``, and a workflow's own.

    Raises `ToolDefinitionError` where a name is in both.
    """
    return tools | model.workflow_tools if isinstance(model, WorkflowSource) else tools


class WorkflowRunner(JudgedRun):
    """A run over a `WorkflowSource`; guarded as any other.

    A step is *open* from its ``step_started`` to its ``model_completed``.
    """

    def __init__(
        self,
        model: WorkflowSource,
        messages: Sequence[ModelMessage],
        tools: ToolRegistry,
        context: RunContext,
        options: RunOptions,
        history: Iterable[StreamEvent | StoredEvent],
    ) -> None:
        super().__init__(model, messages, tools_of(model, tools), context, options, history)
        self._workflow = model
        self._offered = tools
        self._name: str | None = None
        self._is_open = False
        self._hooked = 0
        """The newest step whose ``before_step`` hook was called."""

    async def _find_place(self) -> list[StreamEvent]:
        events = await super()._find_place()
        if self._phase is Run._begin_step:
            self._phase = WorkflowRunner._look_on
        elif any(isinstance(event, StepReset) for event in events):
            if not self._workflow.resumable:
                # Nothing was handed out yet, so what had come of the step stays.
                error = self._cut_off()
                failure = failure_event(self.context.run_id, "model", error.code, error, step=self._step)
                return await self._end(failure)
            self._is_open, self._name = True, self._log.state.steps[-1].name
        return events

    def _cut_off(self) -> ModelError:
        text = (
            f"run {self.context.run_id}: the workflow {self.model.name!r} was cut off and is not resumable; "
            "say resumable=True if it can go on from run.completed"
        )
        return ModelError(text, code="cut_off")

    # From one step to the next.

    async def _after_step(self) -> list[StreamEvent]:
        events = await super()._after_step()
        if self._phase is Run._begin_step or (self._phase is Run._succeed and self._has_more()):
            self._phase = WorkflowRunner._look_on
        return events

    def _has_more(self) -> bool:
        if self._asking is not None:
            return True
        extras = self._log.folder.extras.get(self._step) or {}
        return bool(extras.get("workflow", {}).get("more"))

    async def _look_on(self) -> list[StreamEvent]:
        """Read on in the open stream, or ask the workflow anew for the rest."""
        if self._asking is not None:
            self._phase = WorkflowRunner._read_name
            return []
        if self._log.state.steps and not self._workflow.resumable:
            return await self._model_failed(self._cut_off())
        self._hooked = self._step + 1
        return await self._open(self._step + 1, then=WorkflowRunner._read_name)

    async def _read_name(self) -> list[StreamEvent]:
        asking = self._asking
        assert asking is not None
        deadline = self._interruptible()
        try:
            events = await asking.next_step(deadline)
            self._resume(deadline)
            if asking.named is not None:
                self._phase = self._found(asking.named.name)
            elif asking.ended:
                return [*events, *await self._no_more()]
        except ModelError as error:
            self._resume(deadline)
            if self.context.stopping or self._log.limits.reached() is not None:
                return []
            return await self._model_failed(error)
        return events

    def _found(self, name: str | None) -> Phase:
        if not self._is_open:
            self._name = name
            return Run._begin_step
        if name != self._name:
            raise ModelError(
                f"the workflow {self.model.name!r} was asked to begin again with step {self._step}, "
                f"{self._name!r}, and begins with {name!r}",
                code="diverged",
            )
        return Run._ask

    async def _no_more(self) -> list[StreamEvent]:
        await self._close_response()
        if not self._is_open:
            self._phase = Run._succeed
            return []
        self._is_open = False
        self._phase = Run._begin_tools
        return [ModelCompleted(step=self._step, finish_reason="stop")]

    async def _begin_step(self) -> list[StreamEvent]:
        _, *others = await super()._begin_step()
        self._is_open = True
        return [StepStarted(step=self._step, name=self._name, kind="workflow"), *others]

    async def _ask(self) -> list[StreamEvent]:
        asking = self._asking
        if asking is None:
            self._hooked = self._step
            return await self._open(self._step, then=WorkflowRunner._read_name)
        state = self._log.state
        if self._hooked != self._step:
            self._hooked = self._step
            hook = self.options.hooks.before_step
            changed = await self._hook(hook, self.context, self._request(state, self._step))
            if isinstance(changed, Refuse):
                return await self._end(refusal_event(changed, step=self._step))
        asking.begin(self._step, first_part=state.last_part + 1, taken=[call.call_id for call in state.calls])
        self._phase = Run._read
        return []

    def _request(self, state: RunState, step: int) -> ModelRequest:
        progress = WorkflowProgress(
            messages=self.messages,
            steps=self._standing(state),
            open_step=NextStep(self._name) if self._is_open else None,
            parent_run_id=self.context.parent_run_id,
            previous_runs=self.context.previous_runs,
            principal=self.context.principal,
            deps=self.context.deps,
        )
        return replace(super()._request(state, step), tools=self._offered.schemas(), workflow=progress)

    def _standing(self, state: RunState) -> tuple[WorkflowStep, ...]:
        texts: dict[int, list[str]] = {}
        for part in state.parts:
            if isinstance(part, TextPart):
                texts.setdefault(part.step, []).append(part.text)
        extras = self._log.folder.extras
        return tuple(
            WorkflowStep(
                step=step.step,
                name=step.name,
                text="".join(texts.get(step.step, ())),
                calls=tuple(call for call in state.calls if call.step == step.step),
                kept=(extras.get(step.step) or {}).get("workflow", {}),
            )
            for step in state.steps
            if step.model_completed
        )

    # The end of a step, and failures.

    async def _drain(self) -> list[StreamEvent]:
        self._is_open = False
        asking = self._asking
        assert asking is not None
        assert asking.result is not None
        if asking.result.more:
            self._phase = Run._begin_tools
            return []
        return await super()._drain()

    def _may_ask_again(self) -> bool:
        return self._workflow.resumable or not self._log.state.steps

    def _withdraw(self, pause: float) -> list[StreamEvent]:
        return super()._withdraw(pause) if self._is_open else []

    async def _pause(self) -> list[StreamEvent]:
        events = await super()._pause()
        if not self._is_open:
            self._phase = WorkflowRunner._look_on
        return events
