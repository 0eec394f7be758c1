"""Real LangGraph graphs as models: steps, text, tools, interrupts, state, and going on from checkpoints."""

from __future__ import annotations

import asyncio
import copy
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Send, interrupt

from streamchat import RunContext, StreamChat
from streamchat.core.fold import fold
from streamchat.errors import InvalidInput, NotRetryable
from streamchat.models import from_langgraph
from streamchat.models.langgraph.patch import json_patch
from streamchat.orchestration.options import Limits, RunOptions
from streamchat.tools import ToolRegistry
from tests.models.over_sse import talk
from tests.orchestrator.support import Log, assert_concluded, assert_whole, play, stored
from tests.orchestrator.waiting import Desk
from tests.service.support import drain, log_of

pytestmark = pytest.mark.anyio


class Speaker(BaseChatModel):
    """A chat model that streams what ``answer`` makes of its messages, word by word, with usage."""

    answer: Callable[[list[BaseMessage]], AIMessage]

    @property
    def _llm_type(self) -> str:
        return "speaker"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.answer(messages))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._chunks(self.answer(messages)):
            made = ChatGenerationChunk(message=chunk)
            if run_manager is not None:
                await run_manager.on_llm_new_token(str(chunk.content), chunk=made)
            yield made

    def _chunks(self, message: AIMessage) -> Iterator[AIMessageChunk]:
        if isinstance(message.content, str):
            for word in message.content.split(" "):
                yield AIMessageChunk(content=word + " " if word else "")
        else:
            for block in message.content:
                yield AIMessageChunk(content=[block])
        calls = [
            tool_call_chunk(name=c["name"], args=str(c["args"]).replace("'", '"'), id=c["id"], index=i)
            for i, c in enumerate(message.tool_calls)
        ]
        used = {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5}
        yield AIMessageChunk(content="", tool_call_chunks=calls, usage_metadata=used)  # type: ignore[arg-type]


def says(text: str) -> Speaker:
    return Speaker(answer=lambda messages: AIMessage(text))


def line(*nodes: tuple[str, Any], saver: Any = None, **compiled: Any) -> Any:
    """A graph of nodes one after the other."""
    graph = StateGraph(MessagesState)
    before = START
    for name, node in nodes:
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    return graph.compile(checkpointer=saver, **compiled)


def speaking(text: str) -> Any:
    model = says(text)

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return node


def names(events: Any) -> list[str | None]:
    return [step.name for step in fold(events).steps]


async def test_nodes_are_steps_and_their_models_chunks_are_deltas_with_usage() -> None:
    log = await play(from_langgraph(line(("plan", speaking("one two")), ("act", speaking("three")))))
    assert_whole(log.events)
    assert names(log.events) == ["plan", "act"]
    assert [(e.step, e.text) for e in log.of("text_delta")] == [(1, "one "), (1, "two "), (2, "three ")]
    usage = fold(log.events).usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (4, 6, 10)
    assert [(e.name, e.kind) for e in log.of("step_finished")] == [("plan", "workflow"), ("act", "workflow")]


async def test_a_step_is_told_before_its_node_has_said_anything() -> None:
    go = asyncio.Event()

    async def slow(state: MessagesState) -> dict[str, Any]:
        await go.wait()
        return {"messages": [AIMessage("done")]}

    def look(log: Log) -> None:
        if log.events[-1].type == "step_started":
            go.set()

    log = await play(from_langgraph(line(("slow", slow))), after_each=look)
    assert (names(log.events), log.text) == (["slow"], "done")


async def test_reasoning_is_told_apart_and_a_message_that_did_not_stream_comes_whole() -> None:
    blocks: list[str | dict[Any, Any]] = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "yes"},
    ]
    thinker = Speaker(answer=lambda messages: AIMessage(content=blocks))

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await thinker.ainvoke(state["messages"])]}

    log = await play(
        from_langgraph(line(("think", think), ("say", lambda state: {"messages": [AIMessage("so")]})))
    )
    assert_whole(log.events)
    assert [(e.type, e.text) for e in log.events if e.type.endswith("_delta")] == [
        ("reasoning_delta", "hm"),
        ("text_delta", "yes"),
        ("text_delta", "so"),
    ]


