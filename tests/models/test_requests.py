"""From model messages to what the two APIs take."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.messages import MessageCall, ModelMessage, model_messages
from streamchat.models import ToolSchema
from streamchat.models.chat_requests import chat_messages, chat_tools
from streamchat.models.responses_requests import response_items, response_tools
from streamchat.testing import check_history, check_items

CALL = MessageCall(call_id="ours", provider_call_id="theirs", name="weather", arguments='{"city": "Oslo"}')
USER = ModelMessage(role="user", content="hi")
ANSWER = ModelMessage(role="tool", call_id="ours", content="wet")


def assistant(*calls: MessageCall, content: str = "", **extras: Any) -> ModelMessage:
    return ModelMessage(role="assistant", content=content, calls=calls, extras=extras or None)


def test_calls_and_answers_go_by_the_providers_id() -> None:
    history = [USER, assistant(CALL), ANSWER]
    assert chat_messages(history, None) == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "theirs",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "theirs", "content": "wet"},
    ]
    assert [item.get("call_id") for item in response_items(history, None)] == [None, "theirs", "theirs"]


def test_an_id_that_the_provider_uses_in_every_step_pairs_with_the_step_it_is_in() -> None:
    calls = [CALL.model_copy(update={"call_id": f"ours-{i}"}) for i in range(3)]
    history = [
        message
        for call in calls
        for message in (
            assistant(call),
            ModelMessage(role="tool", call_id=call.call_id, content=call.call_id),
        )
    ]
    sent = chat_messages(history, None)
    check_history(sent)
    assert [m["content"] for m in sent if m["role"] == "tool"] == ["ours-0", "ours-1", "ours-2"]


@pytest.mark.parametrize("arguments", ["", '{"city":', "[]", "null", "not json", '{"a": NaN}'])
def test_arguments_that_are_no_object_go_back_as_an_empty_one(arguments: str) -> None:
    call = CALL.model_copy(update={"arguments": arguments})
    (message,) = chat_messages([assistant(call)], None)
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"
    (item,) = response_items([assistant(call)], None)
    assert item["arguments"] == "{}"


def test_thought_signatures_go_back_to_the_provider_they_came_from_and_to_no_other() -> None:
    signature = {"extra_content": {"google": {"thought_signature": "abc"}}}
    message = assistant(CALL.model_copy(update={"extra": signature}), chat={"provider": "google"})
    assert (
        chat_messages([message], "google")[0]["tool_calls"][0]["extra_content"] == signature["extra_content"]
    )
    assert "extra_content" not in chat_messages([message], "openai")[0]["tool_calls"][0]
    assert "extra_content" not in response_items([message], "google")[0]


def test_a_messages_extras_go_back_over_the_api_they_came_over() -> None:
    details = [{"type": "reasoning.encrypted", "data": "xyz"}]
    message = assistant(content="hello", chat={"provider": "p", "reasoning_details": details})
    assert chat_messages([message], "p")[0]["reasoning_details"] == details
    assert "reasoning_details" not in chat_messages([message], "q")[0]
    assert response_items([message], "p") == [{"type": "message", "role": "assistant", "content": "hello"}]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_goes_back_only_with_calls_and_under_its_own_name(field: str) -> None:
    kept = {"provider": "p", "reasoning_field": field, "reasoning": "hmm"}
    with_calls, without = chat_messages(
        [assistant(CALL, chat=kept), ANSWER, assistant(content="a", chat=kept)], "p"
    )[::2]
    assert with_calls[field] == "hmm"
    assert field not in without
    assert "reasoning_field" not in with_calls


def test_a_message_that_says_and_calls_nothing_is_left_out() -> None:
    history = [USER, assistant(chat={"provider": "p"}), USER]
    assert [m["role"] for m in chat_messages(history, "p")] == ["user", "user"]
    assert len(response_items(history, "p")) == 2


def test_a_custom_tools_input_goes_back_as_text() -> None:
    call = CALL.model_copy(update={"arguments": '{"input": "SELECT 1"}', "extra": {"type": "custom"}})
    assert chat_messages([assistant(call)], None)[0]["tool_calls"] == [
        {"id": "theirs", "type": "custom", "custom": {"name": "weather", "input": "SELECT 1"}}
    ]
    assert response_items([assistant(call), ANSWER], None) == [
        {"type": "custom_tool_call", "call_id": "theirs", "name": "weather", "input": "SELECT 1"},
        {"type": "custom_tool_call_output", "call_id": "theirs", "output": "wet"},
    ]


def test_content_parts_are_translated_for_the_responses_api() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
        {"type": "file", "file": {"file_id": "f1"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    (item,) = response_items([ModelMessage(role="user", content=parts)], None)
    assert item["content"] == [
        {"type": "input_text", "text": "what is this?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
        {"type": "input_file", "file_id": "f1"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    assert chat_messages([ModelMessage(role="user", content=parts)], None)[0]["content"] == parts


def test_strict_is_said_where_the_default_is_another() -> None:
    tools = [ToolSchema("a", "d", {}, strict=True), ToolSchema("b", "d", {})]
    assert [tool["function"].get("strict") for tool in chat_tools(tools)] == [True, None]
    assert [tool["strict"] for tool in response_tools(tools)] == [True, False]


# ------------------------------------------------------------------------------------------------------- laws

texts = st.text(max_size=12)
any_texts = st.text(st.characters(exclude_categories=()), max_size=12)  # with halves of surrogate pairs


@st.composite
def histories(draw: st.DrawFn, texts: st.SearchStrategy[str] = texts) -> list[ModelMessage]:
    """Histories in which each call is answered, with ids of ours that differ from the provider's."""
    arguments = st.dictionaries(texts, st.integers() | texts, max_size=3).map(json.dumps) | texts
    messages: list[ModelMessage] = []
    for turn in range(draw(st.integers(0, 4))):
        role: Any = draw(st.sampled_from(["system", "developer", "user"]))
        messages.append(ModelMessage(role=role, content=draw(texts)))
        calls = [
            MessageCall(
                call_id=f"run:{turn}:{place}",
                provider_call_id=draw(st.sampled_from([None, f"call_{place}"])),
                name="weather",
                arguments=draw(arguments),
            )
            for place in range(draw(st.integers(0, 3)))
        ]
        messages.append(assistant(*calls, content=draw(texts)))
        messages += [
            ModelMessage(role="tool", call_id=call.call_id, content=draw(texts))
            for call in draw(st.permutations(calls))
        ]
    return messages


