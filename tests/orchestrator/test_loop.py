"""The loop model → tools → model: what is asked, what is told to the model, and when it ends."""

from __future__ import annotations

import pytest

from streamchat.core.accumulator import CallDelta, ContentDelta, SourceDelta, ToolCall
from streamchat.errors import InvalidInput
from streamchat.messages import Usage
from streamchat.models.base import FinishedContent, ModelResult, ProviderCall
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.orchestrator import orchestrate
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.testing.scripted import ScriptedStep
from streamchat.tools import ToolRegistry
from tests.orchestrator.support import FAST, assert_whole, play, text_of

pytestmark = pytest.mark.anyio


def weather_tools() -> ToolRegistry:
    tools = ToolRegistry()

    @tools.tool
    async def weather(city: str) -> dict[str, str]:
        return {"city": city, "sky": "clear"}

    return tools


class FixedModel:
    """A model that yields the batches it was given, step by step."""

    name = "fixed"

    def __init__(self, *steps):
        self.steps = list(steps)
        self.requests = []

    async def stream(self, request):
        self.requests.append(request)
        for batch in self.steps[len(self.requests) - 1]:
            yield batch


def called(name="weather", arguments="{}", *, part=0, position=0, call_id="c", problem=None):
    import json

    value = None if problem else json.loads(arguments)
    return ToolCall(call_id, name, value, arguments, problem, position=position, part=part)


async def test_a_plain_answer_is_one_step():
    log = await play(ScriptedModel.text("Hello there."))
    assert log.types() == [
        "run_started",
        "step_started",
        "status",
        "text_delta",
        "text_delta",
        "model_completed",
        "step_finished",
        "message_completed",
        "finalized",
    ]
    assert (log.status, log.text) == ("success", "Hello there.")
    assert_whole(log.events)


async def test_the_model_is_given_what_its_tools_said():
    with ScriptedModel([Step(calls=[Call("weather", {"city": "Rome"}, id="call_a")]), "Clear."]) as model:
        log = await play(model, tools=weather_tools())
    assert_whole(log.events)
    user, assistant, answer = model.requests[1].messages
    assert user.content == "hi"
    assert [call.name for call in assistant.calls] == ["weather"]
    assert (answer.call_id, answer.content) == ("call_a", '{"city":"Rome","sky":"clear"}')
    assert [request.step for request in model.requests] == [1, 2]
    assert [schema.name for schema in model.requests[0].tools] == ["weather"]


async def test_text_before_a_tool_call_does_not_end_the_run():
    steps: list[ScriptedStep] = [Step("Let me look.", calls=[Call("weather", {"city": "Rome"})]), "Clear."]
    with ScriptedModel(steps) as model:
        log = await play(model, tools=weather_tools())
    assert log.text == "Let me look.Clear."
    assert log.outcomes() == ["ok"]
    assert_whole(log.events)


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
async def test_calls_are_run_whatever_the_finish_reason_says(reason):
    call = Call("weather", {"city": "Rome"})
    with ScriptedModel([Step(calls=[call], finish_reason=reason), "Clear."]) as model:
        log = await play(model, tools=weather_tools())
    assert len(log.of("tool_result")) == 1
    assert log.text == "Clear."
    assert_whole(log.events)


async def test_a_finish_reason_that_announces_calls_without_any_ends_the_run():
    model = FixedModel([[ContentDelta("text", 0, "Hm")], [ModelResult("tool_calls")]])
    log = await play(model, tools=weather_tools())
    assert log.status == "success"
    assert len(model.requests) == 1


async def test_an_unknown_tool_is_told_to_the_model_with_the_names_that_exist():
    with ScriptedModel([Step(calls=[Call("wether", {"city": "Rome"})]), "Sorry."]) as model:
        log = await play(model, tools=weather_tools())
    assert log.of("tool_call")[0].problem == "unknown_tool"
    assert not log.of("tool_started")
    assert model.requests[1].messages[-1].content == "Error: There is no tool named 'wether'. Tools: weather."
    assert log.status == "success"
    assert_whole(log.events)


