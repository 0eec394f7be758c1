"""Workflows as models: steps and text in the log, resumption behind what stands, questions to people."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat import RunContext, StreamChat
from streamchat.core.fold import fold
from streamchat.errors import InvalidInput, ModelError, NotRetryable, ToolDefinitionError
from streamchat.events import StreamEvent
from streamchat.messages import Usage
from streamchat.models import WorkflowModel
from streamchat.models.workflow import (
    Ask,
    Called,
    Emit,
    Keep,
    Node,
    Reasoning,
    WorkflowItem,
    WorkflowRun,
)
from streamchat.orchestration.options import Hooks, Limits, Refuse, RunOptions
from streamchat.orchestrator import orchestrate
from streamchat.tools import ToolRegistry
from tests.models.over_sse import talk
from tests.orchestrator.support import Log, assert_concluded, assert_whole, play, stored
from tests.orchestrator.waiting import Desk

pytestmark = pytest.mark.anyio

Items = AsyncIterator[WorkflowItem]


def dying(after: int) -> Callable[[Log], bool]:
    """A worker that dies once so many batches of its own can be stored."""
    return lambda log: len(log.borders) >= after


def steps(log: Log) -> list[tuple[str | None, str, bool]]:
    return [(step.name, step.kind, step.finished) for step in fold(log.events).steps]


async def test_each_node_is_a_step_and_what_it_yields_stands_in_it() -> None:
    async def flow(run: WorkflowRun) -> Items:
        yield Node("plan")
        yield Reasoning("hm")
        yield "Let me "
        yield "see. "
        yield Emit("chart", {"bars": (1, 2)})
        yield Usage(input_tokens=1, output_tokens=2, total_tokens=3)
        yield Node("act")
        yield Called("search", {"q": run.text}, ["found"])
        yield "Done."
        yield Usage(total_tokens=4)

    log = await play(WorkflowModel(flow))
    assert_whole(log.events)
    assert steps(log) == [("plan", "workflow", True), ("act", "workflow", True)]
    assert [(e.step, e.text) for e in log.of("text_delta")] == [(1, "Let me "), (1, "see. "), (2, "Done.")]
    assert [(e.step, e.name, e.data) for e in log.of("custom")] == [(1, "chart", {"bars": [1, 2]})]
    (call,) = log.of("tool_call")
    assert (call.executed_by, call.name, call.arguments) == ("provider", "search", {"q": "hi"})
    assert log.results()[call.call_id].output == ["found"]
    assert fold(log.events).usage.total_tokens == 7
    assert [e.name for e in log.of("step_finished")] == ["plan", "act"]


async def test_what_comes_before_the_first_node_is_a_step_without_a_name() -> None:
    async def flow(run: WorkflowRun) -> Items:
        yield "a"
        yield Node("b")
        yield "b"

    assert [name for name, _, _ in steps(await play(WorkflowModel(flow)))] == [None, "b"]


async def test_a_workflow_that_yields_nothing_succeeds_without_a_step() -> None:
    async def flow(run: WorkflowRun) -> Items:
        if run.messages == []:
            yield ""

    log = await play(WorkflowModel(flow, name="silent"))
    assert_whole(log.events)
    assert (log.status, steps(log), log.events[0].model) == ("success", [], "silent")


async def test_a_node_runs_only_when_the_end_of_the_step_before_it_was_handed_out() -> None:
    ran: list[str] = []

    async def flow(run: WorkflowRun) -> Items:
        yield Node("a")
        ran.append("a")
        yield Node("b")
        ran.append("b")
        yield "b"

    seen: list[StreamEvent] = []
    async with aclosing(orchestrate(WorkflowModel(flow), "hi")) as events:
        async for event in events:
            seen.append(event)
            if event.type in ("step_started", "step_finished", "model_completed") and event.step == 1:
                assert "b" not in ran
            if event.type == "step_started":
                assert len(ran) == fold(seen).steps[-1].step - 1
    assert ran == ["a", "b"]


async def test_an_exception_in_a_node_ends_the_run_and_what_it_said_stays() -> None:
    async def flow(run: WorkflowRun) -> Items:
        yield Node("a")
        yield "so far"
        raise RuntimeError("secret")

    log = await play(WorkflowModel(flow, resumable=True))
    assert_whole(log.events)
    assert (log.status, log.error.code, log.text) == ("error", "provider_error", "so far")
    assert "secret" not in "".join(e.model_dump_json() for e in log.events)


async def test_an_item_that_is_none_ends_the_run() -> None:
    async def flow(run: WorkflowRun) -> AsyncIterator[Any]:
        yield 5

    log = await play(WorkflowModel(flow))
    assert_whole(log.events)
    assert log.error.code == "bad_request"


async def test_a_node_whose_failure_may_pass_begins_again_where_the_workflow_is_resumable() -> None:
    async def flow(run: WorkflowRun) -> Items:
        if not run.find("a"):
            yield Node("a")
            yield "a"
            yield Keep([1])
        yield Node("b")
        yield f"b{run.attempt}"
        if not run.attempt:
            raise ModelError("try again", code="connection", retryable=True)
        found = run.find("a")
        assert found is not None
        yield f"{found.data}{found.text}"

    log = await play(WorkflowModel(flow, resumable=True))
    assert_whole(log.events)
    assert (log.text, len(log.of("step_reset")), log.status) == ("ab1[1]a", 1, "success")
    log = await play(WorkflowModel(flow))
    assert (log.text, log.error.code, log.of("step_reset")) == ("ab0", "connection", [])


async def test_a_workflow_that_cannot_be_reached_between_steps_is_asked_again() -> None:
    tries = 0

    async def flow(run: WorkflowRun) -> Items:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ModelError("not now", code="connection", retryable=True)
        yield "here"

    log = await play(WorkflowModel(flow))
    assert_whole(log.events)
    assert (log.text, tries, log.of("step_reset")) == ("here", 2, [])


async def test_one_that_begins_with_another_step_than_the_open_one_ends_the_run() -> None:
    async def flow(run: WorkflowRun) -> Items:
        yield Node(f"step {run.attempt}")
        yield "x"
        raise ModelError("again", retryable=True)

    log = await play(WorkflowModel(flow, resumable=True))
    assert_whole(log.events)
    assert log.error.code == "diverged"


async def test_stopping_closes_the_generator_in_the_middle_of_a_node() -> None:
    closed = anyio.Event()
    context = RunContext()

    async def flow(run: WorkflowRun) -> Items:
        try:
            yield Node("a")
            yield "so far"
            context.stop("enough", by="ann")
            await anyio.sleep_forever()
        finally:
            closed.set()

    log = await play(WorkflowModel(flow), context=context)
    assert_whole(log.events)
    assert closed.is_set()
    assert (log.status, log.text, log.of("cancelled")[0].by) == ("cancelled", "so far", "ann")


@pytest.mark.parametrize("after", ["step_started", "text_delta", "model_completed", "step_finished"])
async def test_stopping_between_two_items_closes_the_generator_too(after: str) -> None:
    closed = anyio.Event()
    context = RunContext()

    async def flow(run: WorkflowRun) -> Items:
        try:
            yield Node("a")
            yield "a"
            yield Node("b")
            yield "b"
        finally:
            closed.set()

    def stop(log: Log) -> None:
        if log.events[-1].type == after:
            context.stop()

    log = await play(WorkflowModel(flow), context=context, after_each=stop)
    assert_whole(log.events)
    assert closed.is_set()
    assert log.status == "cancelled"


async def test_a_node_that_takes_too_long_ends_with_the_deadline() -> None:
    async def flow(run: WorkflowRun) -> Items:
        yield Node("a")
        yield "a"
        await anyio.sleep_forever()

    log = await play(WorkflowModel(flow), options=RunOptions(limits=Limits(deadline=0.05), grace=0.2))
    assert_whole(log.events)
    assert (log.error.code, log.text) == ("deadline", "a")


async def test_a_bound_on_steps_holds_for_nodes() -> None:
    async def flow(run: WorkflowRun) -> Items:
        for number in range(3):
            yield Node(str(number))
            yield str(number)

    log = await play(WorkflowModel(flow), options=RunOptions(limits=Limits(max_steps=3)))
    assert (log.status, log.text) == ("success", "012")
    log = await play(WorkflowModel(flow), options=RunOptions(limits=Limits(max_steps=2)))
    assert_whole(log.events)
    assert (log.error.code, log.text) == ("max_steps", "01")


async def test_hooks_see_each_step_once_and_may_refuse_one() -> None:
    asked: list[int] = []

    def before(context: RunContext, request: Any) -> Refuse | None:
        asked.append(request.step)
        return Refuse("No more.") if request.step == 3 else None

    async def flow(run: WorkflowRun) -> Items:
        for number in range(4):
            yield Node(str(number))
            yield str(number)

    log = await play(WorkflowModel(flow), options=RunOptions(hooks=Hooks(before_step=before)))
    assert_whole(log.events)
    assert (asked, log.error.code, log.text) == ([1, 2, 3], "refused", "01")


async def test_guards_hold_for_workflows() -> None:
    async def flow(run: WorkflowRun) -> Items:
        yield Node("a")
        yield f"{run.text} secret"

    hooks = Hooks(
        guard_input=lambda context, messages: [{"role": "user", "content": "tamed"}],
        guard_output=lambda context, text: text.replace("secret", "…"),
    )
    log = await play(WorkflowModel(flow), options=RunOptions(hooks=hooks))
    assert_whole(log.events)
    assert log.text == "tamed …"


# A run that is cut off.


async def three(run: WorkflowRun) -> Items:
    for name in "abc":
        if not run.find(name):
            yield Node(name)
            yield f"{name}1 "
            yield Emit("at", name)
            yield f"{name}2 "
            yield Called("tool", {"in": name}, name)
            yield Keep({"name": name})


async def test_a_resumable_workflow_goes_on_from_every_prefix_and_comes_to_the_same() -> None:
    model = WorkflowModel(three, resumable=True)
    whole = await play(model)
    for border in whole.borders[:-1]:
        before = stored(whole.events[:border])
        rest = await play(model, history=before, context=RunContext(run_id="run"))
        events = [event.event for event in before] + rest.events
        assert_whole(events)
        assert (rest.status, fold(events).text) == ("success", "a1 a2 b1 b2 c1 c2 ")
        assert [step.name for step in fold(events).steps] == ["a", "b", "c"]


async def test_one_that_is_not_resumable_ends_where_it_was_cut_off_and_keeps_what_it_said() -> None:
    whole = await play(WorkflowModel(three))
    for border in whole.borders[:-1]:
        before = stored(whole.events[:border])
        rest = await play(WorkflowModel(three), history=before)
        assert_whole([event.event for event in before] + rest.events)
        if border > 1 and rest.status != "success":
            assert rest.error.code == "cut_off"
            assert fold(before).text == fold([*before, *rest.events]).text
        else:
            # either nothing of it had begun, or all was said
            assert border == 1 or fold(before).steps[-1].model_completed


async def test_a_retry_from_a_step_keeps_the_steps_before_it() -> None:
    said: list[str] = []

    async def flow(run: WorkflowRun) -> Items:
        for name in "abc":
            if not run.find(name):
                said.append(name)
                yield Node(name)
                yield name

    async with StreamChat(model=WorkflowModel(flow, resumable=True), allow_anonymous=True) as chat:
        run = (await chat.reply("talk", "hi")).run_id
        again = await chat.retry(run, from_step=3)
        assert [event async for event in chat.attach(again.run_id).events()]
        assert said == ["a", "b", "c", "c"]


async def test_a_retry_in_part_is_refused_where_the_workflow_cannot_go_on_behind_steps() -> None:
    async def flow(run: WorkflowRun) -> Items:
        for name in "ab":
            yield Node(name)
            yield name

    async with StreamChat(model=WorkflowModel(flow), allow_anonymous=True) as chat:
        run = (await chat.reply("talk", "hi")).run_id
        with pytest.raises(NotRetryable, match=r"'flow'.*retry the whole run") as caught:
            await chat.retry(run, from_step=2)
        assert caught.value.reason == "whole_run_only"
        assert len(await chat.history("talk")) == 2  # nothing was made
        again = await chat.retry(run, from_step=1)  # the whole of it
        assert [event async for event in chat.attach(again.run_id).events()]
        assert (await chat.status(again.run_id)).text == "ab"


# Questions.


async def asking(run: WorkflowRun) -> Items:
    if not run.find("draft"):
        yield Node("draft")
        yield "Draft. "
        yield Ask("send", {"question": "Send it?", "text": "Dear Ann"})
    answer = run.answers["send"]
    yield Node("send" if answer.approved else "drop")
    yield f"{answer.value['text'] if answer.approved else answer.reason} by {answer.by}"


@pytest.fixture
def desk() -> Desk:
    return Desk(WorkflowModel(asking, resumable=True), ToolRegistry())


async def test_a_question_suspends_the_run_until_a_person_agrees(desk: Desk) -> None:
    first = await desk.live()
    (asked,) = first.of("approval_requested")
    assert (asked.name, asked.message, desk.waits) == ("ask", "Send it?", [("approval", "send")])
    desk.approve("send")
    log = await desk.live()
    assert_whole(desk.events)
    assert log.of("run_resumed")[0].reason == "approval"
    assert desk.state.text == "Draft. Dear Ann by ann"
    assert [step.name for step in desk.state.steps] == ["draft", "send"]


async def test_a_person_edits_what_they_were_asked(desk: Desk) -> None:
    await desk.live()
    desk.approve("send", arguments={"value": {"text": "Dear Bob"}})
    await desk.live()
    assert_whole(desk.events)
    assert desk.state.text == "Draft. Dear Bob by ann"


async def test_a_refusal_goes_to_the_workflow_with_its_reason(desk: Desk) -> None:
    await desk.live()
    desk.deny("send", "not yet")
    await desk.live()
    assert_whole(desk.events)
    assert desk.state.text == "Draft. not yet by ann"
    assert desk.state.steps[-1].name == "drop"


async def test_a_question_that_nobody_answers_in_time_counts_as_refused(desk: Desk) -> None:
    await desk.live()
    desk.now += 8 * 24 * 3600 * 1000
    log = await desk.live()
    assert_whole(desk.events)
    assert (log.of("run_resumed")[0].reason, desk.state.steps[-1].name) == ("expired", "drop")


async def test_the_answer_survives_a_crash_at_every_place(desk: Desk) -> None:
    first = await desk.live()
    desk.approve("send", arguments={"value": {"text": "Dear Bob"}})
    second = await desk.live()
    for border in range(1, len(second.borders)):
        again = Desk(desk.model, desk.tools)
        again.keep(first.events)
        again.approve("send", arguments={"value": {"text": "Dear Bob"}})
        await again.live(after_each=dying(border))
        assert_concluded(again.events)
        await again.live()
        assert_whole(again.events)
        assert again.state.text == "Draft. Dear Bob by ann"


async def test_several_questions_at_once_are_each_a_call_and_all_are_waited_for() -> None:
    async def flow(run: WorkflowRun) -> Items:
        if not run.completed:
            yield [Ask("a", "A?"), Ask("b", "B?")]
        yield Node("done")
        yield " ".join(f"{name}={answer.approved}" for name, answer in sorted(run.answers.items()))

    desk = Desk(WorkflowModel(flow, resumable=True), ToolRegistry())
    await desk.live()
    desk.approve("b")
    await desk.live()
    assert desk.waits == [("approval", "a")]
    desk.deny("a")
    await desk.live()
    assert_whole(desk.events)
    assert desk.state.text == "a=False b=True"


async def test_asking_needs_a_workflow_that_can_be_called_again() -> None:
    async def flow(run: WorkflowRun) -> Items:
        yield Ask("a")

    log = await play(WorkflowModel(flow))
    assert_whole(log.events)
    assert log.error.code == "bad_request"


async def test_what_a_person_edits_must_stay_a_value() -> None:
    async with StreamChat(model=WorkflowModel(asking, resumable=True), allow_anonymous=True) as chat:
        run = (await chat.reply("talk", "hi")).run_id
        with pytest.raises(InvalidInput, match="value"):
            await chat.resolve_approval(run, "send", True, arguments={"valu": 1})
        await chat.resolve_approval(run, "send", True, arguments={"value": {"text": "x"}})


async def test_the_questions_tool_must_not_be_one_of_the_applications() -> None:
    tools = ToolRegistry()

    @tools.tool
    async def ask() -> str:
        """Ask."""
        return ""

    with pytest.raises(ToolDefinitionError, match="'ask'"):
        StreamChat(model=WorkflowModel(three), tools=tools, allow_anonymous=True)
    assert (await play(WorkflowModel(three, ask_tool="consult"), tools=tools)).status == "success"


# Whatever a workflow yields.

ITEMS = st.one_of(
    st.builds(Node, st.sampled_from(["a", "b", "a"])),
    st.text(max_size=4),
    st.builds(Reasoning, st.text(max_size=4)),
    st.builds(Emit, st.sampled_from(["x", "state"]), st.none() | st.integers() | st.text(max_size=3)),
    st.builds(
        Called, st.just("t"), st.sampled_from([None, {"a": 1}]), st.integers(), st.sampled_from(["", "id"])
    ),
    st.builds(Keep, st.integers()),
    st.builds(Usage, total_tokens=st.integers(0, 5)),
    st.builds(Ask, st.sampled_from(["q", "r"])),
    st.just("!"),
)


@given(
    items=st.lists(ITEMS, max_size=12),
    lives=st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=6),
    retryable=st.booleans(),
)
async def test_the_log_is_legal_whatever_a_workflow_yields_and_wherever_it_is_cut(
    items: list[Any], lives: list[tuple[int, bool]], retryable: bool
) -> None:
    async def flow(run: WorkflowRun) -> AsyncIterator[Any]:
        step = 0
        for item in items:
            if isinstance(item, Node) or step == 0:
                step += 1
            if step <= len(run.completed):
                continue
            if item == "!" and not run.attempt:
                raise ModelError("again", retryable=retryable)
            yield item

    desk = Desk(WorkflowModel(flow, resumable=True), ToolRegistry())
    for most, agree in [*lives, (1000, True), *[(1000, True)] * 12]:
        for _, call_id in desk.waits:
            desk.approve(call_id) if agree else desk.deny(call_id)
        await desk.live(after_each=dying(most))
        if desk.state.over:
            break
        assert_concluded(desk.events)
    assert_whole(desk.events)


# Through the service, and over the wire.


async def test_over_a_service_and_sse_a_workflow_is_asked_answered_and_told_in_steps() -> None:
    edit = {"approved": True, "arguments": {"value": {"text": "Dear Bob"}}}
    (seen,) = await talk(WorkflowModel(asking, resumable=True), "Write", decide=lambda asked: edit)
    assert_whole(seen)
    assert [e.name for e in seen if e.type == "step_started"] == ["draft", "send"]
    assert fold(seen).text == "Draft. Dear Bob by None"


async def test_what_is_yielded_twice_under_one_id_is_refused() -> None:
    model = WorkflowModel(three, resumable=True)
    with pytest.raises(InvalidInput, match="twice"):
        model._ask([Ask("a"), Ask("a")], _output())


def _output() -> Any:
    from streamchat.models.step_output import StepOutput

    return StepOutput()
