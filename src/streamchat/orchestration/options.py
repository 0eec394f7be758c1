"""How far a run may go, and where an application may look in: `RunOptions`, `Limits` and `Hooks`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel

from streamchat.core.fold import RunState, StepState
from streamchat.core.given import check_callable, check_instance, check_number
from streamchat.errors import InvalidInput
from streamchat.messages import ModelMessage, ToolCallPart, Usage
from streamchat.models.base import ModelRequest
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.structured import output_type_of
from streamchat.tools import ToolContext, ToolOutcome
from streamchat.tools.values import LONGEST_WAIT

__all__ = ["Hooks", "Limits", "Refuse", "RunOptions", "call_hook"]

T = TypeVar("T")
MaybeAwaitable: TypeAlias = Awaitable[T] | T


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may take; None is no limit. Reaching one ends the run cleanly with an ``error`` of phase
    ``limit``.

    ``deadline`` is seconds from the run's creation, without those in which it was suspended.
    ``max_tokens_total`` and ``max_cost`` (what `RunOptions.cost` says of all steps) keep a run that has
    reached them from another step; ``max_tool_calls`` counts all calls but the provider's own, and a step
    that goes beyond it runs none of its calls.
    ``max_tool_output_bytes`` cuts one tool's output, ``max_log_bytes`` counts the JSON of the events,
    roughly.
    """

    max_steps: int | None = 25
    max_tokens_total: int | None = None
    max_cost: float | None = None
    deadline: float | None = None
    max_tool_calls_per_step: int | None = 64
    max_tool_calls: int | None = None
    max_tool_output_bytes: int | None = 1_000_000
    max_events: int | None = 100_000
    max_log_bytes: int | None = 64_000_000
    max_takeovers: int | None = 5

    def __post_init__(self) -> None:
        for name in self.__slots__:
            whole = name not in ("max_cost", "deadline")
            check_number(name, getattr(self, name), least=0, whole=whole, none=True)


@dataclass(frozen=True, slots=True)
class Refuse:
    """What a hook returns to refuse; ``message`` is safe for clients and models."""

    message: str
    code: str = "refused"

    def __post_init__(self) -> None:
        check_instance("message", self.message, str, "text, which the client and the model may see")
        check_instance("code", self.code, str, "text")


@dataclass(frozen=True, slots=True)
class Hooks:
    """Functions, sync or async, called at fixed places of a run. One that raises ends the run with an
    ``error``, but for ``after_run``: what has been said stands by then, and the server's log tells of it.

    ``before_run(context)`` and ``before_step(context, request)`` may return a `Refuse`, which ends the run;
    ``before_step`` may also return another request. ``before_tool(tool_context, call)`` may return a
    `Refuse`, which becomes the call's result ``denied``. ``after_tool(tool_context, call, outcome)`` may
    return another outcome; it sees that of every call that was started, also one that was stopped or settled
    by ``reconcile``, and until it has answered nothing of it is shown. ``after_step(context, step)`` and
    ``after_run(context, state)`` observe; the latter is called before the ending is handed out, and not at
    all when the run is ended hard.

    ``guard_input(context, messages)`` is called before the first model request that this process makes for
    the run, with the messages before the run's own: it may return a `Refuse`, or other messages. After a
    take-over or a wait it is called again, with the same. ``guard_output(context, text)`` is called when a
    step's whole text is there, before its tools run: it may return a `Refuse`, which withdraws the step
    (``step_reset``, reason ``guard``) and ends the run, or the text that stands in its place. Deltas were
    handed out by then: what a page has shown is replaced, and what a wire cannot take back was said. The text
    of a step that is stopped or fails in the middle is not guarded.

    A hook is ended like a tool: ``context.stop()`` and the run's deadline cancel one that waits, and
    ``after_run`` has the grace time.
    """

    guard_input: (
        Callable[
            [RunContext, list[ModelMessage]],
            MaybeAwaitable[Sequence[ModelMessage | Mapping[str, object]] | Refuse | None],
        ]
        | None
    ) = None
    guard_output: Callable[[RunContext, str], MaybeAwaitable[str | Refuse | None]] | None = None
    before_run: Callable[[RunContext], MaybeAwaitable[Refuse | None]] | None = None
    before_step: Callable[[RunContext, ModelRequest], MaybeAwaitable[ModelRequest | Refuse | None]] | None = (
        None
    )
    before_tool: Callable[[ToolContext, ToolCallPart], MaybeAwaitable[Refuse | None]] | None = None
    after_tool: (
        Callable[[ToolContext, ToolCallPart, ToolOutcome], MaybeAwaitable[ToolOutcome | None]] | None
    ) = None
    after_step: Callable[[RunContext, StepState], MaybeAwaitable[None]] | None = None
    after_run: Callable[[RunContext, RunState], MaybeAwaitable[None]] | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            check_callable(name, getattr(self, name), "a function, or None", none=True)