async def test_nodes_that_run_at_once_share_a_step_and_their_texts_are_parts() -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("a", speaking("a1 a2 a3"))
    graph.add_node("b", speaking("b1 b2 b3"))
    graph.add_node("end", lambda state: {})
    graph.add_edge(START, "a")
    graph.add_edge(START, "b")
    graph.add_edge(["a", "b"], "end")
    log = await play(from_langgraph(graph.compile()))
    assert_whole(log.events)
    assert names(log.events) == ["a, b", "end"]
    texts = sorted(part.text for part in fold(log.events).parts)
    assert texts == ["a1 a2 a3 ", "b1 b2 b3 "]


async def test_only_the_named_nodes_are_heard() -> None:
    graph = line(("route", speaking("left")), ("answer", speaking("Hello")))
    log = await play(from_langgraph(graph, text_from=["answer"]))
    assert (log.text, names(log.events)) == ("Hello ", ["route", "answer"])


async def test_stream_writers_make_custom_events() -> None:
    def node(state: MessagesState) -> dict[str, Any]:
        write = get_stream_writer()
        write({"bars": [1, 2]})
        write({"name": "chart", "data": {"bars": 3}})
        return {}

    log = await play(from_langgraph(line(("draw", node))))
    assert_whole(log.events)
    assert [(e.step, e.name, e.data) for e in log.of("custom")] == [
        (1, "custom", {"bars": [1, 2]}),
        (1, "chart", {"bars": 3}),
    ]


class Counted(MessagesState):
    count: Annotated[int, lambda old, new: old + new]


def counting() -> Any:
    graph = StateGraph(Counted)
    graph.add_node("a", lambda state: {"count": 1})
    graph.add_node("b", lambda state: {"count": 2, "messages": [AIMessage("x", id="x")]})
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    return graph.compile()


async def test_the_state_is_told_whole_as_a_patch_or_as_updates() -> None:
    def data(log: Log) -> list[Any]:
        assert_whole(log.events)
        return [event.data for event in log.of("custom") if event.name == "state"]

    whole = data(await play(from_langgraph(counting(), state="values")))
    assert [(d["values"]["count"], len(d["values"]["messages"])) for d in whole] == [(0, 1), (1, 1), (3, 2)]
    first, *patches = data(await play(from_langgraph(counting(), state="diff")))
    assert first["values"]["count"] == 0
    assert [op["op"] + op["path"] for p in patches for op in p["patch"]] == [
        "replace/count",
        "add/messages/-",
        "replace/count",
    ]
    updates = data(await play(from_langgraph(counting(), state="updates")))
    assert [(d["node"], d["update"]["count"]) for d in updates] == [("a", 1), ("b", 2)]
    assert data(await play(from_langgraph(counting()))) == []


def test_a_patch_turns_one_value_into_the_other() -> None:
    old = {"a": 1, "b/c": [1, 2, 3], "d": {"~": True}, "e": 1}
    new = {"a": 1, "b/c": [1, 5], "d": {"~": 1}, "f": None}
    assert json_patch(old, new) == [
        {"op": "remove", "path": "/e"},
        {"op": "replace", "path": "/b~1c/1", "value": 5},
        {"op": "remove", "path": "/b~1c/2"},
        {"op": "replace", "path": "/d/~0", "value": 1},
        {"op": "add", "path": "/f", "value": None},
    ]


# Tools, and graphs in graphs.


@tool
def add(a: int, b: int) -> int:
    """Add."""
    if a < 0:
        raise ValueError("negative")
    return a + b


