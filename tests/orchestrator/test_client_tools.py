"""Client-side tools: the browser runs them, and its result is checked before the model is told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from streamchat.core.answers import Answer
from streamchat.errors import InvalidInput, WaitNotFound
from streamchat.orchestration.answering import check_answer
from streamchat.orchestration.options import RunOptions
from streamchat.testing import Call, ScriptedModel
from streamchat.tools import ToolRegistry
from tests.orchestrator.support import FAST, assert_whole
from tests.orchestrator.waiting import Desk, calls, new

pytestmark = pytest.mark.anyio


class Place(BaseModel):
    lat: float
    lon: float


def page_tools(**options: Any) -> ToolRegistry:
    tools = ToolRegistry()

    @tools.tool(client_side=True, **options)
    def locate(precise: bool = False) -> Place:
        """Where the user is."""
        raise AssertionError("the function only describes it")

    @tools.tool
    async def look() -> str:
        return "looked"

    return tools


def desk(*wanted: Call | str, options: RunOptions = FAST, **tool_options: Any) -> Desk:
    return Desk(ScriptedModel([calls(*wanted), "Done."]), page_tools(**tool_options), options)


async def test_a_client_tool_is_not_started_here_and_the_run_waits_for_its_result():
    it = desk("locate", "look")
    log = await it.live()
    assert [event.executed_by for event in log.of("tool_call")] == ["client", "server"]
    assert [event.call_id for event in log.of("tool_started")] == ["look"]
    [wait] = it.state.waits
    assert (wait.kind, wait.call_id, wait.expires_at) == ("tool_result", "locate", it.now + 3_600_000)


async def test_a_result_that_fits_is_told_to_the_model_in_the_declared_form():
    it = desk("locate")
    await it.live()
    it.post("tool_result", "locate", output={"lat": "59.9", "lon": 10})
    log = await it.live()
    assert log.of("run_resumed")[0].reason == "tool_result"
    assert new(log)[1:3] == ["tool_result", "step_finished"]
    assert log.results()["locate"].output == {"lat": 59.9, "lon": 10.0}
    assert it.told() == {"locate": '{"lat":59.9,"lon":10.0}'}
    assert it.inbox == []
    assert_whole(it.events)


async def test_the_clients_own_failure_is_told_to_the_model():
    it = desk("locate")
    await it.live()
    it.post("tool_result", "locate", error="TypeError: navigator.geolocation is undefined")
    log = await it.live()
    assert log.outcomes() == ["error"]
    assert "navigator.geolocation" in it.told()["locate"]
    assert_whole(it.events)


async def test_a_result_of_another_type_is_refused_at_the_door():
    it = desk("locate")
    await it.live()
    with pytest.raises(InvalidInput, match="lat: Input should be a valid number") as caught:
        it.post("tool_result", "locate", output={"lat": "north", "lon": 3})
    assert caught.value.field == "output"


async def test_a_result_of_another_type_that_got_past_the_door_is_an_error_for_the_model():
    it = desk("locate")
    await it.live()
    it.post("tool_result", "locate", checked=False, output={"lat": "north", "lon": 3})
    log = await it.live()
    assert log.outcomes() == ["error"]
    assert "does not have the declared form" in it.told()["locate"]
    assert_whole(it.events)


@pytest.mark.parametrize("body", [{}, {"output": 1, "error": "x"}, {"error": 3}])
async def test_a_result_of_another_shape_is_refused(body):
    it = desk("locate")
    await it.live()
    with pytest.raises(InvalidInput):
        check_answer(it.state, it.tools, Answer("tool_result", "locate", body))


async def test_a_result_type_may_be_given_in_place_of_the_annotation():
    it = desk("locate", result_type=list[int])
    await it.live()
    with pytest.raises(InvalidInput):
        it.post("tool_result", "locate", output={"lat": 1, "lon": 2})
    it.post("tool_result", "locate", output=[1, "2"])
    log = await it.live()
    assert log.results()["locate"].output == [1, 2]


async def test_a_result_that_is_too_large_is_refused_at_the_door():
    it = desk("locate", result_type=Any, max_output_bytes=60)
    await it.live()
    with pytest.raises(InvalidInput, match="60") as caught:
        it.post("tool_result", "locate", output=["x" * 60])
    assert caught.value.field == "output"
    it.post("tool_result", "locate", output="x" * 100)
    log = await it.live()
    assert log.results()["locate"].output.startswith("xx")
    assert len(log.results()["locate"].output) == 60, "text is cut"


@pytest.mark.parametrize(("own", "seconds"), [({}, 60.0), ({"timeout": 5}, 5.0), ({"timeout": None}, None)])
async def test_a_client_that_does_not_answer_in_time_has_timed_out(own, seconds):
    it = desk("locate", options=RunOptions(client_timeout=60.0), **own)
    await it.live()
    [wait] = it.state.waits
    if seconds is None:
        assert wait.expires_at is None
        return
    assert wait.expires_at == it.now + seconds * 1000
    it.now += round(seconds * 1000)
    log = await it.live()
    assert log.of("run_resumed")[0].reason == "expired"
    assert log.outcomes() == ["timeout"]
    assert "no result" in log.of("tool_result")[0].error
    assert "in time" in it.told()["locate"]
    assert_whole(it.events)


async def test_the_clients_time_is_not_begun_anew_by_whoever_goes_on():
    it = desk(Call("locate", id="a"), Call("locate", id="b"))
    await it.live()
    expires = it.state.waits[0].expires_at
    it.now += 1_000_000
    it.post("tool_result", "a", output={"lat": 1, "lon": 2})
    await it.live()
    assert [(wait.call_id, wait.expires_at) for wait in it.state.waits] == [("b", expires)]


async def test_a_holder_that_died_before_it_suspended_changes_nothing_for_the_client():
    it = desk("locate", "look")
    await it.live(lambda log: log.events[-1].type == "tool_result")
    asked_at = it.now
    assert it.state.status == "running"
    log = await it.live()
    assert new(log) == ["run_resumed", "suspended"]
    assert it.waits == [("tool_result", "locate")]
    assert it.state.waits[0].expires_at == asked_at + 3_600_000


async def test_a_call_with_a_problem_is_not_given_to_the_client():
    it = desk(Call("locate", {"precise": "very"}, id="x"))
    log = await it.live()
    assert log.outcomes() == ["error"]
    assert it.state.status == "success"
    with pytest.raises(WaitNotFound):
        check_answer(it.state, it.tools, Answer("tool_result", "x", {"output": 1}))


async def test_a_stop_while_the_client_works_cancels_the_call():
    it = desk("locate")
    await it.live()
    await it.live(lambda log: it.context.stop("enough"))
    assert it.state.status == "cancelled"
    assert [call.outcome for call in it.state.calls] == ["cancelled"]
    assert_whole(it.events)


async def test_a_tool_that_became_the_clients_since_it_was_called_is_not_run_here():
    ran: list[int] = []
    before = ToolRegistry()
    before.add(lambda: ran.append(1), name="locate")
    it = Desk(ScriptedModel([calls("locate"), "Done."]), before)
    await it.live(lambda log: log.events[-1].type == "model_completed")
    it.tools = page_tools()
    await it.live()
    assert ran == []
    assert "make the call again" in it.told()["locate"]
    assert_whole(it.events)
