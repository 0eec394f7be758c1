"""What LangGraph's streams say, as model output: a super-step of the graph is one step.

A super-step's nodes run at the same time, so they share the step, and its name is theirs, joined. It is over
when each of them has said that it is: that is before LangGraph saves the checkpoint behind it. So the step
stands in the log first, and a graph that goes on from an older checkpoint can be told apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from pydantic_core import to_jsonable_python

from streamchat.messages import Usage
from streamchat.models.base import CustomOutput, ModelOutput, NextStep
from streamchat.models.langgraph.patch import json_patch
from streamchat.models.step_output import StepOutput
from streamchat.tools.output import json_value

__all__ = ["Breakpoint", "GraphReader", "GraphStream", "StateEvents"]

StateEvents: TypeAlias = Literal["values", "diff", "updates"]

_Item: TypeAlias = tuple[tuple[str, ...], str, Any]
_INTERRUPT = "__interrupt__"


class Breakpoint(Exception):
    """The graph has stopped in front of or behind a node that it was compiled to stop at."""


def plain(value: Any) -> Any:
    """Turn what stands in a graph's state into JSON; what has no JSON is told by its ``repr``."""
    return json_value(to_jsonable_python(value, fallback=repr, bytes_mode="base64", inf_nan_mode="strings"))


