"""The seam to where tokens come from: a `Model` turns a request into batches of deltas and one result.

A model yields *lists*: all that one read of the network brought, so that a burst of chunks costs one
hand-over. It retries by itself while nothing was yielded that a reader could have seen; after that it raises
`ModelError`, and the orchestrator withdraws what came and asks again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from streamchat.core.accumulator import CallDelta, ContentDelta, SourceDelta, ToolCall
from streamchat.messages import ModelMessage, ToolCallPart, Usage
from streamchat.principal import Principal
from streamchat.tools.schema import ToolSchema

if TYPE_CHECKING:
    from streamchat.tools import ToolRegistry

__all__ = [
    "PROVIDER_POSITIONS",
    "CallDelta",
    "ContentDelta",
    "CustomOutput",
    "FinishedContent",
    "Model",
    "ModelOutput",
    "ModelRequest",
    "ModelResult",
    "ModelRetry",
    "NextStep",
    "OutputSchema",
    "ProviderCall",
    "SourceDelta",
    "ToolSchema",
    "WorkflowProgress",
    "WorkflowSource",
    "WorkflowStep",
]

PROVIDER_POSITIONS = 1000
"""Where the positions of calls that the provider runs begin: beyond those of our own."""


@dataclass(frozen=True, slots=True)
class WorkflowStep:
    """A step of a workflow that stands in the log.

    ``calls`` are its tool calls with what they came to, ``kept`` is what the workflow had put into its
    `ModelResult.extras`.
    """

    step: int
    name: str | None
    text: str
    calls: tuple[ToolCallPart, ...] = ()
    kept: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkflowProgress:
    """What a workflow is told beyond a model's request: whose run it is, and how far it has come.

    ``messages`` are those before the run; ``steps`` the run's own that stand, in order. ``open_step`` is the
    one that must come again, because its content was withdrawn. ``previous_runs`` are the ids of those whose
    answers come before this run's, on its branch of the conversation, oldest first; None: not known.
    """

    messages: Sequence[ModelMessage] = ()
    steps: tuple[WorkflowStep, ...] = ()
    open_step: NextStep | None = None
    parent_run_id: str | None = None
    principal: Principal | None = None
    deps: Any = None
    previous_runs: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """What the answer must be, as the provider is told of it: JSON of a named JSON Schema.

    ``strict`` says that the schema is in strict mode's form.
    """

    name: str
    schema: Mapping[str, Any]
    strict: bool = False
    description: str | None = None


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What one model call is asked.

    ``options`` go to the provider as they are (temperature, tool_choice, …). ``attempt`` counts from 0 and
    grows when the orchestrator asks again after a failure in mid-stream. ``output`` is set where the answer
    must be of a declared type, ``workflow`` where a `WorkflowSource` is asked.
    """

    messages: Sequence[ModelMessage]
    tools: Sequence[ToolSchema] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    step: int = 1
    attempt: int = 0
    run_id: str | None = None
    conversation_id: str | None = None
    output: OutputSchema | None = None
    workflow: WorkflowProgress | None = None


class NextStep(NamedTuple):
    """Notice that a workflow's next step begins; alone in its batch."""

    name: str | None


class CustomOutput(NamedTuple):
    """An event of the application's own; ``data`` holds JSON values."""

    name: str
    data: Any


class ModelRetry(NamedTuple):
    """Notice that the model failed before its first token and will be asked again in ``seconds``."""

    attempt: int
    seconds: float
    code: str


class FinishedContent(NamedTuple):
    """A content part as it finally stands; ``replaced`` where ``text`` is not what its deltas joined are."""

    part: int
    kind: str
    text: str
    replaced: bool = False


class ProviderCall(NamedTuple):
    """A call that the provider ran itself (web search, code): shown, never run here.

    ``error`` is text for a call that failed.
    """

    part: int
    id: str
    name: str
    arguments: dict[str, Any] | None
    output: Any
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The last item of every model stream: what the model's share of the step came to.

    ``parts`` numbers are local to the step and start at 0, as in the deltas. ``extras`` is kept with the log,
    shown to nobody, and given back to the provider with the assistant's message on later requests. ``more``
    is for a `WorkflowSource`: its stream goes on with another step, or ends without one.
    """

    finish_reason: str | None
    parts: tuple[FinishedContent, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    provider_calls: tuple[ProviderCall, ...] = ()
    usage: Usage | None = None
    extras: dict[str, Any] | None = None
    more: bool = False


ModelOutput: TypeAlias = (
    ContentDelta | CallDelta | SourceDelta | CustomOutput | ModelRetry | NextStep | ModelResult
)


@runtime_checkable
class Model(Protocol):
    """Where tokens come from. Implementations are shared by all runs and hold no state of one."""

    @property
    def name(self) -> str:
        """The model's name, as it stands in ``run_started`` and in usage."""
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        """Ask the model; yield batches of output, the last item of the last batch being a `ModelResult`.

        Raises `ModelError` when the provider cannot be asked or its stream ends badly. Cancelled or closed,
        it closes the provider's response before it returns.
        """
        ...


@runtime_checkable
class WorkflowSource(Model, Protocol):
    """A model whose one stream goes through several steps, each with a name of its own.

    A stream is batches of: ``[NextStep(name)]``; then the step's output, ending with a `ModelResult`; where
    that says ``more``, on with the next `NextStep`. Between two steps there may be `CustomOutput`. What
    stands behind a `NextStep` is asked for only when all before it may be durable. A stream may end where a
    `NextStep` could stand. After a failure, a take-over and a wait for somebody's answer the orchestrator
    asks anew, with ``request.workflow`` saying what stands; if a step is open then, the stream must begin
    with that step's name, or end.
    """

    @property
    def resumable(self) -> bool:
        """Whether it can be asked anew for the rest of a run that it has begun."""
        ...

    @property
    def takes_kept_steps(self) -> bool:
        """Whether it can go on behind steps that another run has made, as a retry in part asks it to."""
        ...

    @property
    def workflow_tools(self) -> ToolRegistry:
        """The tools that only it calls, beside the application's."""
        ...
