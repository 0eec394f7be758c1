"""`OpenAIResponsesModel` over the real client and real HTTP."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest

from streamchat.errors import InvalidInput
from streamchat.messages import MessageCall, ModelMessage, Usage, model_messages
from streamchat.models import CallDelta, ModelResult, OpenAIResponsesModel
from streamchat.testing import Call, Reply, ScriptedProvider, Step, failure
from tests.models.support import OFF, WEATHER, ask, asking

pytestmark = pytest.mark.anyio

STEP = Step("It rains.", calls=[Call("weather", {"city": "Oslo"})], reasoning="Let me look.")


def turn(result: ModelResult, content: str, answer: str = "wet") -> list[ModelMessage]:
    """The messages that a result leaves in the history: ids of our own, the provider's beside them."""
    calls = tuple(
        MessageCall(
            call_id=f"ours-{call.id}",
            provider_call_id=call.id,
            name=call.name or "",
            arguments=call.arguments_json,
        )
        for call in result.calls
    )
    said = ModelMessage(role="assistant", content=content, calls=calls, extras=result.extras)
    return [said, *(ModelMessage(role="tool", call_id=call.call_id, content=answer) for call in calls)]


async def test_an_answer_comes_as_deltas_and_one_result() -> None:
    async with ScriptedProvider([STEP]) as provider, provider.client() as client:
        heard = await ask(OpenAIResponsesModel(client, "gpt"))
    assert heard.text() == "It rains."
    assert heard.text("reasoning") == "Let me look."
    arguments = "".join(item.arguments for item in heard.items if isinstance(item, CallDelta))
    assert arguments == '{"city":"Oslo"}'
    result = heard.result
    assert result.finish_reason == "tool_calls"
    assert [(call.name, call.arguments) for call in result.calls] == [("weather", {"city": "Oslo"})]
    assert result.usage == Usage(
        provider="127.0.0.1",
        model="gpt",
        input_tokens=10,
        output_tokens=8,
        total_tokens=18,
        reasoning_tokens=3,
    )


async def test_the_request_is_stateless_and_asks_for_encrypted_reasoning() -> None:
    async with ScriptedProvider(["ok"]) as provider, provider.client() as client:
        model = OpenAIResponsesModel(client, "gpt", temperature=0.1)
        await ask(model, asking(tools=[WEATHER], options={"tools": [{"type": "web_search"}]}))
    assert provider.requests[0].body == {
        "model": "gpt",
        "input": [{"type": "message", "role": "user", "content": "hi"}],
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "temperature": 0.1,
        "tools": [
            {"type": "web_search"},
            {
                "type": "function",
                "name": "weather",
                "description": "Current weather.",
                "parameters": dict(WEATHER.parameters),
                "strict": False,
            },
        ],
    }


@pytest.mark.parametrize("options", [{"store": True}, {"keep_reasoning": False}])
async def test_encrypted_reasoning_is_not_asked_for_where_it_is_not_wanted(options: Any) -> None:
    async with ScriptedProvider(["ok"]) as provider, provider.client() as client:
        await ask(OpenAIResponsesModel(client, "gpt", **options))
    assert "include" not in provider.requests[0].body
    assert provider.requests[0].body["store"] is options.get("store", False)


async def test_a_model_without_reasoning_is_asked_once_more_and_remembered() -> None:
    def reply(request: Any) -> Reply | str:
        if "include" in request.body and request.body["model"] == "plain":
            message = "Encrypted content is not supported with this model."
            return Reply(json={"error": {"message": message, "param": "include"}}, status=400)
        return "ok"

    async with ScriptedProvider(reply) as provider, provider.client() as client:
        for _ in range(2):
            assert (await ask(OpenAIResponsesModel(client, "plain", retry=OFF))).text() == "ok"
        assert ["include" in request.body for request in provider.requests] == [True, False, False]
        await ask(OpenAIResponsesModel(client, "reasoner", retry=OFF))
    assert "include" in provider.requests[-1].body


async def test_the_next_request_replays_the_items_with_their_reasoning() -> None:
    async with ScriptedProvider([STEP, "ok"]) as provider, provider.client() as client:
        model = OpenAIResponsesModel(client, "gpt")
        first = await ask(model)
        history = [*model_messages("hi"), *turn(first.result, "It rains.")]
        await ask(model, asking(history))
    items = provider.requests[1].body["input"]
    assert [item["type"] for item in items] == [
        "message",
        "reasoning",
        "message",
        "function_call",
        "function_call_output",
    ]
    assert items[1]["encrypted_content"] == "encrypted-1_0"
    assert items[2]["id"] == "msg_1_1"
    assert items[3]["call_id"] == items[4]["call_id"] == "call_1_0"
    assert items[4]["output"] == "wet"


async def test_items_that_no_longer_say_the_same_are_not_replayed() -> None:
    async with ScriptedProvider([STEP, "ok"]) as provider, provider.client() as client:
        model = OpenAIResponsesModel(client, "gpt")
        first = await ask(model)
        history = [*model_messages("hi"), *turn(first.result, "It was edited.")]
        await ask(model, asking(history))
    items = provider.requests[1].body["input"]
    assert [item["type"] for item in items] == ["message", "message", "function_call", "function_call_output"]
    assert items[1]["content"] == "It was edited."


