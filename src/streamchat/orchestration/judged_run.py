"""A run whose messages and answers are judged: by the application's guards, and by the declared type."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from streamchat.core.fold import RunState
from streamchat.core.given import check_instance
from streamchat.errors import ModelError
from streamchat.events import (
    CustomEvent,
    ErrorEvent,
    StepReset,
    StoredEvent,
    StreamEvent,
)
from streamchat.messages import ModelMessage, RefusalPart, TextPart, model_messages
from streamchat.models.base import Model, ModelRequest, WorkflowSource
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.failures import failure_event, refusal_event
from streamchat.orchestration.options import Refuse, RunOptions
from streamchat.orchestration.run import Phase, Run
from streamchat.orchestration.said_text import SaidText
from streamchat.orchestration.structured import (
    INVALID,
    OUTPUT,
    OutputInvalid,
    PartialOutput,
    output_type_of,
)
from streamchat.tools import ToolRegistry

__all__ = ["JudgedRun", "judges"]

_CORRECTION = (
    "(Not written by the user.) Your answer does not have the form that was asked for:\n{problem}\n"
    "Answer again: with the whole JSON object, and nothing else."
)


def judges(options: RunOptions) -> bool:
    """Whether there is anything to judge in a run with ``options``."""
    hooks = options.hooks
    return any(x is not None for x in (hooks.guard_input, hooks.guard_output, options.output_type))


class JudgedRun(Run):
    """A `Run` with guards, and with ``output_type``.

    What was found of an answer stands in the log (``custom`` events ``output`` and ``output_invalid``), so
    that whoever goes on with the run asks the model what it would have been asked here.
    """

    def __init__(
        self,
        model: Model,
        messages: Sequence[ModelMessage],
        tools: ToolRegistry,
        context: RunContext,
        options: RunOptions,
        history: Iterable[StreamEvent | StoredEvent],
    ) -> None:
        history = list(history)
        super().__init__(model, messages, tools, context, options, history)
        # A workflow's steps are its own: none of them is the answer more than another.
        asked = options.output_type is not None and not isinstance(model, WorkflowSource)
        self._output = output_type_of(options.output_type) if asked else None
        self._partial = PartialOutput(options.output_interval)
        self._guarded = False
        self._problems: dict[int, str] = {}
        """By step, what was wrong with its answer."""
        self._fitting: set[int] = set()
        if self._output is not None:
            for held in history:
                event = held.event if isinstance(held, StoredEvent) else held
                if isinstance(event, CustomEvent):
                    self._note(event)

    def _note(self, event: CustomEvent) -> None:
        if event.step is None:
            return
        if event.name == OUTPUT:
            self._fitting.add(event.step)
        elif event.name == INVALID and isinstance(event.data, dict):
            self._problems[event.step] = str(event.data.get("message"))

    # What the model is asked.

    async def _open(self, step: int, *, then: Phase) -> list[StreamEvent]:
        if not self._guarded:
            guarded = await self._hook(self.options.hooks.guard_input, self.context, list(self.messages))
            if isinstance(guarded, Refuse):
                return await self._end(refusal_event(guarded, step=self._step or None))
            if guarded is not None:
                self.messages = model_messages(guarded)
            elif self._is_ended():
                return []  # perhaps before the guard had answered
            self._guarded = True
        return await super()._open(step, then=then)

    def _is_ended(self) -> bool:
        return self.context.stopping or self._log.limits.reached() is not None

    def _request(self, state: RunState, step: int) -> ModelRequest:
        request = super()._request(state, step)
        if self._output is None:
            return request
        messages = list(request.messages)
        before = len(self.messages)
        # From the last on, so that each place is counted in what was there before.
        for wrong in sorted(self._problems, reverse=True):
            if wrong < step:
                at = before + len(self._log.said_before(state, wrong + 1))
                text = _CORRECTION.format(problem=self._problems[wrong])
                messages.insert(at, ModelMessage(role="user", content=text))
        return replace(request, messages=messages, output=self._output.schema)

    # What it answers.

    async def _read(self) -> list[StreamEvent]:
        events = await super()._read()
        if self.options.hooks.guard_output is not None and any(e.type == "model_completed" for e in events):
            return await self._guard(events)
        if self._output is None:
            return events
        step = self._partial.add(events)
        asking = self._asking
        if step is not None and asking is not None and asking.result is None:
            partial = self._partial.look(step, time.monotonic())
            if partial is not None:
                return [*events, partial]
        return events

    async def _guard(self, events: list[StreamEvent]) -> list[StreamEvent]:
        """Ask the guard about the step's whole text, of which ``events`` are the end."""
        state = self._log.state
        said = SaidText(state, self._step, events)
        if not said.text:
            return events
        answer = await self._hook(self.options.hooks.guard_output, self.context, said.text)
        if isinstance(answer, Refuse):
            self._ending = refusal_event(answer, step=self._step)
            self._phase = Run._settle
            resets = state.steps[-1].resets
            return [StepReset(step=self._step, attempt=resets + 2, reason="guard")]
        if answer is not None:
            give = "the text that is to stand, a Refuse, or None"
            check_instance("guard_output", answer, str, give, secret=True)
            return said.replaced(answer)
        if self._is_ended():
            # Perhaps before the guard had answered: the step stays what it was, incomplete.
            reached = self._log.limits.reached()
            if not self.context.stopping and reached is not None:
                return await self._end(self._limit(reached))
            self._phase = Run._read
            return []
        return events

    async def _begin_step(self) -> list[StreamEvent]:
        self._partial.clear()
        return await super()._begin_step()

    async def _after_step(self) -> list[StreamEvent]:
        events = await super()._after_step()
        if self._output is None or events or self._phase not in (Run._succeed, Run._suspend):
            return events
        state = self._log.state
        if any(call.step == self._step and call.executed_by != "provider" for call in state.calls):
            if self._phase is Run._succeed:
                # A tool may end its run (``after_job``), but not without the answer that was asked for.
                self._phase = Run._begin_step
            return []
        return await self._judge(state)

    async def _judge(self, state: RunState) -> list[StreamEvent]:
        """Say whether the step's answer is of the declared type; where it is not, ask again or end."""
        step, output = self._step, self._output
        assert output is not None
        if step in self._fitting:
            return []
        if step in self._problems:
            if len(self._problems) > self.options.output_retries:
                return await self._end(self._unfit("invalid_output", self._problems[step]))
            self._phase = Run._begin_step
            return []
        said = "".join(p.text for p in state.parts if p.step == step and isinstance(p, TextPart))
        if not said and any(p.step == step and isinstance(p, RefusalPart) for p in state.parts):
            return await self._end(self._unfit("refused", "the model refused"))
        self._phase = Run._after_step
        try:
            found = CustomEvent(step=step, name=OUTPUT, data=output.validate(said))
        except OutputInvalid as error:
            data = {"message": str(error), "attempt": len(self._problems) + 1}
            found = CustomEvent(step=step, name=INVALID, data=data)
        self._note(found)
        return [found]

    def _unfit(self, code: str, problem: str) -> ErrorEvent:
        text = f"step {self._step}: the answer is no {self.options.output_type!r}: {problem}"
        return failure_event(self.context.run_id, "model", code, ModelError(text, code=code), step=self._step)
