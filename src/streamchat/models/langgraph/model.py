"""`from_langgraph`: a compiled graph as a model; where it begins, and where it goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphRecursionError
from langgraph.pregel import Pregel
from langgraph.types import Command, StateSnapshot

from streamchat.core.jsontext import parse_object
from streamchat.errors import InvalidInput, ModelError
from streamchat.messages import ModelMessage
from streamchat.models.asking import AskingModel, Decision, decisions
from streamchat.models.base import ModelOutput, ModelRequest, WorkflowProgress
from streamchat.models.langgraph.reading import Breakpoint, GraphReader, GraphStream, StateEvents, messages_in
from streamchat.models.workflow import WorkflowRun, workflow_run

__all__ = ["LangGraphModel", "from_langgraph"]

Durability: TypeAlias = Literal["sync", "async", "exit"]
_OWNER = "streamchat_run_id"
_TALK = "streamchat_conversation_id"


def from_langgraph(
    graph: Pregel[Any, Any, Any, Any],
    *,
    name: str | None = None,
    input: Callable[[WorkflowRun], Any] | None = None,
    resume: Callable[[Decision], Any] | None = None,
    state: StateEvents | None = None,
    text_from: Collection[str] | None = None,
    thread_id: Callable[[WorkflowRun], str] | None = None,
    config: RunnableConfig | Callable[[WorkflowRun], RunnableConfig] | None = None,
    context: Callable[[WorkflowRun], Any] | None = None,
    restart_on: Callable[[Exception], bool] | None = None,
    durability: Durability = "sync",
    ask_tool: str = "interrupt",
) -> LangGraphModel:
    """Return a model that runs a compiled LangGraph graph; each of its super-steps is a step of the run.

    A step's name is that of its node, or of its nodes, joined by ``", "``, where several run at once. What
    chat models say inside (the ``messages`` mode) is text and reasoning, of the nodes in ``text_from`` where
    that is given; ``get_stream_writer()`` makes ``custom`` events, named ``custom`` unless it is given
    ``{"name": …, "data": …}``; tool calls answered by a ``ToolMessage`` are shown as calls that the provider
    ran; ``usage_metadata`` counts as usage. Subgraphs speak within the step of the node they are in.

    ``state`` asks for ``custom`` events named ``state``: ``"values"`` tells the whole state when it has
    changed (``{"values": …}``), ``"diff"`` the first time, and from then on a JSON Patch of RFC 6902
    (``{"patch": […]}``), ``"updates"`` what each node returned (``{"node": …, "update": …}``).

    With a checkpointer the run can be resumed: its thread is the conversation (``thread_id``: another), and
    whoever takes the run over asks the graph where it stands. Each ``interrupt()`` is a call of ``ask_tool``
    that needs an approval, with what was given to it as ``value``. ``resume`` says what it returns for a
    `Decision`; by default True, the edited ``value``, or False where it was denied. A graph compiled to stop
    before or after a node asks in the same way, and ends where that is denied. Without a checkpointer a run
    that is cut off ends with an ``error``, and so does one whose graph interrupts.

    ``input`` makes the graph's input; by default it is ``{"messages": […]}`` with the user's new message, or
    with all of the conversation where the thread is new or there is none. ``config`` is merged under what is
    set here, ``context`` makes the graph's runtime context. ``restart_on`` says for what a node has raised
    whether to try once more from the last checkpoint (`RunOptions.max_step_restarts` times); LangGraph's own
    retry policies come before that. ``durability`` is LangGraph's; anything but ``"sync"`` may run a node
    again whose end the log knows.

    Raises `InvalidInput` for what is no compiled graph, and for one with breakpoints and no checkpointer.
    asyncio only.
    """
    return LangGraphModel(
        graph,
        name=name,
        input=input,
        resume=resume,
        state=state,
        text_from=text_from,
        thread_id=thread_id,
        config=config,
        context=context,
        restart_on=restart_on,
        durability=durability,
        ask_tool=ask_tool,
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a run begins: behind a checkpoint of its thread (None: there is none).

    ``whole``: nothing of the conversation is in the state there. ``unknown``: how many of the user's messages
    before the newest are not.
    """

    checkpoint: StateSnapshot | None
    whole: bool = False
    unknown: int = 0


