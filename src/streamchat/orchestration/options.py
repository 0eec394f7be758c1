"""How far a run may go, and where an application may look in: `RunOptions`, `Limits` and `Hooks`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from streamchat.core.fold import RunState, StepState
from streamchat.messages import ToolCallPart
from streamchat.models.base import ModelRequest
from streamchat.orchestration.context import RunContext
from streamchat.tools import ToolContext, ToolOutcome

__all__ = ["Hooks", "Limits", "Refuse", "RunOptions", "call_hook"]

T = TypeVar("T")
MaybeAwaitable: TypeAlias = Awaitable[T] | T


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may take; None is no limit. Reaching one ends the run cleanly with an ``error`` of phase
    ``limit``.

    ``deadline`` is seconds from the run's creation, ``max_tool_output_bytes`` cuts one tool's output,
    ``max_log_bytes`` counts the JSON of the events, roughly.
    """

    max_steps: int | None = 25
    max_tokens_total: int | None = None
    deadline: float | None = None
    max_tool_calls_per_step: int | None = 64
    max_tool_output_bytes: int | None = 1_000_000
    max_events: int | None = 100_000
    max_log_bytes: int | None = 64_000_000
    max_takeovers: int | None = 5


@dataclass(frozen=True, slots=True)
class Refuse:
    """What a hook returns to refuse; ``message`` is safe for clients and models."""

    message: str
    code: str = "refused"


@dataclass(frozen=True, slots=True)
class Hooks:
    """Functions, sync or async, called at fixed places of a run. One that raises ends the run with an
    ``error``.

    ``before_run(context)`` and ``before_step(context, request)`` may return a `Refuse`, which ends the run;
    ``before_step`` may also return another request. ``before_tool(tool_context, call)`` may return a
    `Refuse`, which becomes the call's result ``denied``. ``after_tool(tool_context, call, outcome)`` may
    return another outcome. ``after_step(context, step)`` and ``after_run(context, state)`` observe; the
    latter is called before the ending is handed out, and not at all when the run is ended hard.
    """

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
    again after a failure in mid-stream, ``restart_delay`` (seconds, doubled each time) how soon.
    ``tool_timeout`` (seconds) is for tools that set none. ``grace`` is how long a cancelled tool is waited
    for, in seconds, before it is abandoned. ``max_concurrent_tools`` bounds the tools at work for this run.
    """

    limits: Limits = field(default_factory=Limits)
    hooks: Hooks = field(default_factory=Hooks)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    max_step_restarts: int = 2
    restart_delay: float = 0.5
    tool_timeout: float | None = 300.0
    grace: float = 5.0
    max_concurrent_tools: int = 16
