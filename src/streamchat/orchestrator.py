"""`orchestrate()`: the loop model → tools → model, as an async generator of typed events.

It knows no storage and no HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from streamchat.core.given import check_instance
from streamchat.errors import InvalidInput
from streamchat.events import StoredEvent, StreamEvent
from streamchat.messages import ModelMessage, model_messages
from streamchat.models.base import Model, WorkflowSource
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.judged_run import JudgedRun, judges
from streamchat.orchestration.options import RunOptions
from streamchat.orchestration.run import Run
from streamchat.orchestration.workflow_run import WorkflowRunner
from streamchat.tools import ToolRegistry

__all__ = ["orchestrate"]


async def orchestrate(
    model: Model,
    messages: str | Sequence[ModelMessage | Mapping[str, object]],
    *,
    tools: ToolRegistry | None = None,
    context: RunContext | None = None,
    history: Iterable[StreamEvent | StoredEvent] = (),
    options: RunOptions | None = None,
) -> AsyncGenerator[StreamEvent, None]:
    """Run ``model`` on ``messages``, run the tools it calls, and so on until it stops; yield the events.

    ``messages`` is text (one user message), Chat Completions messages or `ModelMessage`s. ``history`` is what
    the run's log already holds: the generator folds it and goes on from there, without yielding it again; ids
    that stand in it are taken into ``context``. The first event is ``run_started`` (``run_resumed`` when
    there is a history of more than that), the last ``finalized``; or ``suspended``, where all that is left to
    do waits for an approval, a client's tool or a job. Then call it again with what it has yielded as
    ``history`` and the answers in ``context.inputs``.

    A tool runs only when the event after its ``tool_started`` is asked for. Failures of the model, of tools
    and of limits are events, not exceptions. Raises `InvalidInput` at the first event for messages that
    cannot be used (none at all, too), and for arguments of another type. ``context.stop()`` ends the run
    cleanly. A hard end (cancellation, ``aclose``, an exception in the consumer) cannot yield: tools are
    cancelled and awaited for at most ``options.grace`` seconds, the provider's response is closed, and
    whoever keeps the log appends what `streamchat.core.conclude` says. Use ``contextlib.aclosing``; after a
    bare ``break`` the same happens, a little later.
    """
    check_instance("model", model, Model, "a model, such as OpenAIChatModel(client, name)")
    check_instance(
        "tools", tools, ToolRegistry, "a ToolRegistry, as ToolRegistry().add(…) fills it", none=True
    )
    check_instance("context", context, RunContext, "a RunContext", none=True)
    check_instance("options", options, RunOptions, "RunOptions(…)", none=True)
    check_instance("history", history, Iterable, "the events of the run's log")
    asked = model_messages(messages)
    if not asked:
        raise InvalidInput(
            "messages=[] says nothing that could be answered: give one at least", field="messages"
        )
    context = context or RunContext()
    options = options or RunOptions()
    rest = (asked, tools or ToolRegistry(), context, options, history)
    run: Run
    if isinstance(model, WorkflowSource):
        run = WorkflowRunner(model, *rest)
    else:
        run = (JudgedRun if judges(options) else Run)(model, *rest)
    try:
        while (batch := await run.advance()) is not None:
            left = len(batch)
            for event in batch:
                left -= 1
                context.more = left > 0
                yield event
    finally:
        await run.close()