class LangGraphModel(AskingModel):
    """What `from_langgraph` returns: a `streamchat.models.base.WorkflowSource`, shared by all runs."""

    def __init__(
        self,
        graph: Pregel[Any, Any, Any, Any],
        *,
        name: str | None,
        input: Callable[[WorkflowRun], Any] | None,
        resume: Callable[[Decision], Any] | None,
        state: StateEvents | None,
        text_from: Collection[str] | None,
        thread_id: Callable[[WorkflowRun], str] | None,
        config: RunnableConfig | Callable[[WorkflowRun], RunnableConfig] | None,
        context: Callable[[WorkflowRun], Any] | None,
        restart_on: Callable[[Exception], bool] | None,
        durability: Durability,
        ask_tool: str,
    ) -> None:
        if not isinstance(graph, Pregel):
            raise InvalidInput(
                f"from_langgraph takes a compiled graph, not {type(graph).__name__}: call graph.compile()",
                field="graph",
            )
        if state not in (None, "values", "diff", "updates"):
            raise InvalidInput(f"state={state!r} must be 'values', 'diff', 'updates' or None", field="state")
        self._graph = graph
        self._saves = graph.checkpointer not in (None, False)
        self._before, self._after = _names(graph.interrupt_before_nodes), _names(graph.interrupt_after_nodes)
        if (self._before or self._after) and not self._saves:
            raise InvalidInput(
                "the graph stops at breakpoints, and has no checkpointer to go on from: "
                "graph.compile(checkpointer=…)",
                field="graph",
            )
        super().__init__(name or graph.get_name(), resumable=self._saves, ask_tool=ask_tool)
        self._input = input
        self._resume = resume or _as_given
        self._state: StateEvents | None = state
        self._text_from = None if text_from is None else frozenset(text_from)
        self._thread_id = thread_id
        self._base = config
        self._context = context
        self._restart_on = restart_on
        self._durability: Durability = durability

    @property
    def takes_kept_steps(self) -> bool:
        """Never: what the steps of another run came to is in checkpoints, which the log knows nothing of."""
        return False

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        """Run the graph from where it stands; raises `ModelError` for what it raises."""
        run = workflow_run(request, self._ask_tool)
        progress = request.workflow or WorkflowProgress()
        config = self._config(run)
        try:
            snapshot = await self._graph.aget_state(config) if self._saves else None
            if snapshot is None or not _belongs(snapshot, run.run_id):
                stream = await self._begin(run, progress, config, snapshot)
            else:
                how = self._go_on(run, progress, snapshot)
                if isinstance(how, Command) or how is None:
                    stream = self._stream(run, config, how)
                else:
                    for batch in how:
                        yield batch
                    return
            async with aclosing(self._read(run, progress, stream)) as batches:
                async for batch in batches:
                    yield batch
        except (ModelError, InvalidInput):
            raise
        except Exception as error:
            raise self._failed(error, run) from error

    def _failed(self, error: Exception, run: WorkflowRun) -> ModelError:
        code = "recursion_limit" if isinstance(error, GraphRecursionError) else "node_failed"
        again = self._saves and self._restart_on is not None and self._restart_on(error)
        text = f"run {run.run_id}: the graph {self._name!r} raised {type(error).__name__}: {error}"
        return ModelError(text, code=code, retryable=again)

    async def _read(
        self, run: WorkflowRun, progress: WorkflowProgress, stream: GraphStream
    ) -> AsyncGenerator[Sequence[ModelOutput], None]:
        reader = self._reader(progress)
        stopped = False
        try:
            async with aclosing(reader.read(stream)) as batches:
                async for batch in batches:
                    if reader.interrupted and not self._saves:
                        raise self._cannot_wait(run)
                    yield batch
        except Breakpoint:
            stopped = True
        finally:
            await stream.close()
        if stopped:
            snapshot = await self._graph.aget_state(self._config(run))
            for batch in reader.ask_at_breakpoint(_breakpoint_id(snapshot), _breakpoint_value(snapshot)):
                yield batch

    def _cannot_wait(self, run: WorkflowRun) -> ModelError:
        return ModelError(
            f"run {run.run_id}: the graph {self._name!r} interrupts, and has no checkpointer to go on from: "
            "graph.compile(checkpointer=…)",
            code="no_checkpointer",
        )

    # Where the graph begins.

    def _config(self, run: WorkflowRun) -> RunnableConfig:
        base = self._base(run) if callable(self._base) else self._base or {}
        thread = self._thread_id(run) if self._thread_id is not None else run.conversation_id or run.run_id
        merged = {
            **base,
            "configurable": {**base.get("configurable", {}), "thread_id": thread},
            "metadata": {**base.get("metadata", {}), _OWNER: run.run_id, _TALK: run.conversation_id},
        }
        return cast("RunnableConfig", merged)

    async def _begin(
        self,
        run: WorkflowRun,
        progress: WorkflowProgress,
        config: RunnableConfig,
        snapshot: StateSnapshot | None,
    ) -> GraphStream:
        if run.completed:
            raise ModelError(
                f"run {run.run_id}: the thread of the graph {self._name!r} knows nothing of this run's "
                f"{len(run.completed)} completed steps; retry the run from its beginning",
                code="checkpoint_lost",
            )
        start = _Start(None, whole=True)
        if snapshot is not None and snapshot.metadata:
            start = await self._start(run, progress, config, snapshot)
        if start.checkpoint is not snapshot and start.checkpoint is not None:
            place = {**_place(config), **_place(start.checkpoint.config)}
            config = cast("RunnableConfig", {**config, "configurable": place})
        given = self._input(run) if self._input is not None else _input(run, start)
        return self._stream(run, config, given)

    async def _start(
        self, run: WorkflowRun, progress: WorkflowProgress, config: RunnableConfig, newest: StateSnapshot
    ) -> _Start:
        """Where in a thread that there is a run begins: where its branch of the conversation has come to."""
        if run.parent_run_id is not None:
            first = await self._oldest(config, {_OWNER: run.parent_run_id})
            if first is not None and (first.metadata or {}).get("source") == "input":
                return _Start(first, whole=first.parent_config is None)
        about: dict[str, Any] = {**(newest.metadata or {})}
        previous = progress.previous_runs
        elsewhere = about.get(_TALK) is None or about[_TALK] != run.conversation_id
        if previous is None or elsewhere:
            # Others write this thread, or an earlier version did: its newest state counts.
            return _Start(newest)
        for unknown, run_id in enumerate(reversed(previous)):
            if about.get(_OWNER) == run_id:
                return _Start(newest, unknown=unknown)
            async for snapshot in self._graph.aget_state_history(
                _thread(config), filter={_OWNER: run_id}, limit=1
            ):
                return _Start(snapshot, unknown=unknown)
        # The state before a thread's first input is empty.
        first = await self._oldest(config, {"source": "input", "step": -1})
        return _Start(newest) if first is None else _Start(first, whole=True)

    async def _oldest(self, config: RunnableConfig, about: dict[str, Any]) -> StateSnapshot | None:
        oldest: StateSnapshot | None = None
        async for snapshot in self._graph.aget_state_history(_thread(config), filter=about):
            oldest = snapshot
        return oldest

    def _stream(self, run: WorkflowRun, config: RunnableConfig, given: Any) -> GraphStream:
        modes = ["tasks", "updates", "messages", "custom"]
        if self._state in ("values", "diff"):
            modes.append("values")
        options: dict[str, Any] = {"durability": self._durability} if self._saves else {}
        if self._context is not None:
            options["context"] = self._context(run)
        # (LangGraph's overloads cannot say what comes of several modes)
        astream: Any = self._graph.astream
        return GraphStream(astream(given, config, stream_mode=modes, subgraphs=True, **options))

    def _reader(self, progress: WorkflowProgress) -> GraphReader:
        return GraphReader(
            known=[task for step in progress.steps for task in step.kept.get("tasks", ())],
            open_step=progress.open_step,
            state=self._state,
            text_from=self._text_from,
            ask_tool=self._ask_tool,
        )

    # Where it goes on.

    def _go_on(self, run: WorkflowRun, progress: WorkflowProgress, snapshot: StateSnapshot) -> Any:
        """What the graph is given to go on; or, as batches, what must be asked first, or that it is over."""
        reader = self._reader(progress)
        # An id may come again when a node asks for the second time: only what was decided last counts.
        decided = decisions(progress.steps[-1:], self._ask_tool)
        if snapshot.interrupts:
            answers = {i.id: self._resume(decided[i.id]) for i in snapshot.interrupts if i.id in decided}
            if answers:
                return Command(resume=answers)
            name = ", ".join(dict.fromkeys(task.name for task in snapshot.tasks))
            return reader.ask_again(name, snapshot.tasks, snapshot.interrupts)
        if not snapshot.tasks:
            return ()
        ask_id = _breakpoint_id(snapshot)
        if ask_id in run.answers:
            return None if run.answers[ask_id].approved else ()
        if self._stops_here(progress, snapshot):
            return reader.ask_at_breakpoint(ask_id, _breakpoint_value(snapshot))
        return None

    def _stops_here(self, progress: WorkflowProgress, snapshot: StateSnapshot) -> bool:
        """Whether a graph that is only told to go on would pass over a breakpoint."""
        if any(task.result is not None or task.error for task in snapshot.tasks):
            return False  # its nodes had begun
        ran = set(progress.steps[-1].kept.get("nodes", ())) if progress.steps else set()
        return _meet(self._before, snapshot.next) or _meet(self._after, ran)