def agent(a: int = 1, **compiled: Any) -> Any:
    def answer(messages: list[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage(f"It is {messages[-1].content}")
        call = {"id": "c1", "name": "add", "args": {"a": a, "b": 2}, "type": "tool_call"}
        return AIMessage("Let me see.", tool_calls=[call])

    model = Speaker(answer=answer)

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", think)
    graph.add_node("tools", ToolNode([add], handle_tool_errors=True))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", lambda s: "tools" if s["messages"][-1].tool_calls else END)
    graph.add_edge("tools", "agent")
    return graph.compile(**compiled)


async def test_calls_of_a_tool_node_are_shown_with_their_results() -> None:
    log = await play(from_langgraph(agent()))
    assert_whole(log.events)
    assert names(log.events) == ["agent", "tools", "agent"]
    (call,) = log.of("tool_call")
    assert (call.step, call.name, call.arguments, call.executed_by) == (
        2,
        "add",
        {"a": 1, "b": 2},
        "provider",
    )
    assert log.results()["c1"].output == "3"
    assert log.text == "Let me see. It is 3 "


async def test_a_tool_that_failed_is_shown_as_failed() -> None:
    log = await play(from_langgraph(agent(a=-1)))
    assert_whole(log.events)
    assert log.results()["c1"].outcome == "error"
    assert "negative" in log.results()["c1"].error


async def test_calls_that_are_sent_to_a_tool_node_one_by_one_are_shown_too() -> None:
    def send(state: MessagesState) -> list[Send]:
        calls = state["messages"][-1].tool_calls
        return [Send("tools", [call]) for call in calls]

    calls = [{"id": f"c{i}", "name": "add", "args": {"a": i, "b": 1}, "type": "tool_call"} for i in (1, 2)]
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [AIMessage("", tool_calls=calls)]})
    graph.add_node("tools", ToolNode([add]))
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", send, ["tools"])
    log = await play(from_langgraph(graph.compile()))
    assert_whole(log.events)
    assert names(log.events) == ["ask", "tools"]
    assert {c.call_id: (c.name, c.arguments) for c in log.of("tool_call")} == {
        "c1": ("add", {"a": 1, "b": 1}),
        "c2": ("add", {"a": 2, "b": 1}),
    }


