"""`WorkflowModel`: an async generator function as a model; what it yields becomes steps, text and events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from streamchat.errors import InvalidInput
from streamchat.messages import ModelMessage, Usage
from streamchat.models.asking import AskingModel, Decision, decisions
from streamchat.models.base import CustomOutput, ModelOutput, ModelRequest, NextStep, WorkflowProgress
from streamchat.models.step_output import StepOutput
from streamchat.principal import Principal
from streamchat.tools.output import json_value

__all__ = [
    "Ask",
    "Called",
    "CompletedStep",
    "Decision",
    "Emit",
    "Keep",
    "Node",
    "Reasoning",
    "WorkflowItem",
    "WorkflowModel",
    "WorkflowRun",
]


@dataclass(frozen=True, slots=True)
class Node:
    """A step begins. What stands behind it runs when the step before it is durable."""

    name: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Reasoning that readers may see; text to show as the answer is yielded as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Emit:
    """A ``custom`` event; ``data`` is whatever a tool may return."""

    name: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class Called:
    """Something like a tool call that the workflow has made itself; shown with its output, never run here.

    ``call_id`` is made where there is none.
    """

    name: str
    arguments: dict[str, Any] | None = None
    output: Any = None
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Keep:
    """What the step came to, for who resumes the run: `CompletedStep.data`. The step's last one counts."""

    data: Any


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to a person, which ends the step and the generator.

    The run is suspended until `StreamChat.resolve_approval`, or the end of the time for it. Then the function
    is called again, and ``run.answers[id]`` is the `Decision`. ``value`` is what the person sees and may
    edit; text in it, or under its key ``question``, is the question.
    """

    id: str
    value: Any = None


WorkflowItem: TypeAlias = str | Node | Reasoning | Emit | Called | Keep | Usage | Ask | Sequence[Ask]
"""What a workflow may yield; a list of several `Ask` asks them at once."""


@dataclass(frozen=True, slots=True)
class CompletedStep:
    """A step of the run that stands: its number, its text, and what it said to `Keep`."""

    step: int
    name: str | None
    text: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """What a workflow is told of the run that it works for.

    ``messages`` are the conversation's before the answer, the user's newest last. ``completed`` is empty when
    the run begins; when the function is called again, it holds the steps that stand. ``attempt`` counts from
    0 and grows with each failure after which a step is begun again. ``options`` are
    `RunOptions.model_options`; ``deps`` and ``principal`` are the run's, None outside of a service.
    """

    messages: Sequence[ModelMessage]
    run_id: str | None = None
    conversation_id: str | None = None
    parent_run_id: str | None = None
    completed: tuple[CompletedStep, ...] = ()
    answers: Mapping[str, Decision] = field(default_factory=dict)
    attempt: int = 0
    principal: Principal | None = None
    deps: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def find(self, name: str) -> CompletedStep | None:
        """Return the newest completed step of that name, or None."""
        return next((step for step in reversed(self.completed) if step.name == name), None)

    @property
    def text(self) -> str:
        """The text of the newest user message, its parts joined."""
        for message in reversed(self.messages):
            if message.role == "user":
                if isinstance(message.content, str):
                    return message.content
                return "".join(part["text"] for part in message.content if part.get("type") == "text")
        return ""


def workflow_run(request: ModelRequest, ask_tool: str) -> WorkflowRun:
    """Make what a workflow is told from what a model is asked."""
    progress = request.workflow or WorkflowProgress(messages=request.messages)
    return WorkflowRun(
        messages=progress.messages,
        run_id=request.run_id,
        conversation_id=request.conversation_id,
        parent_run_id=progress.parent_run_id,
        completed=tuple(
            CompletedStep(step.step, step.name, step.text, step.kept.get("data")) for step in progress.steps
        ),
        answers=decisions(progress.steps, ask_tool),
        attempt=request.attempt,
        principal=progress.principal,
        deps=progress.deps,
        options=request.options,
    )


class WorkflowModel(AskingModel):
    """A model that is an async generator function of a `WorkflowRun`, yielding `WorkflowItem`s.

    What comes before the first `Node` is a step without a name. ``yield Node(…)`` returns when the step
    before it is durable, so that a node never runs before it is known that it is its turn.

    With ``resumable`` the function promises to look at ``run.completed`` and to go on behind those steps: it
    is then called again after a wait, by the worker that takes over from one that died, and after a
    `ModelError` with ``retryable=True`` that it raised. Where a step had been open, its text is withdrawn and
    the function must begin with that step, under the same name (or end; anything else ends the run with the
    code ``diverged``). Without it such a run ends with an ``error`` of the code ``cut_off``, what it had said
    stays, and `Ask` cannot be used.

    Any other exception ends the run with an ``error``. When the run is stopped, runs out of time or loses its
    worker's lease, the function is cancelled at its await, or closed at its ``yield``. ``ask_tool`` is the
    name under which questions appear as tool calls, and must be none of the application's tools.
    """

    def __init__(
        self,
        function: Callable[[WorkflowRun], AsyncIterator[WorkflowItem]],
        *,
        name: str | None = None,
        resumable: bool = False,
        ask_tool: str = "ask",
    ) -> None:
        self._function = function
        named: str = name or getattr(function, "__name__", None) or "workflow"
        super().__init__(named, resumable=resumable, ask_tool=ask_tool)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        """Call the function and translate what it yields; raises `InvalidInput` for what is no item."""
        source = self._function(workflow_run(request, self._ask_tool))
        output: StepOutput | None = None
        try:
            async for item in source:
                if isinstance(item, Node):
                    if output is not None:
                        yield [output.result(more=True)]
                    output = StepOutput()
                    yield [NextStep(item.name)]
                    continue
                if output is None:
                    output = StepOutput()
                    yield [NextStep(None)]
                batch = self._translate(item, output)
                if output.asks:
                    break
                if batch:
                    yield batch
            if output is not None:
                yield [output.result(more=False)]
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    def _translate(self, item: object, output: StepOutput) -> list[ModelOutput]:
        if isinstance(item, str):
            return [output.say("text", item)] if item else []
        if isinstance(item, Reasoning):
            return [output.say("reasoning", item.text)] if item.text else []
        if isinstance(item, Emit):
            return [CustomOutput(item.name, json_value(item.data))]
        if isinstance(item, Called):
            arguments = None if item.arguments is None else json_value(item.arguments)
            return [output.called(item.name, arguments, json_value(item.output), call_id=item.call_id)]
        if isinstance(item, Keep):
            output.kept = json_value(item.data)
        elif isinstance(item, Usage):
            output.spend(item)
        else:
            self._ask(item, output)
        return []

    def _ask(self, item: object, output: StepOutput) -> None:
        items = item if isinstance(item, list | tuple) else [item]
        asks = [ask for ask in items if isinstance(ask, Ask)]
        if not asks or len(asks) < len(items):
            raise InvalidInput(f"the workflow {self._name!r} yielded {item!r:.200}, which is no WorkflowItem")
        if not self._resumable:
            raise InvalidInput(
                f"the workflow {self._name!r} asks a person, and is called again when they have decided: "
                "say resumable=True, and look at run.completed and run.answers"
            )
        if len({ask.id for ask in asks}) < len(asks):
            raise InvalidInput(f"the workflow {self._name!r} asked twice under one id: {item!r:.200}")
        for ask in asks:
            output.ask(self._ask_tool, ask.id, {"value": json_value(ask.value)})
