"""Each call has one result, and the answer is asked for, whatever tools, hooks and options say."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from streamchat import RunOptions, StreamChat, ToolRegistry
from streamchat.core.state import RunState
from streamchat.errors import InvalidInput, NotRetryable, ToolDefinitionError
from streamchat.orchestration.options import Hooks, Refuse
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import Deferred, ToolContext, ToolOutcome

from . import world
from .support import paused

pytestmark = pytest.mark.anyio

NEVER = [math.nan, math.inf, 1e17, -5, 0, "5"]


async def ended(chat: StreamChat, run_id: str) -> RunState:
    """The state of a run that is over, whose log is legal."""
    return (await world.ended(chat, run_id)).state


def two_tools(outcome: Callable[[], Any]) -> tuple[ToolRegistry, list[str]]:
    """``charge``, which may happen once, and ``build``, which returns ``outcome()`` together with it."""
    tools, charged = ToolRegistry(), []
    both = asyncio.Event()

    @tools.tool
    async def charge() -> str:
        """Charge."""
        charged.append("once")
        await both.wait()
        return "charged"

    @tools.tool(deferred=True)
    async def build() -> Any:
        """Build."""
        both.set()
        return outcome()

    return tools, charged


@pytest.mark.parametrize("seconds", NEVER)
async def test_a_job_that_cannot_be_waited_for_is_an_error_and_takes_no_other_result_with_it(
    seconds: Any,
) -> None:
    tools, charged = two_tools(lambda: Deferred(expires_in=seconds))
    calls = Step("", calls=[Call("charge", {}, id="c1"), Call("build", {}, id="c2")])
    model = ScriptedModel([calls, "Done."])
    async with StreamChat(model=model, tools=tools, allow_anonymous=True) as chat:
        run = await chat.start(None, "go")
        state = await ended(chat, run.run_id)
        assert [call.outcome for call in state.calls] == ["ok", "error"]
        assert state.status == "success"
        with pytest.raises(NotRetryable):
            await chat.retry(run.run_id, call_id="c1")
    assert charged == ["once"]


@pytest.mark.parametrize(
    "hooks",
    [
        Hooks(after_tool=lambda context, call, outcome: ToolOutcome("failed")),  # type: ignore[arg-type]
        Hooks(after_tool=lambda context, call, outcome: ToolOutcome("error", error=ValueError())),  # type: ignore[arg-type]
        Hooks(after_tool=lambda context, call, outcome: ToolOutcome("ok", duration="long")),  # type: ignore[arg-type]
        Hooks(before_tool=lambda context, call: Refuse(5)),  # type: ignore[arg-type]
        Hooks(before_tool=lambda context, call: Refuse(PermissionError("no"))),  # type: ignore[arg-type]
    ],
)
async def test_a_hook_that_answers_with_nonsense_ends_the_run_and_no_call_is_left_open(hooks: Hooks) -> None:
    tools = ToolRegistry()

    @tools.tool
    async def look() -> str:
        """Look."""
        return "seen"

    model = ScriptedModel([Step("", calls=[Call("look", {}, id="c1")])])
    options = RunOptions(hooks=hooks)
    async with StreamChat(model=model, tools=tools, allow_anonymous=True, options=options) as chat:
        run = await chat.start(None, "go")
        state = await ended(chat, run.run_id)
    assert state.status == "error"
    assert [call.outcome in ("error", "cancelled") for call in state.calls] == [True]


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 1e17])
@pytest.mark.parametrize("name", ["approval_timeout", "client_timeout", "job_timeout"])
def test_a_wait_without_end_is_none_and_no_number(name: str, seconds: float) -> None:
    given: dict[str, Any] = {name: seconds}
    with pytest.raises(InvalidInput, match="or None for no limit") as refused:
        RunOptions(**given)
    assert refused.value.field == name


@pytest.mark.parametrize(
    "options",
    [
        {"approval_timeout": math.inf, "requires_approval": True},
        {"timeout": math.inf, "client_side": True},
        {"timeout": 1e17, "client_side": True},
    ],
)
def test_a_tool_that_is_waited_for_without_end_says_none(options: Any) -> None:
    def tool() -> str:
        """Do it."""
        return ""

    with pytest.raises(ToolDefinitionError, match="or None for no limit"):
        ToolRegistry().tool(**options)(tool)


def building(tools: ToolRegistry, chat: list[StreamChat], *, at_once: bool) -> None:
    @tools.tool(deferred=True, wait_for_job=False, after_job="end")
    async def build(context: ToolContext[None]) -> Any:
        """Build."""
        if at_once:
            await chat[0].complete_job(context.job_id, "built")
        return Deferred("at work")


CALLS = Step("", calls=[Call("build", {}, id="c1")])


@pytest.mark.parametrize("at_once", [True, False])
async def test_beside_a_job_the_model_is_asked_however_fast_the_job_is(at_once: bool) -> None:
    tools, own = ToolRegistry(), list[StreamChat]()
    building(tools, own, at_once=at_once)
    model = ScriptedModel([CALLS, "I am building it."])
    async with StreamChat(model=model, tools=tools, allow_anonymous=True) as chat:
        own.append(chat)
        run = await chat.start(None, "go")
        if not at_once:
            await paused(chat, run.run_id)
            await chat.complete_job(f"{run.run_id}:c1", "built")
        state = await ended(chat, run.run_id)
    assert (state.status, state.text) == ("success", "I am building it.")
    assert state.calls[0].output == "built"


async def test_what_was_said_beside_a_job_can_be_said_again_when_the_job_is_over() -> None:
    tools, own = ToolRegistry(), list[StreamChat]()
    building(tools, own, at_once=False)
    model = ScriptedModel([CALLS, "I am building it.", "It is being built."])
    async with StreamChat(model=model, tools=tools, allow_anonymous=True) as chat:
        run = await chat.start(None, "go")
        await paused(chat, run.run_id)
        await chat.complete_job(f"{run.run_id}:c1", "built")
        await ended(chat, run.run_id)
        again = await chat.retry(run.run_id, from_step=2)
        state = await ended(chat, again.run_id)
    assert (state.status, state.text) == ("success", "It is being built.")


async def test_a_jobs_result_that_was_accepted_stands_though_its_tool_failed_afterwards() -> None:
    tools, own = ToolRegistry(), list[StreamChat]()

    @tools.tool(deferred=True)
    async def build(context: ToolContext[None]) -> Any:
        """Build."""
        await own[0].complete_job(context.job_id, "built")
        raise RuntimeError("after all")

    model = ScriptedModel([CALLS, "Done."])
    async with StreamChat(model=model, tools=tools, allow_anonymous=True) as chat:
        own.append(chat)
        run = await chat.start(None, "go")
        state = await ended(chat, run.run_id)
        assert (state.calls[0].outcome, state.calls[0].output) == ("ok", "built")
        await chat.complete_job(f"{run.run_id}:c1", "built")  # the same again changes nothing


class Answer(BaseModel):
    title: str


async def test_a_job_that_ends_its_run_does_not_end_one_whose_answer_has_a_type() -> None:
    tools = ToolRegistry()

    @tools.tool(deferred=True, after_job="end")
    async def build() -> Any:
        """Build."""
        return Deferred("at work")

    model = ScriptedModel([CALLS, '{"title": "Built"}'])
    options = RunOptions(output_type=Answer)
    async with StreamChat(model=model, tools=tools, allow_anonymous=True, options=options) as chat:
        run = await chat.start(None, "go")
        await paused(chat, run.run_id)
        await chat.complete_job(f"{run.run_id}:c1", "built")
        state = await ended(chat, run.run_id)
        assert state.status == "success"
        assert (await chat.status(run.run_id)).output == {"title": "Built"}