async def test_a_subgraph_speaks_within_the_step_of_its_node() -> None:
    def custom(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()("inside")
        return {}

    inner = line(("first", speaking("in one")), ("second", custom), ("third", speaking("in two")))
    log = await play(
        from_langgraph(line(("before", speaking("a")), ("inner", inner), ("after", speaking("b"))))
    )
    assert_whole(log.events)
    assert names(log.events) == ["before", "inner", "after"]
    assert log.text == "a in one in two b "
    assert [(e.step, e.data) for e in log.of("custom")] == [(2, "inside")]


async def test_an_agent_in_a_graph_shows_its_calls_in_one_step() -> None:
    log = await play(from_langgraph(line(("agent", agent()))))
    assert_whole(log.events)
    assert (names(log.events), log.text) == (["agent"], "Let me see. It is 3 ")
    assert [(c.step, c.arguments) for c in log.of("tool_call")] == [(1, {"a": 1, "b": 2})]


# Ends.


async def test_stopping_cancels_the_nodes_at_work() -> None:
    context, cancelled = RunContext(), asyncio.Event()

    async def stuck(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()("here")
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()
        return {}

    def stop(log: Log) -> None:
        if log.events[-1].type == "custom":
            context.stop(by="ann")

    graph = line(("say", speaking("so far")), ("stuck", stuck))
    log = await play(from_langgraph(graph), context=context, after_each=stop)
    assert_whole(log.events)
    assert cancelled.is_set()
    assert (log.status, log.text) == ("cancelled", "so far ")


async def test_a_dropped_run_leaves_no_node_behind() -> None:
    cancelled = asyncio.Event()

    async def stuck(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()("here")
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()
        return {}

    await play(from_langgraph(line(("stuck", stuck))), after_each=lambda log: log.events[-1].type == "custom")
    assert cancelled.is_set()


async def test_what_a_node_raises_ends_the_run_within_its_step() -> None:
    async def fail(state: MessagesState) -> dict[str, Any]:
        await says("almost").ainvoke(state["messages"])
        raise ValueError("secret")

    log = await play(from_langgraph(line(("ok", speaking("fine")), ("fail", fail), saver=InMemorySaver())))
    assert_whole(log.events)
    assert (log.error.code, log.error.step, log.text) == ("node_failed", 2, "fine almost ")
    assert "secret" not in "".join(event.model_dump_json() for event in log.events)
    assert not fold(log.events).steps[-1].model_completed


async def test_a_failure_that_may_pass_is_tried_again_from_the_checkpoint() -> None:
    tries = {"ok": 0, "fail": 0}

    async def ok(state: MessagesState) -> dict[str, Any]:
        tries["ok"] += 1
        return {"messages": [await says("fine").ainvoke(state["messages"])]}

    async def fail(state: MessagesState) -> dict[str, Any]:
        tries["fail"] += 1
        answer = await says(f"try {tries['fail']}").ainvoke(state["messages"])
        if tries["fail"] == 1:
            raise ConnectionError
        return {"messages": [answer]}

    graph = line(("ok", ok), ("fail", fail), saver=InMemorySaver())
    log = await play(from_langgraph(graph, restart_on=lambda error: isinstance(error, ConnectionError)))
    assert_whole(log.events)
    assert (log.status, log.text, tries) == ("success", "fine try 2 ", {"ok": 1, "fail": 2})
    assert len(log.of("step_reset")) == 1


async def test_limits_hold_for_nodes_and_for_the_graphs_own_recursion() -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("again", lambda state: {"messages": []})
    graph.add_edge(START, "again")
    graph.add_edge("again", "again")
    endless = graph.compile()
    log = await play(from_langgraph(endless), options=RunOptions(limits=Limits(max_steps=3)))
    assert (log.error.code, len(names(log.events))) == ("max_steps", 3)
    log = await play(from_langgraph(endless, config={"recursion_limit": 2}))
    assert_whole(log.events)
    assert (log.error.code, len(names(log.events))) == ("recursion_limit", 2)


# Interrupts.


def two_questions(saver: Any) -> Any:
    def ask(state: MessagesState) -> dict[str, Any]:
        answer = interrupt({"question": "Send it?", "text": "Dear Ann"})
        return {"messages": [AIMessage(f"first {answer!r}. ")]}

    def other(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"second {interrupt('Really?')!r}. ")]}

    graph = StateGraph(MessagesState)
    graph.add_node("begin", speaking("Draft."))
    graph.add_node("ask", ask)
    graph.add_node("other", other)
    graph.add_node("quiet", speaking("Meanwhile."))
    graph.add_node("end", speaking("End."))
    graph.add_edge(START, "begin")
    for name in ("ask", "other", "quiet"):
        graph.add_edge("begin", name)
    graph.add_edge(["ask", "other", "quiet"], "end")
    return graph.compile(checkpointer=saver)


def calls_by_question(desk: Desk) -> dict[str | None, str]:
    return {call.approval.message: call.call_id for call in desk.state.calls if call.approval is not None}


async def test_interrupts_are_approvals_and_each_answer_goes_to_its_node() -> None:
    saver = InMemorySaver()
    desk = Desk(from_langgraph(two_questions(saver)), ToolRegistry())
    await desk.live()
    asked = calls_by_question(desk)
    assert asked.keys() == {"Send it?", "Really?"}
    desk.deny(asked["Really?"], "no")
    await desk.live()
    assert desk.waits == [("approval", asked["Send it?"])]
    desk.approve(asked["Send it?"], arguments={"value": {"text": "Dear Bob"}})
    # another process: another graph over the same checkpoints
    desk.model = from_langgraph(two_questions(saver))
    await desk.live()
    assert_whole(desk.events)
    assert desk.state.status == "success"
    said = [part.text for part in desk.state.parts if part.type == "text"]
    assert said[:2] == ["Draft. ", "Meanwhile. "]
    assert sorted(said[2:4]) == ["first {'text': 'Dear Bob'}. ", "second False. "]
    assert said[4] == "End. "


async def test_an_approval_is_true_to_the_node_unless_a_function_says_otherwise() -> None:
    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{interrupt('Go?')!r}")]}

    for resume, expected in ((None, "True"), (lambda decision: decision.by, "'ann'")):
        desk = Desk(
            from_langgraph(line(("node", node), saver=InMemorySaver()), resume=resume), ToolRegistry()
        )
        await desk.live()
        desk.approve(desk.waits[0][1])
        await desk.live()
        assert_whole(desk.events)
        assert desk.state.text == expected


async def test_a_node_that_asks_twice_is_answered_twice() -> None:
    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{interrupt('A?')} {interrupt('B?')}")]}

    desk = Desk(from_langgraph(line(("node", node), saver=InMemorySaver())), ToolRegistry())
    await desk.live()
    desk.approve(desk.waits[0][1])
    await desk.live()
    desk.deny(desk.waits[0][1])
    await desk.live()
    assert_whole(desk.events)
    assert desk.state.text == "True False"


async def test_an_interrupt_in_a_subgraph_is_answered_there() -> None:
    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{interrupt('Go?')}")]}

    graph = line(("inner", line(("node", node))), ("after", speaking("after")), saver=InMemorySaver())
    desk = Desk(from_langgraph(graph), ToolRegistry())
    await desk.live()
    assert len(desk.waits) == 1
    desk.approve(desk.waits[0][1])
    await desk.live()
    assert_whole(desk.events)
    assert desk.state.text == "Trueafter "


@pytest.mark.parametrize("where", [{"interrupt_before": ["b"]}, {"interrupt_after": ["a"]}])
async def test_a_breakpoint_asks_and_ends_the_graph_where_it_is_refused(where: Any) -> None:
    for agree in (True, False):
        graph = line(("a", speaking("a")), ("b", speaking("b")), saver=InMemorySaver(), **where)
        desk = Desk(from_langgraph(graph), ToolRegistry())
        await desk.live()
        assert (desk.state.text, list(calls_by_question(desk))) == ("a ", ["Go on with b?"])
        desk.approve(desk.waits[0][1]) if agree else desk.deny(desk.waits[0][1])
        await desk.live()
        assert_whole(desk.events)
        assert (desk.state.status, desk.state.text) == ("success", "a b " if agree else "a ")


async def test_without_a_checkpointer_an_interrupt_ends_the_run_and_breakpoints_are_refused() -> None:
    log = await play(from_langgraph(line(("ask", lambda state: interrupt("?")))))
    assert_whole(log.events)
    assert log.error.code == "no_checkpointer"
    with pytest.raises(InvalidInput, match="checkpointer"):
        from_langgraph(line(("a", speaking("a")), interrupt_before=["a"]))
    with pytest.raises(InvalidInput, match="compile"):
        from_langgraph(StateGraph(MessagesState))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="state"):
        from_langgraph(line(("a", speaking("a"))), state="all")  # type: ignore[arg-type]


