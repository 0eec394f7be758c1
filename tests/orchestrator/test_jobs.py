"""Deferred jobs: the call is answered at once, the run waits or goes on, the result comes from anywhere."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from streamchat.core.answers import Answer
from streamchat.errors import AnswerConflict, InvalidInput, WaitNotFound
from streamchat.orchestration.answering import check_answer
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.testing import Call, ScriptedModel
from streamchat.tools import Deferred, ToolContext, ToolRegistry
from tests.orchestrator.support import FAST, Log, assert_whole, play
from tests.orchestrator.waiting import Desk, calls, new

pytestmark = pytest.mark.anyio


class Studio:
    """Renders videos somewhere else."""

    def __init__(self, deferred: Deferred | None = None, **options: Any) -> None:
        self.began: list[str] = []
        self.tools = ToolRegistry()

        @self.tools.tool(deferred=True, **options)
        async def render(ctx: ToolContext) -> Deferred:
            self.began.append(ctx.job_id)
            return deferred or Deferred()

        @self.tools.tool
        async def look() -> str:
            return "looked"

    def desk(self, *steps: Any, options: RunOptions = FAST) -> Desk:
        return Desk(ScriptedModel([*steps, "Done."]), self.tools, options)


async def test_a_job_is_deferred_and_the_run_suspends_before_the_model_is_asked_again():
    studio = Studio(Deferred("Rendering has begun.", expires_in=60))
    desk = studio.desk(calls("render", "look"))
    log = await desk.live()
    result = log.results()["render"]
    assert (result.outcome, result.job_id, result.output) == (
        "deferred",
        "run:render",
        "Rendering has begun.",
    )
    assert result.expires_at == desk.now + 60_000
    assert new(log)[-2:] == ["step_finished", "suspended"]
    assert {status.status for status in log.of("status")} >= {"building"}
    assert log.of("status")[-1].status == "building"
    [wait] = desk.state.waits
    assert (wait.kind, wait.call_id, wait.job_id) == ("job", "render", "run:render")
    assert wait.expires_at == desk.now + 60_000
    assert len(desk.model.requests) == 1  # type: ignore[attr-defined]


async def test_the_jobs_result_wakes_the_run_and_stands_in_the_calls_answer():
    studio = Studio()
    desk = studio.desk(calls("render", "look"))
    await desk.live()
    desk.post("job_result", "render", output={"url": "v.mp4"})
    log = await desk.live()
    assert log.of("run_resumed")[0].reason == "job"
    assert new(log)[1:3] == ["job_result", "step_started"]
    assert log.of("job_result")[0].job_id == "run:render"
    assert desk.told() == {"render": '{"url":"v.mp4"}', "look": "looked"}
    assert studio.began == ["run:render"]
    assert desk.inbox == []
    assert log.status == "success"
    assert_whole(desk.events)


async def test_a_job_that_failed_is_told_to_the_model():
    desk = Studio().desk(calls("render"))
    await desk.live()
    desk.post("job_result", "render", error="no disk")
    await desk.live()
    assert desk.told() == {"render": "Error: no disk"}
    assert_whole(desk.events)


async def test_a_job_that_is_never_completed_expires():
    desk = Studio().desk(calls("render"), options=RunOptions(job_timeout=100))
    await desk.live()
    assert desk.state.waits[0].expires_at == desk.now + 100_000
    desk.now += 100_000
    log = await desk.live()
    assert log.of("run_resumed")[0].reason == "expired"
    (ended,) = log.of("job_result")
    assert ended.outcome == "timeout"
    assert "no result" in ended.error
    (call,) = desk.state.calls
    assert call.error == ended.error
    assert "in time" in desk.told()["render"]
    assert log.status == "success"
    assert_whole(desk.events)


async def test_the_end_may_be_declared_to_come_after_the_job():
    desk = Studio(after_job="end").desk(calls("render"))
    await desk.live()
    desk.post("job_result", "render", output="v.mp4")
    log = await desk.live()
    assert log.status == "success"
    assert len(desk.model.requests) == 1  # type: ignore[attr-defined]
    [call] = desk.state.calls
    assert (call.outcome, call.output) == ("ok", "v.mp4")
    assert_whole(desk.events)


async def test_what_else_is_new_is_told_to_the_model_whatever_comes_after_the_job():
    desk = Studio(after_job="end").desk(calls("render", "look"))
    await desk.live()
    desk.post("job_result", "render", output="v.mp4")
    await desk.live()
    assert desk.told() == {"render": "v.mp4", "look": "looked"}


async def test_several_jobs_are_all_waited_for():
    desk = Studio().desk(calls(Call("render", id="a"), Call("render", id="b")))
    await desk.live()
    desk.post("job_result", "b", output=2)
    log = await desk.live()
    assert new(log) == ["run_resumed", "job_result", "suspended"]
    assert desk.waits == [("job", "a")]
    desk.post("job_result", "a", output=1)
    await desk.live()
    assert desk.told() == {"a": "1", "b": "2"}
    assert_whole(desk.events)


# Going on without the job.


async def test_the_model_may_go_on_while_the_job_is_at_work_and_the_run_suspends_in_place_of_its_end():
    studio = Studio(Deferred("It takes a while."), wait_for_job=False)
    desk = studio.desk(calls("render"), "It is on its way.")
    log = await desk.live()
    assert desk.told() == {"render": "It takes a while."}
    assert log.text == "It is on its way."
    assert new(log)[-2:] == ["step_finished", "suspended"]
    desk.post("job_result", "render", output="v.mp4")
    log = await desk.live()
    assert new(log)[1:3] == ["job_result", "step_started"]
    assert desk.told() == {"render": "It takes a while."}, "what was said stays said"
    late = desk.model.requests[-1].messages[-1]  # type: ignore[attr-defined]
    assert late.role == "user"
    assert "v.mp4" in late.content
    assert log.status == "success"
    assert desk.state.text == "It is on its way.Done."
    assert_whole(desk.events)


async def test_a_run_that_went_on_may_end_with_the_job():
    desk = Studio(wait_for_job=False, after_job="end").desk(calls("render"))
    await desk.live()
    assert desk.state.text == "Done."
    desk.post("job_result", "render", output="v.mp4")
    log = await desk.live()
    assert new(log) == ["run_resumed", "job_result", "message_completed", "finalized"]
    assert len(desk.model.requests) == 2  # type: ignore[attr-defined]
    assert_whole(desk.events)


async def test_a_job_that_ends_while_the_model_speaks_is_told_in_the_next_step():
    desk = Studio(wait_for_job=False).desk(calls("render"), "It is on its way.")

    def react(log: Log) -> None:
        if len(log.of("text_delta")) == 1 and not log.of("job_result") and not desk.context.inputs:
            desk.context.answer(Answer("job_result", "render", {"output": "v.mp4"}))

    log = await desk.live(react)
    assert log.types("suspended") == []
    assert log.status == "success"
    assert desk.state.text == "It is on its way.Done."
    assert "v.mp4" in desk.model.requests[-1].messages[-1].content  # type: ignore[attr-defined]
    assert_whole(desk.events)


async def test_a_job_that_ends_while_other_tools_work_stands_in_the_calls_answer():
    studio = Studio(wait_for_job=False)
    gate = anyio.Event()

    @studio.tools.tool
    async def slow() -> str:
        await gate.wait()
        return "slow"

    desk = studio.desk(calls("render", "slow"))

    def react(log: Log) -> None:
        if log.of("tool_result") and not log.of("job_result") and not desk.context.inputs:
            desk.context.answer(Answer("job_result", "render", {"output": "v.mp4"}))
        if log.of("job_result"):
            gate.set()

    log = await desk.live(react)
    assert log.status == "success"
    assert desk.told() == {"render": "v.mp4", "slow": "slow"}
    assert_whole(desk.events)


async def test_a_job_and_an_approval_are_waited_for_together():
    studio = Studio()
    studio.tools.add(lambda: "paid", name="pay", requires_approval=True)
    desk = studio.desk(calls("render", "pay"))
    await desk.live()
    assert desk.waits == [("job", "render"), ("approval", "pay")]
    assert [event.status for event in desk.events if event.type == "status"][-1] == "waiting"
    desk.post("job_result", "render", output=1)
    await desk.live()
    assert desk.waits == [("approval", "pay")]
    desk.approve("pay")
    await desk.live()
    assert desk.told() == {"render": "1", "pay": "paid"}
    assert_whole(desk.events)


# Results that come early, and holders that die.


async def test_a_result_may_come_before_the_tool_has_returned():
    tools = ToolRegistry()
    desk = Desk(ScriptedModel([calls("render"), "Done."]), tools)

    @tools.tool(deferred=True)
    async def render(ctx: ToolContext) -> Deferred:
        answer = Answer("job_result", "render", {"output": "quick"})
        desk.context.answer(answer)
        await anyio.sleep(0)
        return Deferred()

    log = await desk.live()
    assert log.types("suspended") == []
    assert new(log, "step_started", "step_finished")[-6:-3] == ["tool_result", "job_result", "text_delta"]
    assert desk.told() == {"render": "quick"}
    assert_whole(desk.events)


async def test_a_result_that_came_for_a_call_whose_worker_died_settles_it():
    """It is known then that the job was begun, and what it came to."""
    studio = Studio()
    desk = studio.desk(calls("render"))
    await desk.live(lambda log: log.events[-1].type == "tool_started")
    desk.post("job_result", "render", output="v.mp4")
    log = await desk.live()
    assert new(log)[:3] == ["run_resumed", "tool_result", "job_result"]
    assert log.outcomes() == ["deferred"]
    assert desk.told() == {"render": "v.mp4"}
    assert_whole(desk.events)


async def test_a_call_whose_worker_died_and_whose_job_is_silent_is_unknown():
    desk = Studio().desk(calls("render"))
    await desk.live(lambda log: log.events[-1].type == "tool_started")
    log = await desk.live()
    assert log.outcomes() == ["unknown"]
    assert_whole(desk.events)


async def test_reconcile_may_say_that_the_job_was_begun():
    desk = Studio(reconcile=lambda ctx: Deferred("It was begun.")).desk(calls("render"))
    await desk.live(lambda log: log.events[-1].type == "tool_started")
    log = await desk.live()
    assert log.outcomes() == ["deferred"]
    assert desk.waits == [("job", "render")]


async def test_a_result_that_nobody_waits_for_is_dropped():
    studio = Studio()
    desk = studio.desk(calls("look", Call("render", id="r")))
    await desk.live()
    desk.inbox.append(Answer("job_result", "look", {"output": 1}, at=desk.now))
    desk.inbox.append(Answer("approval", "r", {"approved": True}, at=desk.now))
    log = await desk.live()
    assert new(log) == ["run_resumed", "suspended"]
    assert desk.inbox == [], "or a store would never let the run rest"
    assert log.of("run_resumed")[0].reason == "takeover"


async def test_the_door_takes_a_jobs_result_from_its_start_on():
    desk = Studio(result_type=int).desk(calls("look", "render"))
    with pytest.raises(WaitNotFound):
        check_answer(desk.state, desk.tools, Answer("job_result", "render", {"output": 1}))
    await desk.live(lambda log: len(log.of("tool_started")) == 2)
    check_answer(desk.state, desk.tools, Answer("job_result", "render", {"output": 1}))
    with pytest.raises(InvalidInput):
        check_answer(desk.state, desk.tools, Answer("job_result", "render", {"output": "x"}))
    with pytest.raises(WaitNotFound):
        check_answer(desk.state, desk.tools, Answer("job_result", "look", {"output": 1}))


@pytest.mark.parametrize("ends", [False, True], ids=["at-work", "over"])
async def test_a_result_for_a_call_that_was_written_off_is_told_what_it_came_to(ends: bool):
    desk = Studio().desk(calls("look", "render"))
    await desk.live(lambda log: len(log.of("tool_started")) == 2)
    if ends:
        await desk.live()
    else:
        await desk.live(lambda log: len(log.of("tool_result")) == 2)
    assert desk.state.over == ends
    with pytest.raises(AnswerConflict, match="it came to 'unknown'"):
        check_answer(desk.state, desk.tools, Answer("job_result", "render", {"output": 1}))
    with pytest.raises(WaitNotFound):
        check_answer(desk.state, desk.tools, Answer("job_result", "look", {"output": 1}))


async def test_a_result_for_a_call_that_failed_before_it_had_a_job_is_told_so():
    tools = ToolRegistry()

    @tools.tool(deferred=True)
    async def render() -> Deferred:
        raise ValueError

    desk = Desk(ScriptedModel([calls("render"), "Done."]), tools)
    await desk.live()
    with pytest.raises(AnswerConflict, match="it came to 'error'"):
        check_answer(desk.state, desk.tools, Answer("job_result", "render", {"output": 1}))


# Stopping.


async def test_a_stop_while_a_job_is_at_work_ends_it():
    desk = Studio().desk(calls("render", "look"))
    await desk.live()
    context = RunContext(run_id="run", clock=lambda: desk.now)
    context.stop("enough")
    log = await play(desk.model, tools=desk.tools, context=context, history=desk.events, options=FAST)
    assert log.types() == ["run_resumed", "job_result", "cancelled", "message_completed", "finalized"]
    assert log.of("job_result")[0].outcome == "cancelled"
    assert "run ended" in log.of("job_result")[0].error
    assert_whole([*desk.events, *log.events])


async def test_a_tool_that_returns_a_job_when_it_is_stopped_leaves_none_open():
    tools = ToolRegistry()
    context = RunContext()

    @tools.tool(deferred=True)
    async def render() -> Deferred:
        context.stop("enough")
        return Deferred()

    log = await play(ScriptedModel([calls("render"), "Done."]), tools=tools, context=context)
    assert log.status == "cancelled"
    assert log.outcomes() == ["deferred"]
    assert [event.outcome for event in log.of("job_result")] == ["cancelled"]
    assert_whole(log.events)


async def test_a_failure_of_the_model_ends_the_jobs_at_work():
    desk = Studio(wait_for_job=False).desk(calls("render"), RuntimeError("gone"))
    log = await desk.live()
    assert log.status == "error"
    assert [event.outcome for event in log.of("job_result")] == ["cancelled"]
    assert_whole(desk.events)
