"""Workflows over a service, one process after the other: asked in one and answered in another, cut off in a
node, cancelled, read from a cursor.

The same course twice: as an async generator, and as a LangGraph graph with a checkpointer of its own, which
outlives the processes as the store does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState
from langgraph.types import interrupt

from streamchat import StreamChat
from streamchat.errors import RunOver
from streamchat.models import from_langgraph
from streamchat.models.base import Model
from streamchat.models.workflow import Ask, Node, WorkflowItem, WorkflowModel, WorkflowRun
from streamchat.service.log import read_log
from tests.models.test_langgraph import line, says

from .support import drain, log_of
from .world import World, ended, suspended

pytestmark = pytest.mark.anyio


class Course:
    """Drafts, asks a person, and then sends, word by word, or drops it; what ``gate`` holds up stands still
    in the middle of sending."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0

    async def held_up(self) -> None:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def model(self) -> Model:
        """As a new process makes it."""
        raise NotImplementedError


class Generator(Course):
    def model(self) -> Model:
        return WorkflowModel(self.course, resumable=True)

    async def course(self, run: WorkflowRun) -> AsyncIterator[WorkflowItem]:
        if not run.find("draft"):
            yield Node("draft")
            self.ran["draft"] += 1
            yield "Draft. "
            yield Ask("send", {"question": "Send it?", "text": "Dear Ann"})
        answer = run.answers["send"]
        yield Node("send")
        if answer.approved:
            yield "Sending: "
            await self.held_up()
        self.ran["send"] += 1
        yield f"{answer.value['text']}" if answer.approved else "Dropped"


class Graph(Course):
    def __init__(self) -> None:
        super().__init__()
        self.saver = InMemorySaver()

    def model(self) -> Model:
        async def draft(state: MessagesState) -> dict[str, Any]:
            self.ran["draft"] += 1
            return {"messages": [await says("Draft.").ainvoke(state["messages"])]}

        def ask(state: MessagesState) -> dict[str, Any]:
            answer = interrupt({"question": "Send it?", "text": "Dear Ann"})
            return {"messages": [AIMessage(f"{answer['text']} " if answer else "Dropped")]}

        async def send(state: MessagesState) -> dict[str, Any]:
            if state["messages"][-1].content != "Dropped":
                await says("Sending:").ainvoke(state["messages"])
                await self.held_up()
            self.ran["send"] += 1
            return {}

        graph = line(("draft", draft), ("ask", ask), ("send", send), saver=self.saver)
        return from_langgraph(graph, resume=lambda d: d.value if d.approved else None)


@pytest.fixture(params=[Generator, Graph], ids=["generator", "langgraph"])
def course(request: pytest.FixtureRequest) -> Course:
    made: Course = request.param()
    return made


async def asked(world: World, course: Course, *, killed: bool = True) -> tuple[str, str]:
    """A run whose process is killed while it waits for a person; return its id, and the question's."""
    chat = await world.process(model=course.model())
    run_id = (await chat.start("c", "Write to Ann")).run_id
    (wait,) = (await suspended(chat, run_id)).state.waits
    await world.end(chat, killed=killed)
    return run_id, wait.call_id


async def takes_the_next_turn(world: World, chat: StreamChat) -> None:
    """The conversation, and the graph's thread, go on."""
    run_id = (await chat.start("c", "Once more")).run_id
    (wait,) = (await suspended(chat, run_id)).state.waits
    await chat.resolve_approval(run_id, wait.call_id, False)
    status = await ended(chat, run_id)
    assert (status.status, status.text.rpartition(" ")[2]) == ("success", "Dropped")
    await world.end(chat, killed=False)