async def test_items_of_another_provider_are_not_replayed() -> None:
    async with ScriptedProvider([STEP, "ok"]) as provider, provider.client() as client:
        first = await ask(OpenAIResponsesModel(client, "gpt", provider="one"))
        history = [*model_messages("hi"), *turn(first.result, "It rains.")]
        await ask(OpenAIResponsesModel(client, "gpt", provider="two"), asking(history))
    assert "reasoning" not in [item["type"] for item in provider.requests[1].body["input"]]


async def test_reasoning_that_is_not_encrypted_goes_back_only_where_it_was_stored() -> None:
    async with ScriptedProvider([STEP, "ok", "ok"]) as provider, provider.client() as client:
        first = await ask(OpenAIResponsesModel(client, "gpt", keep_reasoning=False))
        history = asking([*model_messages("hi"), *turn(first.result, "It rains.")])
        await ask(OpenAIResponsesModel(client, "gpt", keep_reasoning=False), history)
        await ask(OpenAIResponsesModel(client, "gpt", store=True), history)
    without, stored = (request.body["input"] for request in provider.requests[1:])
    assert "reasoning" not in [item["type"] for item in without]
    # An id would tell the provider that the item once had reasoning before it.
    assert not any("id" in item for item in without)
    assert stored[1]["type"] == "reasoning"
    assert stored[2]["id"] == "msg_1_1"


async def test_arguments_that_a_person_edited_go_back_edited_and_broken_ones_as_an_empty_object() -> None:
    broken = Step(calls=[Call("weather", '{"city":')])
    async with ScriptedProvider([STEP, broken, "ok", "ok"]) as provider, provider.client() as client:
        model = OpenAIResponsesModel(client, "gpt")
        edited = turn((await ask(model)).result, "It rains.")
        call = edited[0].calls[0].model_copy(update={"arguments": '{"city":"Bergen"}'})
        edited[0] = edited[0].model_copy(update={"calls": (call,)})
        bad = turn((await ask(model)).result, "")
        await ask(model, asking([*model_messages("hi"), *edited]))
        await ask(model, asking([*model_messages("hi"), *bad]))
    for request, arguments in zip(provider.requests[2:], ({"city": "Bergen"}, {}), strict=True):
        (item,) = (item for item in request.body["input"] if item["type"] == "function_call")
        assert json.loads(item["arguments"]) == arguments
    provider.assert_used_up()


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Step("a"), "stop"),
        (Step(calls=[Call("weather")]), "tool_calls"),
        (Step("a", finish_reason="length"), "length"),
        (Step("a", finish_reason="content_filter"), "content_filter"),
        (Step(refusal="no"), "stop"),
    ],
)
async def test_the_finish_reason_is_in_the_words_of_chat_completions(step: Step, reason: str) -> None:
    async with ScriptedProvider([step]) as provider, provider.client() as client:
        assert (await ask(OpenAIResponsesModel(client, "gpt"))).result.finish_reason == reason


async def test_what_the_provider_ran_itself_is_told() -> None:
    search = {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "weather"},
    }
    mcp = {
        "type": "mcp_call",
        "id": "mcp_1",
        "server_label": "s",
        "name": "roll",
        "arguments": '{"sides":6}',
        "output": "4",
    }
    response = {"id": "r", "object": "response", "status": "completed", "output": [search, mcp]}
    events: list[dict[str, Any]] = [
        {"type": "response.output_item.done", "output_index": 0, "item": search},
        {"type": "response.output_item.done", "output_index": 1, "item": mcp},
        {"type": "response.completed", "response": response},
    ]
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    async with ScriptedProvider([body]) as provider, provider.client() as client:
        result = (await ask(OpenAIResponsesModel(client, "gpt"))).result
    assert [call[1:5] for call in replace(result).provider_calls] == [
        ("ws_1", "web_search", {"type": "search", "query": "weather"}, None),
        ("mcp_1", "roll", {"sides": 6}, "4"),
    ]


async def test_a_failed_response_is_the_providers_error() -> None:
    step = Step("one two", error=failure("server_error", "our fault"), error_after=1)
    async with ScriptedProvider([step]) as provider, provider.client() as client:
        heard = await ask(OpenAIResponsesModel(client, "gpt", retry=OFF))
    assert heard.text() == "one"
    assert heard.failure.retryable
    assert "our fault" in str(heard.failure)


async def test_an_end_without_a_final_event_is_incomplete() -> None:
    async with ScriptedProvider([Step("one two", cut_after=1)]) as provider, provider.client() as client:
        heard = await ask(OpenAIResponsesModel(client, "gpt"))
    assert heard.text() == "one"
    assert heard.failure.code == "incomplete_stream"


async def test_the_final_event_is_the_end_even_if_the_body_stays_open() -> None:
    reply = Reply(Step("ok"), linger=None, stall_at=10**6)
    async with ScriptedProvider([reply]) as provider, provider.client() as client:
        heard = await ask(OpenAIResponsesModel(client, "gpt", idle_timeout=None))
    assert heard.result.finish_reason == "stop"


async def test_a_whole_response_in_place_of_a_stream_is_read() -> None:
    def reply(request: Any) -> Reply:
        request.body["stream"] = False
        return Reply(STEP)

    async with ScriptedProvider(reply) as provider, provider.client() as client:
        heard = await ask(OpenAIResponsesModel(client, "gpt"))
    assert heard.text() == "It rains."
    assert heard.result.finish_reason == "tool_calls"


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "input"])
async def test_state_at_the_provider_is_refused(name: str) -> None:
    async with ScriptedProvider() as provider, provider.client() as client:
        with pytest.raises(InvalidInput, match=name):
            OpenAIResponsesModel(client, "gpt", **cast("dict[str, Any]", {name: "x"}))