# Crashes.


def as_it_was(saver: InMemorySaver, *, without_writes: bool) -> InMemorySaver:
    """The checkpoints of a process that dies now.

    What a node has written is saved behind its back, so it may be lost; what interrupts a graph is saved when
    the graph has ended, and only then is anybody asked.
    """
    kept = InMemorySaver()
    kept.storage = copy.deepcopy(saver.storage)
    kept.blobs = copy.deepcopy(saver.blobs)
    for place, writes in copy.deepcopy(saver.writes).items():
        for key, write in writes.items():
            if not without_writes or write[1] == "__interrupt__":
                kept.writes[place][key] = write
    return kept


class Mortal:
    """A run whose first worker dies after ``border`` batches; the next has the checkpoints and the log."""

    def __init__(self, make: Callable[[Any], Any], *, decide: bool = True) -> None:
        self.make = make
        self.decide = decide
        self.batches = 0

    async def live(self, border: int = 10_000, *, without_writes: bool = False) -> Desk:
        saver = InMemorySaver()

        def dies(log: Log) -> bool:
            nonlocal saver
            self.batches = len(log.borders)
            if len(log.borders) >= border:
                saver = as_it_was(saver, without_writes=without_writes)
            return len(log.borders) >= border

        desk = Desk(from_langgraph(self.make(saver)), ToolRegistry())
        await desk.live(after_each=dies)
        for _ in range(6):
            if desk.state.over:
                break
            assert_concluded(desk.events)
            for _, call_id in desk.waits:
                desk.approve(call_id) if self.decide else desk.deny(call_id)
            desk.model = from_langgraph(self.make(saver))
            await desk.live()
        assert_whole(desk.events)
        assert desk.state.status == "success"
        return desk


lossy = pytest.mark.parametrize("without_writes", [False, True], ids=["", "what nodes wrote is lost"])


@lossy
async def test_a_graph_goes_on_from_every_place_at_which_its_worker_may_die(without_writes: bool) -> None:
    mortal = Mortal(lambda saver: line(("a", speaking("a1 a2")), ("b", speaking("b1 b2")), saver=saver))
    await mortal.live()
    for border in range(1, mortal.batches):
        desk = await mortal.live(border, without_writes=without_writes)
        assert (names(desk.events), desk.state.text) == (["a", "b"], "a1 a2 b1 b2 ")


@lossy
async def test_interrupts_are_asked_once_whenever_the_worker_dies(without_writes: bool) -> None:
    mortal = Mortal(two_questions)
    await mortal.live()
    for border in range(1, mortal.batches + 1):
        desk = await mortal.live(border, without_writes=without_writes)
        said = sorted(part.text for part in desk.state.parts if part.type == "text")
        assert said == ["Draft. ", "End. ", "Meanwhile. ", "first True. ", "second True. "]
        assert len([call for call in desk.state.calls if call.approval is not None]) == 2


