"""The Responses API beyond the cases of the file: what overrides what, and which item an event means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamchat.core.accumulator import CallDelta, Completion, ContentDelta, Delta, ResponsesAccumulator
from tests.core.provider_streams import event_frame, read, sources

OSLO = '{"city":"Oslo"}'
CITY = {"city": "Oslo"}


def event(type: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{type}", **fields}


def added(index: int | None = 0, call_id: str | None = "a", **fields: Any) -> dict[str, Any]:
    item = {"type": "function_call", "id": f"fc_{index}", "call_id": call_id, "name": "weather", **fields}
    return event("output_item.added", item=item, **({} if index is None else {"output_index": index}))


def arguments(delta: str, index: int | None = 0, **fields: Any) -> dict[str, Any]:
    where = {} if index is None else {"output_index": index}
    return event("function_call_arguments.delta", delta=delta, **where, **fields)


def completed(*output: dict[str, Any], status: str = "completed", **fields: Any) -> dict[str, Any]:
    return event(
        status, response={"id": "r1", "model": "m", "status": status, "output": list(output), **fields}
    )


def respond(*events: dict[str, Any], end: bool = True) -> tuple[Completion, list[Delta]]:
    tail = [completed()] if end else []
    return read([b"".join(map(event_frame, [*events, *tail]))], "responses")


def found(completion: Completion) -> list[tuple[Any, ...]]:
    return [
        (one.id, one.name, one.arguments_json if one.problem else one.arguments, one.problem)
        for one in completion.choices[0].tool_calls
    ]


# ----------------------------------------------------------------------------------------------- calls


@pytest.mark.parametrize(
    ("initial", "deltas"),
    [
        ("", [OSLO]),
        (OSLO, []),
        (OSLO, [OSLO]),
        (OSLO, ['{"city":', '"Oslo"}']),
        ('{"ci', ['ty":"Oslo"}']),
        ('{"ci', ['{"', 'city":"Oslo"}']),
        ("{}", [OSLO]),
        ("{}", ["{", '"city":"Oslo"}']),
        ("{", [OSLO]),
    ],
)
def test_input_in_the_announcement_is_not_doubled_by_the_deltas(initial: str, deltas: list[str]) -> None:
    completion, _ = respond(added(arguments=initial), *map(arguments, deltas))
    assert found(completion) == [("a", "weather", CITY, None)]


def test_calls_known_from_deltas_alone_get_their_name_from_the_end() -> None:
    done = event("function_call_arguments.done", output_index=0, name="weather", arguments=OSLO)
    completion, deltas = respond(arguments('{"ci'), arguments('ty":"Oslo"}'), done)
    assert [one.name for one in completion.choices[0].tool_calls] == ["weather"]
    assert deltas[-1] == CallDelta(0, 0, None, "weather", "", 0)


def test_an_item_id_stands_in_for_a_missing_call_id() -> None:
    completion, _ = respond(added(call_id=None), arguments(OSLO))
    assert found(completion) == [("fc_0", "weather", CITY, None)]
    assert completion.extras["output"][0]["call_id"] == "fc_0"


def test_two_calls_with_one_call_id_get_ids_of_their_own() -> None:
    completion, _ = respond(added(0), arguments(OSLO, 0), added(1), arguments("{}", 1))
    ids = [one.id for one in completion.choices[0].tool_calls]
    assert (ids[0], len(set(ids))) == ("a", 2)
    assert [item["call_id"] for item in completion.extras["output"]] == ids


def test_an_output_index_that_serves_for_all_items() -> None:
    completion, _ = respond(
        event("output_text.delta", output_index=0, content_index=0, delta="Hi"),
        added(0, "a", id="x"),
        added(0, "b", id="y"),
        arguments('{"n":', item_id="x"),
        arguments('{"n":', item_id="y"),
        arguments("1}", item_id="x"),
        arguments("2}", item_id="y"),
    )
    assert found(completion) == [("a", "weather", {"n": 1}, None), ("b", "weather", {"n": 2}, None)]
    assert completion.choices[0].text == "Hi"


def test_one_item_id_for_all_items() -> None:
    completion, _ = respond(
        added(0, "a", id="x"),
        added(1, "b", id="x"),
        arguments('{"n":', 0, item_id="x"),
        arguments('{"n":', 1, item_id="x"),
        arguments("1}", 0, item_id="x"),
        arguments("2}", 1, item_id="x"),
    )
    assert found(completion) == [("a", "weather", {"n": 1}, None), ("b", "weather", {"n": 2}, None)]


def test_item_ids_that_change_with_every_event_where_there_is_no_index() -> None:
    completion, _ = respond(
        added(None, "a", id="x1"),
        arguments('{"city":', None, item_id="x2"),
        arguments('"Oslo"}', None, item_id="x3"),
        added(None, "b", id="y1"),
        arguments("{}", None, item_id="y2"),
        event("function_call_arguments.done", item_id="y3", arguments="{}"),
    )
    assert found(completion) == [("a", "weather", CITY, None), ("b", "weather", {}, None)]


def test_item_ids_without_an_index_keep_calls_apart() -> None:
    completion, _ = respond(
        added(None, "a", id="x"),
        arguments('{"n":', None, item_id="x"),
        arguments('{"n":', None, item_id="y"),  # never announced
        arguments("1}", None, item_id="x"),
        arguments("2}", None, item_id="y"),
        added(None, "c", id="z"),
        arguments("{}", None, item_id="z"),
    )
    assert [row[2] for row in found(completion)] == [{"n": 1}, '{"n":2}', {}]  # it has no name


def test_without_index_and_id_the_newest_call_is_meant() -> None:
    completion, _ = respond(
        added(None, "a"), arguments("{}", None), added(None, "b", id="z"), arguments(OSLO, None)
    )
    assert [row[2] for row in found(completion)] == [{}, CITY]


def test_calls_are_listed_by_output_index() -> None:
    completion, _ = respond(added(2, "late"), added(1, "early"))
    assert [row[0] for row in found(completion)] == ["early", "late"]


def test_the_final_output_overrides_and_adds_and_takes_nothing_away() -> None:
    final: list[dict[str, Any]] = [
        {"type": "reasoning", "id": "rs", "encrypted_content": "secret", "summary": []},
        {"type": "function_call", "id": "other", "call_id": "b", "name": "clock", "arguments": '{"tz":1}'},
    ]
    completion, _ = respond(added(3, "a"), arguments(OSLO, 3), added(4, "b"), completed(*final), end=False)
    assert [row[0] for row in found(completion)] == ["a", "b"]
    assert found(completion)[1] == ("b", "clock", {"tz": 1}, None)
    output = completion.extras["output"]
    assert [item["type"] for item in output] == ["reasoning", "function_call", "function_call"]
    assert output[0]["encrypted_content"] == "secret"


@pytest.mark.parametrize("raw", ["", None])
def test_an_empty_final_word_does_not_take_back_what_was_streamed(raw: str | None) -> None:
    done = event("function_call_arguments.done", output_index=0, arguments=raw)
    item = {
        "type": "function_call",
        "call_id": "a",
        "name": "weather",
        "arguments": raw,
        "status": "completed",
    }
    completion, _ = respond(
        added(), arguments(OSLO), done, event("output_item.done", output_index=0, item=item)
    )
    assert found(completion) == [("a", "weather", CITY, None)]


def test_a_custom_tool_has_its_text_as_input() -> None:
    item = {"type": "custom_tool_call", "id": "c", "call_id": "a", "name": "sql", "input": ""}
    completion, deltas = respond(
        event("output_item.added", output_index=0, item=item),
        *(event("custom_tool_call_input.delta", output_index=0, delta=text) for text in ("1", "1", "{}")),
        event("custom_tool_call_input.done", output_index=0, input="11{}"),
    )
    assert found(completion) == [("a", "sql", {"input": "11{}"}, None)]
    assert [delta.arguments for delta in deltas if isinstance(delta, CallDelta)] == ["", "1", "1", "{}"]
    assert completion.extras["output"][0]["input"] == "11{}"


@pytest.mark.parametrize("type", ["mcp_call", "web_search_call", "file_search_call", "code_interpreter_call"])
def test_what_the_provider_runs_is_no_call_of_ours(type: str) -> None:
    item = {"type": type, "id": "p", "name": "x", "arguments": "{}", "status": "completed"}
    completion, deltas = respond(
        event("output_item.added", output_index=0, item={**item, "status": "in_progress"}),
        event(f"{type}_arguments.delta", output_index=0, item_id="p", delta="{}"),
        event("output_item.done", output_index=0, item=item),
    )
    assert (found(completion), deltas) == ([], [])
    assert [(one.part, one.item) for one in completion.provider_items] == [(0, item)]
    assert completion.extras["output"] == [item]


# ----------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    "events",
    [
        [event("output_text.done", output_index=0, content_index=0, text="Hello")],
        [
            event(
                "content_part.done",
                output_index=0,
                content_index=0,
                part={"type": "output_text", "text": "Hello"},
            )
        ],
        [
            event(
                "output_item.done",
                output_index=0,
                item={"type": "message", "content": [{"type": "output_text", "text": "Hello"}]},
            )
        ],
        [completed({"type": "message", "content": [{"type": "output_text", "text": "Hello"}]})],
    ],
)
@pytest.mark.parametrize("before", ["", "Hel", "Hello", "Hallo"])
def test_the_final_text_counts_and_its_new_end_is_shown(events: list[dict[str, Any]], before: str) -> None:
    start = event("output_text.delta", output_index=0, content_index=0, delta=before)
    completion, deltas = respond(start, *events)
    choice = completion.choices[0]
    assert choice.text == "Hello"
    assert choice.replaced == (frozenset({0}) if before == "Hallo" else frozenset())
    shown = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
    assert shown == ("Hallo" if before == "Hallo" else "Hello")


def test_each_content_of_each_item_is_a_part() -> None:
    completion, _ = respond(
        event("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="s0"),
        event("reasoning_summary_text.delta", output_index=0, summary_index=1, delta="s1"),
        event("reasoning_text.delta", output_index=0, content_index=0, delta="r"),
        event("output_text.delta", output_index=1, content_index=0, delta="t0"),
        event("refusal.delta", output_index=1, content_index=1, delta="no"),
        event("output_text.delta", output_index=2, content_index=0, delta="t1"),
    )
    choice = completion.choices[0]
    assert [tuple(part) for part in choice.parts] == [
        (0, "reasoning", "s0"),
        (1, "reasoning", "s1"),
        (2, "reasoning", "r"),
        (3, "text", "t0"),
        (4, "refusal", "no"),
        (5, "text", "t1"),
    ]
    assert (choice.text, choice.reasoning, choice.refusal) == ("t0t1", "s0s1r", "no")


def test_a_character_split_over_deltas_is_shown_whole() -> None:
    texts = ("a\ud83d", "\ude00", "\ud83d", "b\ud83d")
    completion, deltas = respond(*(event("output_text.delta", output_index=0, delta=text) for text in texts))
    assert [delta.text for delta in deltas if isinstance(delta, ContentDelta)] == ["a", "😀", "\ufffdb"]
    assert completion.choices[0].text == "a😀\ufffdb\ufffd"


def test_sources_are_told_once() -> None:
    note = {"type": "url_citation", "url": "https://example.org", "start_index": 0, "end_index": 2}
    part = {"type": "output_text", "text": "Hi", "annotations": [note]}
    completion, deltas = respond(
        event("output_text.delta", output_index=0, content_index=0, delta="Hi"),
        event("output_text.annotation.added", output_index=0, content_index=0, annotation=note),
        event("content_part.done", output_index=0, content_index=0, part=part),
        event("output_item.done", output_index=0, item={"type": "message", "content": [part]}),
    )
    assert sources(deltas) == [note]
    assert completion.choices[0].text == "Hi"


def test_an_event_without_a_type_in_its_data_has_it_from_the_frame() -> None:
    frame = b'event: response.output_text.delta\ndata: {"output_index": 0, "delta": "Hi"}\n\n'
    assert read([frame], "responses")[0].choices[0].text == "Hi"


# -------------------------------------------------------------------------------------- status and end


@pytest.mark.parametrize(
    ("end", "status", "finish", "error"),
    [
        (completed(), "completed", "stop", None),
        (
            completed(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "incomplete",
            "length",
            None,
        ),
        (
            completed(status="incomplete", incomplete_details={"reason": "content_filter"}),
            "incomplete",
            "content_filter",
            None,
        ),
        (
            completed(status="failed", error={"code": "server_error", "message": "boom"}),
            "failed",
            "error",
            "stream_error",
        ),
        (completed(status="cancelled"), "cancelled", "cancelled", None),
        (event("completed"), "completed", "stop", None),
        (event("done", response={"status": "completed"}), "completed", "stop", None),
    ],
)
def test_the_status_of_the_end_and_its_finish_reason(
    end: dict[str, Any], status: str, finish: str, error: str | None
) -> None:
    text = event("output_text.delta", output_index=0, delta="Hi")
    completion, _ = respond(text, end, end=False)
    choice = completion.choices[0]
    assert (completion.status, choice.finish_reason, completion.error, choice.text) == (
        status,
        finish,
        error,
        "Hi",
    )


@pytest.mark.parametrize(
    "error",
    [
        {"type": "error", "code": "rate_limit", "message": "boom"},
        {"type": "error", "error": {"message": "boom"}},
        {"type": "response.error", "error": {"message": "boom"}},
        {"error": {"message": "boom"}},
    ],
)
def test_an_error_keeps_what_came_before_and_its_own_words(error: dict[str, Any]) -> None:
    text = event("output_text.delta", output_index=0, delta="Hi")
    stream = [event_frame(text), f"data: {json.dumps(error)}\n\n".encode(), event_frame(text)]
    completion, _ = read(
        [*stream, event_frame(completed(status="failed", usage={"total_tokens": 2}))], "responses"
    )
    assert (completion.error, completion.status, completion.choices[0].text) == (
        "stream_error",
        "failed",
        "Hi",
    )
    assert "boom" in str(completion.error_detail)
    assert completion.usage == {"total_tokens": 2}


def test_a_connection_that_ends_before_the_final_event_is_incomplete() -> None:
    completion, _ = respond(added(), arguments('{"ci'), end=False)
    assert (completion.error, completion.status) == ("incomplete_stream", None)
    assert found(completion) == [("a", "weather", '{"ci', "truncated")]


def test_a_call_without_input_that_was_declared_whole_is_good_even_if_the_rest_was_cut_off() -> None:
    item = {"type": "function_call", "call_id": "a", "name": "now", "arguments": "", "status": "completed"}
    completion, _ = respond(
        event("output_item.done", output_index=0, item=item),
        added(1, "b"),
        completed(status="incomplete"),
        end=False,
    )
    assert found(completion) == [("a", "now", {}, None), ("b", "weather", "", "truncated")]


def test_a_body_that_is_no_stream_is_the_response() -> None:
    message = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    answer = {
        "id": "r1",
        "object": "response",
        "status": "completed",
        "model": "m",
        "error": None,
        "output": [message],
    }
    completion, _ = read([json.dumps(answer).encode()], "responses")
    assert (completion.status, completion.error, completion.choices[0].text) == ("completed", None, "Hi")
    assert (completion.response_id, completion.model) == ("r1", "m")


def test_a_model_layer_sees_the_state_while_the_stream_goes_on() -> None:
    accumulator = ResponsesAccumulator()
    accumulator.add(event("created", response={"id": "r1", "model": "m"}))
    assert (accumulator.response_id, accumulator.model, accumulator.ended) == ("r1", "m", False)
    accumulator.add(added())
    accumulator.add(completed(usage={"total_tokens": 1}))
    assert (accumulator.ended, accumulator.finish_reason, accumulator.status) == (
        True,
        "tool_calls",
        "completed",
    )
    assert accumulator.usage == {"total_tokens": 1}
    accumulator.mark_done()
    assert accumulator.add(event("output_text.delta", output_index=0, delta="late")) == []


def test_a_message_known_from_deltas_alone_is_sent_back_as_an_item() -> None:
    completion, _ = respond(
        event("output_text.delta", output_index=0, content_index=0, delta="Hi"), added(1), arguments(OSLO, 1)
    )
    assert completion.extras["output"] == [
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
        },
        {"type": "function_call", "call_id": "a", "name": "weather", "arguments": OSLO},
    ]