class GraphStream:
    """A graph's stream, of which one can see whether the next item is there already."""

    def __init__(self, stream: AsyncIterator[_Item]) -> None:
        self._stream = stream
        self._next: asyncio.Task[_Item | None] | None = None

    async def _pull(self) -> _Item | None:
        try:
            return await anext(self._stream)
        except StopAsyncIteration:
            return None

    async def get(self) -> _Item | None:
        """Return the next item, None at the end. Raises what the graph raises."""
        if self._next is None:
            return await self._pull()
        item = await self._next
        self._next = None
        return item

    async def peek(self) -> _Item | None:
        """Return the next item if that needs no waiting; `get` returns it again."""
        if self._next is None:
            self._next = asyncio.create_task(self._pull(), name="streamchat graph")
            await asyncio.sleep(0)
        task = self._next
        return task.result() if task.done() and not task.cancelled() and task.exception() is None else None

    async def close(self) -> None:
        """End the graph: nodes at work are cancelled and awaited."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
            if not self._next.cancelled():
                self._next.exception()
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()


class GraphReader:
    """Translates one stream of a graph.

    ``known`` are the ids of tasks whose output stands in the log: what they say again is passed over.
    ``open_step`` is the step that must come first, by whatever name. ``text_from`` names the nodes whose text
    is shown; None is all.
    """

    def __init__(
        self,
        *,
        known: Iterable[str],
        open_step: NextStep | None,
        state: StateEvents | None,
        text_from: frozenset[str] | None,
        ask_tool: str,
    ) -> None:
        self._known = frozenset(known)
        self._open_step = open_step
        self._state = state
        self._text_from = text_from
        self._ask_tool = ask_tool
        self._output: StepOutput | None = None
        self._running: dict[str, str] = {}
        self._done: dict[str, str] = {}
        self._failed = False
        self._last_name: str | None = None
        self._interrupts: dict[str, Any] = {}
        self._stopped = False
        self._calls: dict[str, tuple[str, dict[str, Any] | None]] = {}
        self._seen: set[str] = set()
        self._values: Any = None
        self._late: list[ModelOutput] = []
        self._early: list[tuple[Any, Mapping[str, Any]]] = []

    async def read(self, stream: GraphStream) -> AsyncGenerator[Sequence[ModelOutput], None]:
        """Yield what `streamchat.models.base.WorkflowSource` says; raises `Breakpoint` at the end of a graph
        that has stopped at one, and what the graph raises."""
        while (item := await stream.get()) is not None:
            namespace, mode, data = item
            if mode == "tasks" and "input" in data:
                self._learn(messages_in(data["input"]), data["input"])
                if not namespace:
                    if self._running:
                        self._running[data["id"]] = data["name"]
                        continue
                    if self._output is not None:
                        yield [self._finished(more=True)]
                    for batch in await self._begin(stream, data):
                        yield batch
                continue
            outputs = self._translate(namespace, mode, data)
            if self._output is not None:
                if outputs:
                    yield outputs
            elif customs := [output for output in outputs if isinstance(output, CustomOutput)]:
                yield customs
            # Once somebody is asked, the graph is left to end: what it asks must be saved first.
            if not self._running and not self._interrupts and not self._failed:
                if self._output is not None:
                    yield [self._finished(more=True)]
                self._done = {}
        for batch in self._last():
            yield batch
        if self._stopped and not self._interrupts:
            raise Breakpoint

    # A super-step begins and ends.

    async def _begin(self, stream: GraphStream, first: Mapping[str, Any]) -> list[Sequence[ModelOutput]]:
        tasks = [first]
        while (item := await stream.peek()) is not None:
            namespace, mode, data = item
            if namespace or mode != "tasks" or "input" not in data:
                break
            await stream.get()
            self._learn(messages_in(data["input"]), data["input"])
            tasks.append(data)
        self._running = {task["id"]: task["name"] for task in tasks}
        self._done, self._failed = {}, False
        if self._running.keys() <= self._known:
            return []  # all of it stands in the log: it was the checkpoint that was lost
        return self._open(", ".join(dict.fromkeys(self._running.values())))

    def _open(self, name: str) -> list[Sequence[ModelOutput]]:
        step, self._open_step = self._open_step or NextStep(name), None
        self._output, self._last_name = StepOutput(), step.name
        batches: list[Sequence[ModelOutput]] = [[step]]
        late, self._early = self._early, []
        outputs = [output for message, about in late for output in self._message(message, about)]
        return [*batches, outputs] if outputs else batches

    def _finished(self, *, more: bool) -> ModelOutput:
        output, self._output = self._output, None
        assert output is not None
        for interrupt_id, value in self._interrupts.items():
            output.ask(self._ask_tool, interrupt_id, {"value": value})
        done, self._done = self._done, {}
        return output.result(more=more, tasks=list(done), nodes=list(dict.fromkeys(done.values())))

    def _last(self) -> Iterator[Sequence[ModelOutput]]:
        if self._output is None and (self._early or self._interrupts):
            yield from self._open(self._last_name or "interrupt")
        if self._output is not None:
            yield [self._finished(more=self._stopped and not self._interrupts)]

    def ask_again(
        self, name: str, tasks: Iterable[Any], interrupts: Iterable[Any]
    ) -> Iterator[Sequence[ModelOutput]]:
        """Yield the step of a graph that was stopped by ``interrupts`` before its log said so."""
        for interrupt in interrupts:
            self._interrupts[interrupt.id] = plain(interrupt.value)
        yield from self._open(name)
        for task in tasks:
            if task.result is not None and not task.interrupts:
                self._done[task.id] = task.name
                if task.id not in self._known and (outputs := self._whole(task.result, task.name)):
                    yield outputs
        yield [self._finished(more=False)]

    def ask_at_breakpoint(self, ask_id: str, value: Any) -> Iterator[Sequence[ModelOutput]]:
        """Yield the step that asks whether a graph may go on."""
        self._interrupts = {ask_id: value}
        yield from self._open("breakpoint")
        yield [self._finished(more=False)]

    @property
    def interrupted(self) -> bool:
        """Whether the graph has asked somebody, or has stopped."""
        return self._stopped or bool(self._interrupts)

    # What is said in between.

    def _translate(self, namespace: tuple[str, ...], mode: str, data: Any) -> list[ModelOutput]:
        passing_over = self._output is None and bool(self._running)
        if mode == "messages":
            message, about = data
            if self._output is None:
                if not passing_over:
                    self._early.append((message, about))
                return []
            return self._message(message, about)
        if mode == "custom":
            return [] if passing_over else [_custom(data)]
        if namespace:
            return []
        if mode == "tasks":
            return self._task_ended(data)
        if mode == "updates":
            return self._updates(data, passing_over)
        return self._new_values(data) if mode == "values" else []

    def _task_ended(self, data: Mapping[str, Any]) -> list[ModelOutput]:
        name = self._running.pop(data["id"], data["name"])
        if data.get("interrupts"):
            for interrupt in data["interrupts"]:
                self._interrupts[interrupt["id"]] = plain(interrupt["value"])
        elif data.get("error") is not None:
            self._failed = True  # the graph raises next, or begins the node that handles it
        else:
            self._done[data["id"]] = name
        return []

    def _updates(self, data: Mapping[str, Any], passing_over: bool) -> list[ModelOutput]:
        if _INTERRUPT in data:
            for interrupt in data[_INTERRUPT]:
                self._interrupts[interrupt.id] = plain(interrupt.value)
            self._stopped = True
            return []
        out: list[ModelOutput] = []
        cached = (data.get("__metadata__") or {}).get("cached")
        for name, update in data.items():
            if name == "__metadata__":
                continue
            if cached:
                out += self._cached(name, update)
            if self._state == "updates" and not passing_over:
                out.append(CustomOutput("state", {"node": name, "update": plain(update)}))
        return out

    def _cached(self, name: str, update: Any) -> list[ModelOutput]:
        """A node that ran under an earlier holder, whose output was kept: it says nothing by itself."""
        task_id = next((i for i, running in self._running.items() if running == name), None)
        if task_id is None:
            return []
        del self._running[task_id]
        self._done[task_id] = name
        return [] if task_id in self._known or self._output is None else self._whole(update, name)

    def _new_values(self, data: Any) -> list[ModelOutput]:
        if self._state not in ("values", "diff"):
            return []
        if isinstance(data, dict):
            data = {key: value for key, value in data.items() if key != _INTERRUPT}
        values, before = plain(data), self._values
        self._values = values
        if before is None or self._state == "values":
            return [] if values == before else [CustomOutput("state", {"values": values})]
        patch = json_patch(before, values)
        return [CustomOutput("state", {"patch": patch})] if patch else []

    # Messages.

    def _whole(self, update: Any, node: str) -> list[ModelOutput]:
        """What the messages of a node's update say."""
        found = messages_in(update)
        self._learn(found, update)
        return [o for message in found for o in self._message(message, {"langgraph_node": node})]

    def _message(self, message: Any, about: Mapping[str, Any]) -> list[ModelOutput]:
        output = self._output
        assert output is not None
        task_id = str(about.get("langgraph_checkpoint_ns", "")).partition("|")[0].rpartition(":")[2]
        if task_id in self._known or not isinstance(message, BaseMessage):
            return []
        if isinstance(message, ToolMessage):
            return self._tool_message(message, output)
        if not isinstance(message, AIMessage):
            return []
        key = message.id or ""
        if not isinstance(message, AIMessageChunk):
            self._learn([message], None)
            if key in self._seen:
                return []
        self._seen.add(key)
        _spend(message, about, output)
        if self._text_from is not None and about.get("langgraph_node") not in self._text_from:
            return []
        return [output.say(kind, text, key) for kind, text in _texts(message) if text]

    def _tool_message(self, message: ToolMessage, output: StepOutput) -> list[ModelOutput]:
        key = message.id or message.tool_call_id
        if key in self._seen:
            return []
        self._seen.add(key)
        name, arguments = self._calls.get(message.tool_call_id, (message.name or "tool", None))
        content = plain(message.content)
        error = content if isinstance(content, str) else repr(content)
        if message.status != "error":
            return [output.called(name, arguments, content, call_id=message.tool_call_id)]
        return [output.called(name, arguments, call_id=message.tool_call_id, error=error)]

    def _learn(self, messages: Iterable[BaseMessage], given: Any) -> None:
        """Note the calls that somebody may answer; a `Send` to a tool node holds the call itself."""
        calls: list[Any] = [c for m in messages if isinstance(m, AIMessage) for c in m.tool_calls]
        if isinstance(given, dict) and isinstance(given.get("tool_call"), dict):
            calls.append(given["tool_call"])
        for call in calls:
            if call.get("id"):
                self._calls[call["id"]] = (call.get("name") or "tool", plain(call.get("args") or {}))