@pytest.mark.parametrize(
    ("arguments", "problem", "told"),
    [
        ('{"city": 3, "town": 1}', "invalid_arguments", "town"),
        ("{}", "invalid_arguments", "is missing"),
        ('{"city":', "invalid_json", "not a JSON object"),
        ("[]", "invalid_json", "not a JSON object"),
    ],
)
async def test_arguments_that_do_not_fit_are_told_to_the_model(arguments, problem, told):
    with ScriptedModel([Step(calls=[Call("weather", arguments)]), "Sorry."]) as model:
        log = await play(model, tools=weather_tools())
    assert log.of("tool_call")[0].problem == problem
    assert not log.of("tool_started")
    assert told in model.requests[1].messages[-1].content
    assert log.status == "success"
    assert_whole(log.events)


async def test_a_call_that_was_cut_off_by_the_token_limit_is_not_run():
    with ScriptedModel([Step(calls=[Call("weather", '{"city": "Ro')], finish_reason="length"), "."]) as model:
        log = await play(model, tools=weather_tools())
    assert log.of("tool_call")[0].problem == "truncated"
    assert not log.of("tool_started")
    assert "cut off" in model.requests[1].messages[-1].content
    assert_whole(log.events)


async def test_a_good_call_runs_beside_a_bad_one():
    calls = [Call("weather", "{}"), Call("weather", {"city": "Rome"}), Call("nope")]
    with ScriptedModel([Step(calls=calls), "Done."]) as model:
        log = await play(model, tools=weather_tools())
    assert sorted(log.outcomes()) == ["error", "error", "ok"]
    assert len(log.of("tool_started")) == 1
    assert_whole(log.events)


async def test_call_ids_are_unique_within_the_run_though_the_provider_uses_one_in_every_step():
    step = Step(calls=[Call("weather", {"city": "Rome"}, id="functions.weather:0")])
    with ScriptedModel([step, step, step, "Done."]) as model:
        log = await play(model, tools=weather_tools())
    events = log.of("tool_call")
    assert [event.call_id for event in events] == ["functions.weather:0", "call_2_0", "call_3_0"]
    assert {event.provider_call_id for event in events} == {"functions.weather:0"}
    keys = [event.idempotency_key for event in log.of("tool_started")]
    assert len(set(keys)) == 3
    assert_whole(log.events)


@pytest.mark.parametrize("ids", [("ABC", "abc"), ("abc", "ABC")])
async def test_call_ids_that_differ_in_case_only_count_as_the_same(ids):
    """A store may compare them without regard to case."""
    step = Step(calls=[Call("weather", {"city": call_id}, id=call_id) for call_id in ids])
    log = await play(ScriptedModel([step, "."]), tools=weather_tools())
    ids = [event.call_id for event in log.of("tool_call")]
    assert len({call_id.casefold() for call_id in ids}) == 2
    assert_whole(log.events)


@pytest.mark.parametrize("odd", ["", "a b", "ü", "x" * 200, "call_1_0"])
async def test_a_provider_id_that_cannot_stand_in_the_log_is_replaced(odd):
    result = ModelResult("tool_calls", calls=(called(arguments='{"city":"a"}', call_id=odd),))
    deltas = [CallDelta(0, 0, None, "weather", "")]
    log = await play(FixedModel([deltas, [result]], [[ModelResult("stop")]]), tools=weather_tools())
    call = log.of("tool_call")[0]
    # Fixed at the first delta that shows the call, which came before the provider's id.
    assert call.call_id == log.of("tool_call_delta")[0].call_id == "call_1_0"
    assert call.provider_call_id == odd
    assert_whole(log.events)


async def test_the_id_that_is_made_up_avoids_ids_that_are_taken():
    first = ModelResult("tool_calls", calls=(called(arguments='{"city":"a"}', call_id="call_2_0"),))
    second = ModelResult("tool_calls", calls=(called(arguments='{"city":"a"}', call_id="call_2_0"),))
    model = FixedModel([[first]], [[second]], [[ModelResult("stop")]])
    log = await play(model, tools=weather_tools())
    assert len({event.call_id for event in log.of("tool_call")}) == 2
    assert_whole(log.events)