async def call_hook(hook: Callable[..., MaybeAwaitable[T]] | None, *arguments: Any) -> T | None:
    """Call a hook that may be missing, or async."""
    if hook is None:
        return None
    answer = hook(*arguments)
    return await answer if inspect.isawaitable(answer) else answer


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is orchestrated.

    ``model_options`` go to the provider as they are. ``max_step_restarts`` bounds how often one step is asked
    again after a failure in mid-stream, ``restart_delay`` (seconds, doubled each time) how soon; a provider
    that wants to be left alone for more than a minute is not asked again.
    ``tool_timeout`` (seconds) is for tools that set none. ``grace`` is how long a cancelled tool is waited
    for, in seconds, before it is abandoned. ``max_concurrent_tools`` bounds the tools at work for this run.

    A wait ends after some seconds (None: never): ``approval_timeout`` for a person's decision,
    ``client_timeout`` for the result of a client's tool, ``job_timeout`` for that of a job; where a tool, or
    its `Deferred`, sets a time of its own, that holds.

    ``cost`` gives the price of one step's usage, in any currency, for `Limits.max_cost`; it is not asked
    where the provider told no usage.

    With ``output_type`` (a pydantic model whose JSON is an object; `InvalidInput` otherwise) the provider is
    asked for JSON of its schema, and an answer without calls is validated. ``custom`` events tell of it:
    ``output_partial`` with what the text holds so far, at most every ``output_interval`` seconds;
    ``output_invalid`` (message, attempt) where it does not fit, and the model is told so and asked again, at
    most ``output_retries`` times; ``output`` with the object as JSON values. A run whose answer never fits
    ends with an ``error`` of phase ``model`` and code ``invalid_output``; one whose model refuses, with
    ``refused``. Workflows are not asked for it.
    """

    limits: Limits = field(default_factory=Limits)
    hooks: Hooks = field(default_factory=Hooks)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    max_step_restarts: int = 2
    restart_delay: float = 0.5
    tool_timeout: float | None = 300.0
    grace: float = 5.0
    max_concurrent_tools: int = 16
    approval_timeout: float | None = 7 * 24 * 3600.0
    client_timeout: float | None = 3600.0
    job_timeout: float | None = 24 * 3600.0
    cost: Callable[[Usage], float] | None = None
    output_type: type[BaseModel] | None = None
    output_interval: float = 0.2
    output_retries: int = 2

    def __post_init__(self) -> None:
        check_instance("limits", self.limits, Limits, "Limits(…)")
        check_instance("hooks", self.hooks, Hooks, "Hooks(…)")
        check_instance("model_options", self.model_options, Mapping, "a dict of what the provider takes")
        check_callable("cost", self.cost, "a function of a step's usage", none=True)
        # With less than one no tool would ever run.
        check_number("max_concurrent_tools", self.max_concurrent_tools, least=1, whole=True)
        for name in ("max_step_restarts", "output_retries"):
            check_number(name, getattr(self, name), least=0, whole=True)
        for name in ("restart_delay", "grace", "output_interval"):
            check_number(name, getattr(self, name), least=0)
        check_number("tool_timeout", self.tool_timeout, least=0, none=True)
        for name in ("approval_timeout", "client_timeout", "job_timeout"):
            check_number(name, getattr(self, name), least=0, most=LONGEST_WAIT, none=True)
        if self.output_type is not None:
            output_type_of(self.output_type)
        if self.limits.max_cost is not None and self.cost is None:
            raise InvalidInput(
                "max_cost needs RunOptions(cost=…): a function of a step's usage", field="cost"
            )