def messages_in(value: Any) -> list[BaseMessage]:
    """The messages in a node's input or update: one, a list of them, or one level down in its fields."""
    if isinstance(value, BaseMessage):
        return [value]
    if isinstance(value, list | tuple):
        return [message for item in value for message in messages_in(item)]
    fields = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    found: list[BaseMessage] = []
    for field in (fields or {}).values():
        if isinstance(field, BaseMessage):
            found.append(field)
        elif isinstance(field, list | tuple):
            found += [item for item in field if isinstance(item, BaseMessage)]
    return found


def _custom(data: Any) -> CustomOutput:
    if isinstance(data, dict) and data.keys() == {"name", "data"} and isinstance(data["name"], str):
        return CustomOutput(data["name"], plain(data["data"]))
    return CustomOutput("custom", plain(data))


def _texts(message: AIMessage) -> Iterator[tuple[Literal["text", "reasoning"], str]]:
    if isinstance(message.content, str):
        reasoning = message.additional_kwargs.get("reasoning_content")
        if isinstance(reasoning, str):
            yield "reasoning", reasoning
        yield "text", message.content
        return
    for block in message.content_blocks:
        if block["type"] == "text":
            yield "text", block["text"]
        elif block["type"] == "reasoning":
            yield "reasoning", block.get("reasoning") or ""


def _spend(message: AIMessage, about: Mapping[str, Any], output: StepOutput) -> None:
    used = message.usage_metadata
    if not used:
        return
    read, written = used.get("input_token_details") or {}, used.get("output_token_details") or {}
    usage = Usage(
        provider=about.get("ls_provider"),
        model=about.get("ls_model_name"),
        input_tokens=used["input_tokens"],
        output_tokens=used["output_tokens"],
        total_tokens=used["total_tokens"],
        cached_input_tokens=read.get("cache_read") or 0,
        reasoning_tokens=written.get("reasoning") or 0,
    )
    output.spend(usage)