async def test_part_numbers_increase_over_the_run_whatever_the_model_numbers_its_parts():
    steps = [
        [
            [ContentDelta("reasoning", 7, "r"), ContentDelta("text", 3, "a")],
            [ContentDelta("reasoning", 7, "s"), SourceDelta(9, {"url": "https://example.com", "title": 1})],
            [
                ModelResult(
                    "tool_calls",
                    parts=(FinishedContent(3, "text", "a"), FinishedContent(8, "text", "whole")),
                    calls=(called(arguments='{"city":"a"}', part=5),),
                )
            ],
        ],
        [[ContentDelta("text", 0, "end"), ModelResult("stop", (FinishedContent(0, "text", "END", True),))]],
    ]
    log = await play(FixedModel(*steps), tools=weather_tools())
    assert_whole(log.events)
    assert [(p.part, p.type) for p in log.of("message_completed")[0].content] == [
        (0, "reasoning"),
        (1, "text"),
        (2, "source"),
        (3, "tool_call"),
        (4, "text"),
        (5, "text"),
    ]
    assert log.text == "awholeEND"


async def test_a_part_that_comes_whole_is_seen_as_one_delta():
    log = await play(FixedModel([[ModelResult("stop", (FinishedContent(0, "text", "All at once."),))]]))
    assert [event.text for event in log.of("text_delta")] == ["All at once."]
    assert log.of("step_finished")[0].time_to_first_token is not None
    assert_whole(log.events)


async def test_what_comes_whole_stands_in_the_models_own_order():
    result = ModelResult(
        "tool_calls",
        parts=(FinishedContent(0, "text", "first"), FinishedContent(3, "text", "last")),
        calls=(called(arguments='{"city":"a"}', part=1),),
        provider_calls=(ProviderCall(2, "ws", "web_search", {}, None),),
    )
    log = await play(FixedModel([[result]], [[ModelResult("stop")]]), tools=weather_tools())
    content = log.of("message_completed")[0].content
    assert [part.text if part.type == "text" else part.name for part in content] == [
        "first",
        "weather",
        "web_search",
        "last",
    ]
    assert_whole(log.events)


async def test_calls_that_the_provider_ran_itself_are_shown_and_not_run():
    result = ModelResult(
        "stop",
        (FinishedContent(1, "text", "Found."),),
        provider_calls=(ProviderCall(0, "ws_1", "web_search", {"query": "x"}, [1]),),
    )
    log = await play(FixedModel([[result]]))
    call = log.of("tool_call")[0]
    assert (call.executed_by, call.name) == ("provider", "web_search")
    assert log.results()[call.call_id].output == [1]
    assert not log.of("tool_started")
    assert log.types("step_started") == ["step_started"], "what the provider ran needs no further step"
    assert_whole(log.events)


async def test_what_a_model_yields_after_its_result_is_not_said():
    result = ModelResult("stop", (FinishedContent(0, "text", "x"),))
    model = FixedModel([[ContentDelta("text", 0, "x"), result, ContentDelta("text", 0, "late")], [result]])
    log = await play(model)
    assert log.text == "x"
    assert_whole(log.events)


async def test_usage_is_summed_over_the_steps():
    usage = Usage(input_tokens=3, output_tokens=2, total_tokens=5)
    steps = [Step(calls=[Call("weather", {"city": "a"})], usage=usage), Step("x", usage=usage)]
    log = await play(ScriptedModel(steps), tools=weather_tools())
    assert log.of("finalized")[0].usage.total_tokens == 10


async def test_model_options_reach_the_model():
    model = ScriptedModel.text("x")
    await play(model, options=RunOptions(model_options={"temperature": 0}))
    assert model.requests[0].options == {"temperature": 0}


async def test_the_context_names_the_run():
    context = RunContext(run_id="r", conversation_id="c", message_id="m", parent_run_id="p")
    log = await play(ScriptedModel.text("x"), context=context)
    started = log.events[0]
    assert (started.run_id, started.conversation_id, started.message_id, started.parent_run_id) == (
        "r",
        "c",
        "m",
        "p",
    )


@pytest.mark.parametrize(
    "messages", [[{"role": "user"}, {"content": "x"}], [3], [{"role": "nobody", "content": ""}]]
)
async def test_messages_that_are_none_are_refused_at_the_first_event(messages):
    with pytest.raises(InvalidInput):
        await anext(orchestrate(ScriptedModel.text("x"), messages))


async def test_chat_completions_messages_are_taken():
    model = ScriptedModel.text("x")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    events = [event async for event in orchestrate(model, messages, options=FAST)]
    assert text_of(events) == "x"
    assert [message.role for message in model.requests[0].messages] == ["system", "user"]