async def test_what_one_process_asked_is_answered_in_another_and_read_on_from_any_cursor(
    world: World, course: Course
) -> None:
    run_id, call_id = await asked(world, course)
    before = await read_log(world.store, run_id)
    chat = await world.process(model=course.model())
    await chat.resolve_approval(run_id, call_id, True, arguments={"value": {"text": "Dear Bob"}})
    status = await ended(chat, run_id)
    assert status.status == "success"
    assert status.text.split() == ["Draft.", *_sent(course, "Dear Bob")]
    assert course.ran == {"draft": 1, "send": 1}
    log = await read_log(world.store, run_id)
    assert log[: len(before)] == before
    page = await world.store.read(run_id)
    for seq in range(0, len(log) + 1, 3):
        owner = [segment for segment in page.segments if segment.first_seq <= max(1, seq)][-1]
        assert await drain(chat, run_id, f"{owner.generation}.{seq}") == log[seq:]
    await takes_the_next_turn(world, chat)


def _sent(course: Course, text: str) -> list[str]:
    return ["Sending:", *text.split()] if isinstance(course, Generator) else [*text.split(), "Sending:"]


async def test_a_node_that_was_cut_off_is_begun_again_and_those_before_it_stand(
    world: World, course: Course
) -> None:
    run_id, call_id = await asked(world, course)
    course.gate.clear()
    chat = await world.process(model=course.model())
    await chat.resolve_approval(run_id, call_id, True)
    while "Sending:" not in (await chat.status(run_id)).text:
        await asyncio.sleep(0.01)
    await world.end(chat, killed=True)
    assert course.ran == {"draft": 1}
    course.gate.set()
    chat = await world.process(model=course.model())
    status = await ended(chat, run_id)
    assert status.text.split() == ["Draft.", *_sent(course, "Dear Ann")]
    assert course.ran == {"draft": 1, "send": 1}
    resets = [event.reason for event in await log_of(chat, run_id) if event.type == "step_reset"]
    assert resets == ["takeover"]
    await takes_the_next_turn(world, chat)


async def test_a_run_that_is_cancelled_by_another_process_while_it_asks_can_be_done_anew(
    world: World, course: Course
) -> None:
    run_id, call_id = await asked(world, course, killed=False)
    chat = await world.process(model=course.model())
    await chat.cancel(run_id, reason="enough")
    status = await ended(chat, run_id)
    assert (status.status, status.text) == ("cancelled", "Draft. ")
    assert [call.outcome for call in status.state.calls] == ["cancelled"]
    with pytest.raises(RunOver):
        await chat.resolve_approval(run_id, call_id, True)
    again = (await chat.retry(run_id)).run_id
    (wait,) = (await suspended(chat, again)).state.waits
    await chat.resolve_approval(again, wait.call_id, True)
    assert (await ended(chat, again)).status == "success"
    assert course.ran == {"draft": 2, "send": 1}
    await takes_the_next_turn(world, chat)


async def test_a_cancel_by_another_process_ends_the_node_at_work(world: World, course: Course) -> None:
    run_id, call_id = await asked(world, course)
    course.gate.clear()
    worker = await world.process(model=course.model())
    door = await world.process(model=course.model(), work=False)
    await door.resolve_approval(run_id, call_id, True)
    while "Sending:" not in (await door.status(run_id)).text:
        await asyncio.sleep(0.01)
    await door.cancel(run_id)
    status = await ended(door, run_id)
    assert (status.status, course.cancelled, course.ran) == ("cancelled", 1, {"draft": 1})
    assert "Sending:" in status.text, "what was said stays"
    await world.end(door, killed=False)
    await takes_the_next_turn(world, worker)


async def test_a_question_that_nobody_answered_while_no_process_was_there_counts_as_refused(
    later_world: World, course: Course
) -> None:
    world = later_world
    run_id, call_id = await asked(world, course)
    world.backend.clock.jump(8 * 24 * 3600)
    chat = await world.process(model=course.model())
    status = await ended(chat, run_id)
    assert status.text == "Draft. Dropped"
    reasons = [event.reason for event in await log_of(chat, run_id) if event.type == "run_resumed"]
    assert reasons == ["expired"]
    with pytest.raises(RunOver):
        await chat.resolve_approval(run_id, call_id, True)
    await takes_the_next_turn(world, chat)