@lossy
async def test_a_breakpoint_is_not_passed_over_whenever_the_worker_dies(without_writes: bool) -> None:
    def make(saver: Any) -> Any:
        return line(("a", speaking("a")), ("b", speaking("b")), saver=saver, interrupt_before=["b"])

    mortal = Mortal(make, decide=False)
    await mortal.live()
    for border in range(1, mortal.batches + 1):
        desk = await mortal.live(border, without_writes=without_writes)
        assert desk.state.text == "a "


async def test_without_a_checkpointer_a_run_that_was_cut_off_ends_and_keeps_what_it_said() -> None:
    model = from_langgraph(line(("a", speaking("a1 a2"))))
    whole = await play(model)
    cut = whole.events[: whole.types().index("text_delta") + 1]
    log = await play(model, history=stored(cut))
    assert_whole([*cut, *log.events])
    assert (log.error.code, fold([*cut, *log.events]).text) == ("cut_off", "a1 ")


async def test_checkpoints_that_were_lost_end_the_run_instead_of_running_it_twice() -> None:
    def make() -> Any:
        return from_langgraph(line(("a", speaking("a")), ("b", speaking("b")), saver=InMemorySaver()))

    whole = await play(make())
    cut = whole.events[: whole.types().index("step_finished") + 1]
    log = await play(make(), history=stored(cut))
    assert_whole([*cut, *log.events])
    assert log.error.code == "checkpoint_lost"


# Conversations.


def echo(saver: Any) -> Any:
    """A graph that says what it has heard so far."""

    def answer(messages: list[BaseMessage]) -> AIMessage:
        return AIMessage("|".join(str(m.content) for m in messages if isinstance(m, HumanMessage)))

    model = Speaker(answer=answer)

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return line(("echo", node), saver=saver)


@pytest.mark.parametrize("saver", [None, InMemorySaver()], ids=["all is given", "the thread remembers"])
async def test_the_thread_is_the_conversation(saver: Any) -> None:
    first, second = await talk(from_langgraph(echo(saver)), "one", "two")
    assert_whole(second)
    assert (fold(first).text, fold(second).text) == ("one ", "one|two ")


async def test_a_retried_run_begins_where_the_first_one_did() -> None:
    async with StreamChat(model=from_langgraph(echo(InMemorySaver())), allow_anonymous=True) as chat:
        await chat.reply("talk", "one")
        run = await chat.reply("talk", "two")
        again = await chat.retry(run.run_id)
        await drain(chat, again.run_id)
        assert fold(await log_of(chat, again.run_id)).text == "one|two "
        # and the conversation's next turn begins behind the retried one
        third = await chat.reply("talk", "three")
        assert fold(await log_of(chat, third.run_id)).text == "one|two|three "


async def heard(chat: StreamChat, text: str, **how: Any) -> str:
    """What the thread's state holds of the user's, and of its own, when it answers a message."""
    reply = await chat.reply("talk", text, **how)
    assert reply.status == "success"
    return fold(await log_of(chat, reply.run_id)).text.strip()


async def test_an_edited_message_forks_the_thread_where_its_branch_of_the_conversation_is() -> None:
    async with StreamChat(model=from_langgraph(echo(InMemorySaver())), allow_anonymous=True) as chat:
        for text in ("one", "two", "three"):
            await heard(chat, text)
        asked = {row.content: row for row in await chat.history("talk") if row.role == "user"}
        ids = [row.message_id for row in asked.values()]
        assert await heard(chat, "two, better", edits=ids[1]) == "one|two, better"
        assert await heard(chat, "four") == "one|two, better|four"
        assert await heard(chat, "One!", edits=ids[0]) == "One!"
        assert await heard(chat, "Two!") == "One!|Two!"
        # and the older branches can be gone on with
        assert await heard(chat, "three, better", edits=ids[2]) == "one|two|three, better"
        newest = (await chat.history("talk"))[-1].run_id
        assert newest is not None
        again = await chat.retry(newest)
        await drain(chat, again.run_id)
        assert fold(await log_of(chat, again.run_id)).text == "one|two|three, better "
        assert await heard(chat, "five") == "one|two|three, better|five"