@given(histories(any_texts))
def test_what_is_sent_satisfies_a_strict_provider_and_can_be_written(history: list[ModelMessage]) -> None:
    sent = chat_messages(history, "p")
    check_history(sent)
    json.dumps(sent, ensure_ascii=False).encode()
    items = response_items(history, "p")
    check_items(items)
    json.dumps(items, ensure_ascii=False).encode()


@given(histories())
def test_chat_messages_read_back_are_the_same_messages(history: list[ModelMessage]) -> None:
    sent = chat_messages(history, None)
    again = model_messages(sent)
    assert chat_messages(again, None) == sent
    spoken = [m for m in history if m.content or m.calls or m.role != "assistant"]
    assert [(m.role, m.content, len(m.calls)) for m in again] == [
        (m.role, m.content, len(m.calls)) for m in spoken
    ]


@given(histories())
def test_both_apis_are_told_the_same(history: list[ModelMessage]) -> None:
    chat = chat_messages(history, None)
    items = response_items(history, None)
    said = [(m["role"], m["content"]) for m in chat if m["role"] != "tool" and m["content"] is not None]
    assert said == [(item["role"], item["content"]) for item in items if item["type"] == "message"]
    calls = [(c["id"], c["function"]["arguments"]) for m in chat for c in m.get("tool_calls", ())]
    assert calls == [
        (item["call_id"], item["arguments"]) for item in items if item["type"] == "function_call"
    ]
    answers = [(m["tool_call_id"], m["content"]) for m in chat if m["role"] == "tool"]
    assert answers == [
        (item["call_id"], item["output"]) for item in items if item["type"] == "function_call_output"
    ]