def _as_given(decision: Decision) -> Any:
    if not decision.approved:
        return False
    return decision.value if decision.edited else True


def _names(nodes: Any) -> frozenset[str]:
    return frozenset([nodes] if isinstance(nodes, str) else nodes or ())


def _meet(nodes: frozenset[str], others: Collection[str]) -> bool:
    return bool(others) and ("*" in nodes or not nodes.isdisjoint(others))


def _belongs(snapshot: StateSnapshot, run_id: str | None) -> bool:
    return run_id is not None and (snapshot.metadata or {}).get(_OWNER) == run_id


def _place(config: RunnableConfig) -> dict[str, Any]:
    return config.get("configurable", {})


def _breakpoint_id(snapshot: StateSnapshot) -> str:
    return f"breakpoint:{_place(snapshot.config).get('checkpoint_id', '')}"


def _breakpoint_value(snapshot: StateSnapshot) -> dict[str, Any]:
    return {"question": f"Go on with {', '.join(snapshot.next)}?", "next": list(snapshot.next)}


def _thread(config: RunnableConfig) -> RunnableConfig:
    return cast("RunnableConfig", {"configurable": _place(config)})


def _input(run: WorkflowRun, start: _Start) -> dict[str, Any]:
    messages = list(run.messages)
    if not start.whole:
        said = [i for i, message in enumerate(messages) if message.role in ("assistant", "tool")]
        messages = [m for m in messages[said[-1] + 1 if said else 0 :] if m.role == "user"]
        # What was asked of runs that said nothing comes again, and the state has it, unless they never began.
        known = _heard(start.checkpoint)
        old, new = messages[: -1 - start.unknown], messages[-1 - start.unknown :]
        messages = [m for m in old if m.content not in known] + new
    return {"messages": [_message(m, f"{run.run_id}:{i}") for i, m in enumerate(messages)]}


def _heard(snapshot: StateSnapshot | None) -> list[Any]:
    """What the user has said, as far as a state tells."""
    return (
        [m.content for m in messages_in(snapshot.values) if isinstance(m, HumanMessage)] if snapshot else []
    )


def _message(message: ModelMessage, message_id: str) -> BaseMessage:
    content: Any = message.content
    if message.role == "user":
        return HumanMessage(content, id=message_id)
    if message.role == "tool":
        return ToolMessage(content, tool_call_id=message.call_id or "", id=message_id)
    if message.role != "assistant":
        return SystemMessage(content, id=message_id)
    calls: list[Mapping[str, Any]] = [
        {"id": call.call_id, "name": call.name, "args": parse_object(call.arguments) or {}}
        for call in message.calls
    ]
    return AIMessage(content, tool_calls=calls, id=message_id)