async def test_a_turn_that_said_nothing_is_in_the_state_once() -> None:
    entered, slow = asyncio.Event(), echo(None).nodes["echo"].bound

    async def node(state: MessagesState) -> dict[str, Any]:
        if state["messages"][-1].content == "slow":
            entered.set()
            await asyncio.sleep(3600)
        said: dict[str, Any] = await slow.ainvoke(state)
        return said

    model = from_langgraph(line(("echo", node), saver=InMemorySaver()))
    async with StreamChat(model=model, allow_anonymous=True, on_busy="enqueue") as chat:
        assert await heard(chat, "one") == "one"
        for _ in range(2):
            entered.clear()
            run = await chat.start("talk", "slow")
            await entered.wait()
            # This one never begins, so the state cannot have it.
            waiting = await chat.start("talk", "queued")
            await chat.cancel(waiting.run_id)
            await chat.cancel(run.run_id)
            await drain(chat, run.run_id)
        assert await heard(chat, "three") == "one|slow|queued|slow|queued|three"
        assert await heard(chat, "four") == "one|slow|queued|slow|queued|three|four"


async def test_a_thread_that_conversations_share_is_gone_on_with() -> None:
    model = from_langgraph(echo(InMemorySaver()), thread_id=lambda run: "ann")
    async with StreamChat(model=model, allow_anonymous=True) as chat:
        for conversation, text in (("a", "one"), ("b", "one|two"), ("a", "one|two|three")):
            run = await chat.reply(conversation, text.rpartition("|")[2])
            assert fold(await log_of(chat, run.run_id)).text.strip() == text


@pytest.mark.parametrize("ending", ["cancelled", "denied", "agreed"])
async def test_a_retry_of_a_step_or_of_an_interrupt_alone_is_refused(ending: str) -> None:
    """The steps before it are in the first run's checkpoints."""
    model = from_langgraph(two_questions(InMemorySaver()))
    async with StreamChat(model=model, allow_anonymous=True) as chat:
        run = await chat.reply("talk", "one")
        calls = [wait.call_id for wait in run.state.waits]
        if ending == "cancelled":
            await chat.cancel(run.run_id)
        else:
            for call_id in calls:
                await chat.resolve_approval(run.run_id, call_id, ending == "agreed")
        await drain(chat, run.run_id)
        before = await chat.history("talk")
        in_part: list[dict[str, Any]] = [{"from_step": 2}]
        if ending != "agreed":
            in_part += [{"call_id": call_id} for call_id in calls]
        for what in in_part:
            with pytest.raises(NotRetryable, match=r"'LangGraph'.*retry the whole run") as caught:
                await chat.retry(run.run_id, **what)
            assert caught.value.reason == "whole_run_only"
            assert run.run_id in str(caught.value)
        assert await chat.history("talk") == before
        again = await chat.retry(run.run_id)
        while (await chat.status(again.run_id)).status != "suspended":
            await asyncio.sleep(0.01)


async def test_input_context_and_config_are_the_applications_to_make() -> None:
    seen: list[Any] = []

    class State(MessagesState):
        topic: str

    def node(state: State, config) -> dict[str, Any]:
        seen.append((state["topic"], config["configurable"]["thread_id"], config["configurable"]["user"]))
        return {}

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    model = from_langgraph(
        graph.compile(),
        input=lambda run: {"topic": run.text},
        thread_id=lambda run: f"thread {run.conversation_id}",
        config=lambda run: {"configurable": {"user": "ann"}},
    )
    await play(model, context=RunContext(conversation_id="7"))
    assert seen == [("hi", "thread 7", "ann")]


async def test_over_a_service_and_sse_an_interrupt_is_answered() -> None:
    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{interrupt({'question': 'Go?'})}")]}

    graph = line(("say", speaking("Hm.")), ("ask", node), saver=InMemorySaver())
    edit = {"approved": True, "arguments": {"value": "with care"}}
    (seen,) = await talk(from_langgraph(graph), "hi", decide=lambda asked: edit)
    assert_whole(seen)
    assert names(seen) == ["say", "ask", "ask"]
    assert fold(seen).text == "Hm. with care"


def test_importing_streamchat_and_its_models_imports_no_langgraph() -> None:
    code = (
        "import sys, streamchat, streamchat.models, streamchat.models.workflow\n"
        "assert not {'langgraph', 'langchain_core'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
