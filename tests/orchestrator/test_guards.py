"""Guards and budgets: what goes to the model and what comes from it is judged; each ends cleanly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from streamchat.errors import InvalidInput
from streamchat.events import TextDelta
from streamchat.messages import ModelMessage, Usage
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Hooks, Limits, Refuse, RunOptions
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.testing.scripted import ScriptedStep
from streamchat.tools import ToolRegistry
from tests.orchestrator.support import Log, assert_whole, play, stored, text_of
from tests.orchestrator.test_structured import GOOD, WHOLE, Recipe, customs

pytestmark = pytest.mark.anyio


def tools(ran: list[int] | None = None) -> ToolRegistry:
    registry = ToolRegistry()

    @registry.tool
    async def look(n: int = 0) -> int:
        if ran is not None:
            ran.append(n)
        return n

    return registry


def guarded(**hooks: Any) -> RunOptions:
    return RunOptions(hooks=Hooks(**hooks), restart_delay=0.0, grace=0.2)


def step_finished(log: Log) -> bool:
    return log.events[-1].type == "step_finished"


# What goes in.


async def test_a_refused_input_is_never_sent():
    async def guard(context: RunContext, messages: Sequence[ModelMessage]) -> Refuse:
        assert [message.content for message in messages] == ["hi"]
        return Refuse("Not here.", code="off_topic")

    with ScriptedModel([]) as model:
        log = await play(model, options=guarded(guard_input=guard))
    assert_whole(log.events)
    assert (log.status, log.error.code, log.error.message) == ("error", "off_topic", "Not here.")
    assert model.requests == []


async def test_replaced_messages_are_sent_with_every_request_and_the_guard_is_asked_once():
    asked = []

    def guard(context: RunContext, messages: list[ModelMessage]) -> list[dict[str, object]]:
        asked.append(context.run_id)
        return [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "[hidden]"}]

    with ScriptedModel([Step(calls=[Call("look")]), "Done."]) as model:
        log = await play(model, tools=tools(), options=guarded(guard_input=guard))
    assert_whole(log.events)
    assert len(asked) == 1
    for request in model.requests:
        assert [message.content for message in request.messages[:2]] == ["Be kind.", "[hidden]"]


async def test_who_goes_on_with_a_run_asks_the_guard_as_well():
    def guard(context: RunContext, messages: list[ModelMessage]) -> list[dict[str, object]]:
        return [{"role": "user", "content": "[hidden]"}]

    options = guarded(guard_input=guard)
    with ScriptedModel([Step(calls=[Call("look")])]) as model:
        first = await play(
            model,
            tools=tools(),
            options=options,
            after_each=step_finished,
        )
    with ScriptedModel(["Done."]) as second:
        log = Log(list(first.events))
        await play(second, tools=tools(), options=options, history=stored(first.events), log=log)
    assert_whole(log.events)
    assert second.requests[0].messages[0].content == "[hidden]"


async def test_a_guard_that_waits_is_ended_by_a_stop():
    waiting = anyio.Event()

    async def guard(context: RunContext, messages: list[ModelMessage]) -> None:
        waiting.set()
        await anyio.sleep_forever()

    context = RunContext()
    with ScriptedModel([]) as model:
        async with anyio.create_task_group() as group:

            async def stop() -> None:
                await waiting.wait()
                context.stop("enough")

            group.start_soon(stop)
            log = await play(model, options=guarded(guard_input=guard), context=context)
            assert_whole(log.events)
            assert log.status == "cancelled"


# What comes out.


@pytest.mark.parametrize("batch", [1, 100])
async def test_a_refused_output_is_withdrawn_and_its_calls_never_run(batch):
    ran: list[int] = []

    def guard(context: RunContext, text: str) -> Refuse:
        assert text == "The secret is 42."
        return Refuse("That cannot be said.")

    step = Step("The secret is 42.", calls=[Call("look", {"n": 1})])
    with ScriptedModel([step], batch=batch) as model:
        log = await play(model, tools=tools(ran), options=guarded(guard_output=guard))
    assert_whole(log.events)
    assert (log.status, log.error.message) == ("error", "That cannot be said.")
    assert log.of("step_reset")[0].reason == "guard"
    assert log.of("message_completed")[0].content == ()
    assert ran == []


@pytest.mark.parametrize("batch", [1, 100])
async def test_a_replaced_output_is_what_stands_and_what_the_model_sees(batch):
    async def guard(context: RunContext, text: str) -> str | None:
        return text.replace("42", "…") if "42" in text else None

    script: list[ScriptedStep] = [Step("It is 42.", calls=[Call("look")]), "Done."]
    with ScriptedModel(script, batch=batch) as model:
        log = await play(model, tools=tools(), options=guarded(guard_output=guard))
    assert_whole(log.events)
    assert log.status == "success"
    assert text_of(log.events) == "It is ….Done."
    assert model.requests[1].messages[1].content == "It is …."
    if batch == 100:
        assert not any("42" in e.text for e in log.events if isinstance(e, TextDelta))


async def test_the_declared_type_is_that_of_the_replaced_text():
    options = RunOptions(
        hooks=Hooks(guard_output=lambda context, text: GOOD), output_type=Recipe, output_interval=0.0
    )
    with ScriptedModel(["{}"]) as model:
        log = await play(model, options=options)
    assert_whole(log.events)
    assert customs(log, "output") == [WHOLE]


@pytest.mark.parametrize("end", ["stop", "deadline"])
async def test_a_text_is_not_completed_before_its_guard_has_answered(end):
    ran: list[int] = []
    context = RunContext()

    async def guard(context: RunContext, text: str) -> None:
        if end == "stop":
            context.stop("enough")
        await anyio.sleep_forever()

    limits = Limits(deadline=0.05 if end == "deadline" else None)
    options = RunOptions(hooks=Hooks(guard_output=guard), limits=limits, grace=0.2)
    with ScriptedModel([Step("Secret.", calls=[Call("look")])]) as model:
        log = await play(model, tools=tools(ran), options=options, context=context)
    assert_whole(log.events)
    assert log.status == ("cancelled" if end == "stop" else "error")
    assert log.of("model_completed") == []
    assert ran == []


async def test_a_guard_that_raises_ends_the_run_and_not_the_caller():
    def guard(context: RunContext, text: str) -> None:
        raise RuntimeError("secret")

    with ScriptedModel(["Hello."]) as model:
        log = await play(model, options=guarded(guard_output=guard))
    assert_whole(log.events)
    assert (log.status, log.error.code) == ("error", "internal_error")
    assert "secret" not in str(log.error)


@pytest.mark.parametrize("answer", [b"x", 5, True, ["x"], {}], ids=repr)
@pytest.mark.parametrize("batch", [1, 100])
async def test_what_is_no_text_takes_the_place_of_none(batch: int, answer: Any, caplog: Any):
    ran: list[int] = []
    step = Step("Hello there.", calls=[Call("look")])
    with ScriptedModel([step], batch=batch) as model:
        log = await play(model, tools=tools(ran), options=guarded(guard_output=lambda context, text: answer))
    assert_whole(log.events)
    assert (log.status, log.error.code) == ("error", "internal_error")
    assert "guard_output" in caplog.text
    assert text_of(log.events) in ("", "Hello there.")
    assert log.of("model_completed") == []
    assert ran == []


# Budgets.


async def test_a_run_that_has_cost_too_much_takes_no_other_step():
    def price(usage: Usage) -> float:
        return usage.output_tokens * 0.5

    usage = Usage(input_tokens=1, output_tokens=2, total_tokens=3)
    step = Step("And", calls=[Call("look")], usage=usage)
    options = RunOptions(limits=Limits(max_cost=2.0), cost=price)
    model = ScriptedModel([step], repeat=True)
    log = await play(model, tools=tools(), options=options)
    assert_whole(log.events)
    assert (log.error.phase, log.error.code) == ("limit", "max_cost")
    assert len(model.requests) == 2


async def test_a_cost_limit_without_prices_is_refused():
    with pytest.raises(InvalidInput, match="cost"):
        RunOptions(limits=Limits(max_cost=1.0))


async def test_a_step_that_goes_beyond_the_tool_calls_of_a_run_runs_none_of_its_calls():
    ran: list[int] = []
    step = Step(calls=[Call("look", {"n": 1}), Call("look", {"n": 2})])
    model = ScriptedModel([step], repeat=True)
    log = await play(model, tools=tools(ran), options=RunOptions(limits=Limits(max_tool_calls=3)))
    assert_whole(log.events)
    assert (log.error.phase, log.error.code) == ("limit", "max_tool_calls")
    assert sorted(ran) == [1, 2]
    assert sorted(log.outcomes()) == ["cancelled", "cancelled", "ok", "ok"]
