"""Hooks before and after a run, a step and a tool: they observe, change, refuse, and may fail."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import anyio
import pytest

from streamchat.core.fold import RunState, StepState
from streamchat.errors import ModelError
from streamchat.messages import ModelMessage, ToolCallPart
from streamchat.models.base import ModelRequest
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Hooks, Refuse, RunOptions
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import ToolContext, ToolOutcome, ToolRegistry
from tests.orchestrator.support import Log, Watched, assert_whole, asyncio_only, play

pytestmark = pytest.mark.anyio


def tools() -> ToolRegistry:
    registry = ToolRegistry()

    @registry.tool
    async def look(n: int = 0) -> int:
        ran.append(n)
        return n

    @registry.tool
    async def hang() -> None:
        await anyio.sleep_forever()

    ran: list[int] = []
    return registry


def model() -> ScriptedModel:
    return ScriptedModel([Step("Look:", calls=[Call("look", {"n": 1}), Call("look", {"n": 2})]), "Done."])


async def run(**hooks: object) -> Log:
    log = await play(model(), tools=tools(), options=RunOptions(grace=0.2, hooks=Hooks(**hooks)))  # type: ignore[arg-type]
    assert_whole(log.events)
    return log


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_hooks_observe_everything_in_order(kind):
    seen: list[str] = []

    def hook(name: str, *types: type):
        def note(*arguments: object) -> None:
            assert [type(argument) for argument in arguments] == list(types)
            seen.append(name)

        async def note_async(*arguments: object) -> None:
            await anyio.sleep(0)
            note(*arguments)

        return note if kind == "sync" else note_async

    log = await run(
        before_run=hook("before_run", RunContext),
        before_step=hook("before_step", RunContext, ModelRequest),
        before_tool=hook("before_tool", ToolContext, ToolCallPart),
        after_tool=hook("after_tool", ToolContext, ToolCallPart, ToolOutcome),
        after_step=hook("after_step", RunContext, StepState),
        after_run=hook("after_run", RunContext, RunState),
    )
    assert log.status == "success"
    assert seen[:2] == ["before_run", "before_step"]
    assert sorted(seen[2:6]) == ["after_tool"] * 2 + ["before_tool"] * 2
    assert seen[6:] == ["after_step", "before_step", "after_step", "after_run"]


async def test_before_run_refuses_the_run():
    log = await run(before_run=lambda context: Refuse("Not today.", "quota"))
    assert log.types() == ["run_started", "error", "message_completed", "finalized"]
    assert (log.error.phase, log.error.code, log.error.message) == ("orchestration", "quota", "Not today.")


async def test_before_step_refuses_a_step():
    log = await run(before_step=lambda context, request: Refuse("No.") if request.step == 2 else None)
    assert (log.error.code, log.error.message, log.error.step) == ("refused", "No.", 2)
    assert log.text == "Look:"


async def test_before_step_changes_the_request_and_nothing_else():
    asked = model()

    def shorten(context: RunContext, request: ModelRequest) -> ModelRequest:
        # A hook that gets the step wrong must not bring the log out of order.
        return replace(request, tools=(), options={"temperature": 0}, step=7, attempt=3)

    log = await play(asked, tools=tools(), options=RunOptions(hooks=Hooks(before_step=shorten)))
    assert [(request.tools, request.options) for request in asked.requests] == [((), {"temperature": 0})] * 2
    assert log.outcomes() == ["ok", "ok"]
    assert_whole(log.events)


async def test_before_step_may_cut_the_history():
    asked = ScriptedModel(["x"])
    cut = [ModelMessage(role="user", content="short")]
    hooks = Hooks(before_step=lambda context, request: replace(request, messages=cut))
    await play(asked, options=RunOptions(hooks=hooks))
    assert asked.requests[0].messages == cut


async def test_before_tool_refuses_a_call_which_is_told_to_the_model():
    asked = model()

    def refuse(context: ToolContext, call: ToolCallPart) -> Refuse | None:
        return Refuse("Not this one.") if call.arguments == {"n": 1} else None

    log = await play(asked, tools=tools(), options=RunOptions(hooks=Hooks(before_tool=refuse)))
    assert sorted(log.outcomes()) == ["denied", "ok"]
    assert len(log.of("tool_started")) == 1
    assert "Not this one." in asked.requests[1].messages[2].content
    assert log.status == "success"
    assert_whole(log.events)


async def test_after_tool_changes_the_outcome():
    log = await run(
        after_tool=lambda context, call, outcome: ToolOutcome("ok", output={"was": outcome.output})
    )
    assert sorted(event.output["was"] for event in log.of("tool_result")) == [1, 2]


async def test_after_tool_that_returns_what_is_not_json_is_an_error_of_the_call():
    log = await run(after_tool=lambda context, call, outcome: ToolOutcome("ok", output=object()))
    assert log.outcomes() == ["error", "error"]
    assert log.status == "success"


async def test_after_tool_may_return_what_can_be_made_json():
    log = await run(after_tool=lambda context, call, outcome: ToolOutcome("ok", output={1}))
    assert [event.output for event in log.of("tool_result")] == [[1], [1]]


def fails(*arguments: object) -> None:
    raise RuntimeError("secret")


@pytest.mark.parametrize(
    ("hook", "phase"),
    [
        ("before_run", "orchestration"),
        ("before_step", "orchestration"),
        ("before_tool", "tool"),
        ("after_tool", "tool"),
        ("after_step", "orchestration"),
    ],
)
async def test_a_hook_that_raises_ends_the_run_with_an_error(hook, phase):
    log = await run(**{hook: fails})
    assert (log.status, log.error.phase, log.error.code) == ("error", phase, "internal_error")
    assert log.error.correlation_id
    assert "secret" not in repr(log.events)


async def test_a_call_whose_after_hook_raised_is_not_said_to_have_been_cancelled():
    """It ran; and what it returned was not seen by the hook, so it is not shown."""
    log = await run(after_tool=fails)
    assert log.outcomes() == ["error", "error"]
    assert all("ran" in event.error and event.output is None for event in log.of("tool_result"))


async def test_a_call_whose_before_hook_raised_never_started():
    log = await run(before_tool=fails)
    assert log.outcomes() == ["cancelled", "cancelled"]
    assert log.of("tool_started") == []


async def test_a_hook_that_fails_while_other_tools_run_ends_them():
    asked = Watched(ScriptedModel([Step(calls=[Call("hang"), Call("look")])]))

    def fail_for_look(context: ToolContext, call: ToolCallPart, outcome: ToolOutcome) -> None:
        if call.name == "look":
            raise RuntimeError

    with anyio.fail_after(5):
        log = await play(asked, tools=tools(), options=RunOptions(hooks=Hooks(after_tool=fail_for_look)))
    assert {r.call_id: r.outcome for r in log.of("tool_result")} == {
        "call_1_0": "cancelled",
        "call_1_1": "error",
    }
    assert_whole(log.events)


async def test_a_hook_that_raises_a_model_error_is_no_failure_of_the_model():
    def fail(*arguments: object) -> None:
        raise ModelError("of a model that the hook asked", code="connection", retryable=True)

    log = await run(before_step=fail)
    assert (log.error.phase, log.of("step_reset")) == ("orchestration", [])


async def test_after_run_that_raises_changes_nothing():
    log = await run(after_run=fails)
    assert log.status == "success"


async def test_after_run_that_hangs_is_not_waited_for_longer_than_the_grace_time():
    async def hang(context: RunContext, state: RunState) -> None:
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        log = await run(after_run=hang)
    assert log.status == "success"


async def test_after_run_sees_every_clean_ending():
    states: list[RunState] = []
    hooks = Hooks(after_run=lambda context, state: states.append(state))
    options = RunOptions(hooks=hooks, max_step_restarts=0)
    await play(ScriptedModel([Step("one two", error="connection", error_after=1)]), options=options)
    context = RunContext()
    context.stop()
    await play(ScriptedModel(["x"]), context=context, options=options)
    assert [state.text for state in states] == ["one", ""]


async def test_after_run_is_not_called_at_a_hard_end():
    called: list[object] = []
    options = RunOptions(hooks=Hooks(after_run=lambda *arguments: called.append(arguments)))
    await play(ScriptedModel(["one two"]), options=options, after_each=lambda log: log.of("text_delta"))
    assert called == []


@asyncio_only
async def test_a_tool_hook_that_was_cancelled_elsewhere_does_not_hang_the_run():
    async def cancelled(*arguments: object) -> None:
        raise asyncio.CancelledError

    with anyio.fail_after(5):
        log = await run(before_tool=cancelled)
    assert log.outcomes() == ["cancelled", "cancelled"]
