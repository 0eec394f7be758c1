"""The numbered rules of the provider notes for Chat Completions, beyond the cases of the files."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from streamchat.core.accumulator import (
    CallDelta,
    ChatCompletionAccumulator,
    ContentDelta,
    ToolCallAccumulator,
)
from tests.core.provider_streams import body, call, calls, chat, chunk, read, sources

OSLO = '{"city":"Oslo"}'
ROME = '{"city":"Rome"}'
CITY = {"city": "Oslo"}


def one(*fragments: Any, **how: Any) -> tuple[Any, ...]:
    """The only call of these fragments."""
    found = calls(*fragments, **how)
    assert len(found) == 1, found
    return found[0]


# --------------------------------------------------------------------------------------- rules 1 and 2


@pytest.mark.parametrize("index", [0, "0", "3", 7, None, -1, "-1", 1.5, True, "x", [0], {}, "", "9" * 5000])
def test_an_index_of_any_kind_leaves_one_call_one_call(index: Any) -> None:
    entries = [{"index": index, "function": {"arguments": text}} for text in ('{"city":', '"Oslo"}')]
    entries[0]["function"]["name"] = "weather"
    assert one(*entries) == (None, "weather", CITY, None)


def test_a_large_index_makes_no_phantom_calls() -> None:
    assert calls(call(5, "b", "g", "{}"), call(2, "a", "f", "{}")) == [
        ("a", "f", {}, None),
        ("b", "g", {}, None),
    ]


def test_the_first_call_may_have_an_index_as_text_and_the_next_as_a_number() -> None:
    assert one(call("0", "a", "f", '{"x":'), call(0, None, None, "1}")) == ("a", "f", {"x": 1}, None)


@pytest.mark.parametrize("nothing", ["", None, "null", True, [], {}])
def test_what_is_no_id_is_replaced_by_a_made_one(nothing: Any) -> None:
    entry = {"index": 0, "id": nothing, "function": {"name": "f", "arguments": OSLO}}
    completion = chat(chunk({"tool_calls": [entry]}), chunk(finish="stop"))
    assert completion.choices[0].tool_calls[0].id == "call_0"


def test_made_ids_avoid_those_on_the_wire() -> None:
    completion = chat(
        chunk(
            {
                "tool_calls": [
                    call(0, None, "f", "{}"),
                    call(1, "call_0", "g", "{}"),
                    call(2, "call_0", "h", "{}"),
                ]
            }
        ),
        chunk(finish="stop"),
    )
    assert [one.id for one in completion.choices[0].tool_calls] == ["call_0_1", "call_0", "call_2"]


def test_a_number_as_id_is_its_text() -> None:
    accumulator = ToolCallAccumulator()
    accumulator.add([call(0, 12, "f", "{}")])
    assert accumulator.finish("tool_calls")[0].id == "12"


def test_the_second_of_two_calls_with_one_id_keeps_its_own_fragments() -> None:
    fragments = [call(0, "x", "f", '{"a":'), call(1, "x", "f", '{"b":'), call(0, "x", None, "1}")]
    assert calls(*fragments, call(1, "x", None, "2}"))[0] == ("x", "f", {"a": 1}, None)
    completion = chat(*(chunk({"tool_calls": [f]}) for f in [*fragments, call(1, "x", None, "2}")]))
    assert [c.arguments for c in completion.choices[0].tool_calls] == [{"a": 1}, {"b": 2}]
    assert len({c.id for c in completion.choices[0].tool_calls}) == 2


# ---------------------------------------------------------------------------------------------- rule 3


def test_one_index_for_all_calls_with_ids() -> None:
    found = calls(
        call(0, "a", "f", ""), call(0, None, None, OSLO), call(0, "b", "f", ""), call(0, None, None, ROME)
    )
    assert found == [("a", "f", CITY, None), ("b", "f", {"city": "Rome"}, None)]


def test_a_new_id_without_a_name_after_complete_arguments_is_a_new_call() -> None:
    found = calls(call(0, "a", "f", OSLO), call(0, "b"), call(0, None, "g"), call(0, None, None, "{}"))
    assert found == [("a", "f", CITY, None), ("b", "g", {}, None)]


def test_ids_that_change_with_every_fragment_stay_one_call() -> None:
    fragments = [
        call(0, f"id{n}", None, text) for n, text in enumerate(['{"ci', 'ty":"', "Oslo", '"}', ""], 2)
    ]
    assert one(call(0, "id1", "weather", ""), *fragments) == ("id1", "weather", CITY, None)


def test_one_index_for_all_calls_and_no_ids() -> None:
    found = calls(
        call(0, None, "f", OSLO),
        call(0, None, "f", ROME),
        call(0, None, "g", '{"a":'),
        call(0, None, None, "1}"),
    )
    assert [row[1:] for row in found] == [
        ("f", CITY, None),
        ("f", {"city": "Rome"}, None),
        ("g", {"a": 1}, None),
    ]


@pytest.mark.parametrize("name", ["f", "g"])
def test_one_index_no_ids_and_the_name_of_the_next_call_alone(name: str) -> None:
    found = calls(
        call(0, None, "f", OSLO),
        call(0, None, name, ""),
        call(0, None, None, '{"city"'),
        call(0, None, None, ':"Rome"}'),
    )
    assert [row[1:] for row in found] == [("f", CITY, None), (name, {"city": "Rome"}, None)]


def test_a_name_that_comes_again_after_the_arguments_is_no_call() -> None:
    assert one(call(0, "a", "f", OSLO), call(0, None, "f", "")) == ("a", "f", CITY, None)
    assert one(call(0, None, "f", OSLO), call(0, None, "f", "")) == (None, "f", CITY, None)


def test_the_same_arguments_under_another_name_are_another_call() -> None:
    found = calls(call(0, None, "read", OSLO), call(0, None, "write", OSLO))
    assert [row[1:] for row in found] == [("read", CITY, None), ("write", CITY, None)]


def test_a_chunk_sent_twice_without_ids_is_one_call() -> None:
    assert one(call(0, None, "f", OSLO), call(0, None, "f", OSLO)) == (None, "f", CITY, None)


def test_neither_index_nor_id() -> None:
    found = calls(
        call(None, None, "f", '{"city":'),
        call(None, None, None, '"Oslo"}'),
        call(None, None, "f", ""),
        call(None, None, None, ROME),
    )
    assert [row[1:] for row in found] == [("f", CITY, None), ("f", {"city": "Rome"}, None)]


def test_equal_whole_calls_without_index_and_id_are_two() -> None:
    assert len(calls(call(None, None, "roll", "{}"), call(None, None, "roll", "{}"))) == 2


def test_entries_of_one_chunk_without_index_and_id_go_by_position() -> None:
    found = calls(
        [call(None, None, "f", '{"a"'), call(None, None, "g", '{"b"')],
        [call(None, None, None, ":1}"), call(None, None, None, ":2}")],
    )
    assert [row[1:] for row in found] == [("f", {"a": 1}, None), ("g", {"b": 2}, None)]


def test_positions_are_those_of_the_last_such_chunk() -> None:
    found = calls(
        [call(None, "x", "f", "{}"), call(None, "y", "f", "{}")],
        [call(None, None, "g", '{"a"'), call(None, None, "h", '{"b"')],
        [call(None, None, None, ":1}"), call(None, None, None, ":2}")],
    )
    assert [row[1:3] for row in found] == [("f", {}), ("f", {}), ("g", {"a": 1}), ("h", {"b": 2})]


def test_ids_at_first_and_then_positions_only() -> None:
    found = calls(
        [call(None, "x", "f", '{"a"'), call(None, "y", "g", '{"b"')],
        [call(None, None, None, ":1}"), call(None, None, None, ":2}")],
    )
    assert found == [("x", "f", {"a": 1}, None), ("y", "g", {"b": 2}, None)]


def test_a_call_after_a_whole_one_may_come_beside_others() -> None:
    found = calls(call(None, None, "f", OSLO), [call(None, None, "g", '{"a"'), call(None, None, "h", "{}")])
    assert [row[1] for row in found] == ["f", "g", "h"]


def test_an_index_that_comes_later_belongs_to_the_call_with_the_id() -> None:
    assert one(call(None, "a", "f", '{"x"'), call(0, "a", None, ":1}")) == ("a", "f", {"x": 1}, None)
    assert one(call(None, "a", "f", '{"x"'), call(0, None, None, ":"), call(0, "a", None, "1}")) == (
        "a",
        "f",
        {"x": 1},
        None,
    )


def test_an_id_that_comes_late_without_index_names_the_newest_call() -> None:
    assert one(call(None, None, "f", ""), call(None, "late", None, OSLO)) == ("late", "f", CITY, None)


def test_calls_are_listed_by_index() -> None:
    assert [row[0] for row in calls(call(2, "c", "f"), call(0, "a", "f"), call(1, "b", "f"))] == [
        "a",
        "b",
        "c",
    ]


# --------------------------------------------------------------------------------------- rules 4 and 7


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["get_weather"] * 3, "get_weather"),
        (["get", "_wea", "ther"], "get_weather"),
        (["get_", "get_weather", "get_weather"], "get_weather"),
        (["", None, "get_weather", "", None], "get_weather"),
    ],
)
def test_a_name_in_any_pieces(names: list[str | None], name: str) -> None:
    fragments = [{"index": 0, "id": "a", "function": {"name": piece}} for piece in names]
    assert one(*fragments, call(0, None, None, OSLO)) == ("a", name, CITY, None)


def test_another_name_after_argument_text_is_ignored() -> None:
    assert one(call(0, "a", "get", '{"city"'), call(0, "a", "x", ':"Oslo"}')) == ("a", "get", CITY, None)


def test_a_call_that_never_gets_a_name() -> None:
    assert one(call(0, "a", None, OSLO)) == ("a", None, OSLO, "missing_name")


@pytest.mark.parametrize(
    "entry", [{}, {"index": 0}, {"index": 0, "type": "function", "function": {}}, {"id": ""}]
)
def test_padding_is_no_call(entry: dict[str, Any]) -> None:
    assert calls(entry) == []
    assert [row[0] for row in calls(entry, call(1, "a", "f"))] == ["a"]


@pytest.mark.parametrize("junk", [None, [], "x", 5, [None], ["x", 3], [[]], {"index": 0}])
def test_tool_calls_of_any_shape_do_not_break_the_others(junk: Any) -> None:
    completion = chat(
        chunk({"tool_calls": junk}),
        chunk({"tool_calls": [call(0, "a", "f", OSLO)]}),
        chunk(finish="tool_calls"),
    )
    assert [c.arguments for c in completion.choices[0].tool_calls] == [CITY]


# --------------------------------------------------------------------------------------- rules 5 and 6


@pytest.mark.parametrize(
    ("texts", "arguments"),
    [
        (['{"a":', "1}"], {"a": 1}),
        (['{"a":1}', '{"a":1}'], {"a": 1}),  # sent again
        (['"{\\"a\\":1}"', '"{\\"a\\":1}"'], {"a": 1}),
        (['{"a', '{"a":', '{"a":1}'], {"a": 1}),  # cumulative
        (['{"a', '{"a":', '{"a":', '{"a":1}', '{"a":1}'], {"a": 1}),
        (["{", '{"a":1}'], {"a": 1}),
        (["{}", "{", '"a":1}'], {"a": 1}),  # placeholder
        (["{}", "{}"], {}),
        ([{}, '{"a":1}'], {"a": 1}),
        ([{}, '{"a":', "1}"], {"a": 1}),
        (["{}", {"a": 1}], {"a": 1}),
        (['{"a":1}', {"a": 1}], {"a": 1}),
        ([{"a": 1}, {"a": 1}], {"a": 1}),
        ([{"a": "x"}, {"b": {"c": "y"}}, {"b": {"d": "z"}}], {"a": "x", "b": {"c": "y", "d": "z"}}),
        ([{"a": "Os"}, {"a": "lo"}], {"a": "Oslo"}),
        ([{"a": "Os"}, {"a": "Oslo"}], {"a": "Oslo"}),
        ([{"a": [1]}, {"a": [1, 2]}], {"a": [1, 2]}),
        (['{"node":', '{"node":', "1}}"], {"node": {"node": 1}}),  # equal, but not complete: text
        (['{"node":', '{"node":1}}'], {"node": {"node": 1}}),  # looks cumulative, is nested
        (['{"s":"', '{\\"s\\":1}', '"}'], {"s": '{"s":1}'}),  # JSON in a string
        (['{"s":"', "{}", '"}'], {"s": "{}"}),
        ([None, "", None], {}),
        ([" ", "\n"], {}),
        ([' {"a":1}\n'], {"a": 1}),
        (['"{}"'], {}),
    ],
)
def test_arguments_are_joined(texts: list[Any], arguments: dict[str, Any]) -> None:
    fragments = [{"index": 0, "function": {"arguments": text}} for text in texts]
    assert one(call(0, "a", "f"), *fragments) == ("a", "f", arguments, None)


@pytest.mark.parametrize(
    "raw",
    [
        "null",
        "1",
        "[]",
        '"x"',
        '"\\"{}\\""',
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        '{"a":1e999}',
        '{"a":1}{"a":1}',
        "{'a':1}",
        '{"a":1,}',
        '{"a":"\n"}',
        "[" * 100_000,
        '{"a":' * 300 + "1" + "}" * 300,
    ],
)
def test_what_is_not_an_object_is_invalid_and_kept_raw(raw: str) -> None:
    assert one(call(0, "a", "f", raw)) == ("a", "f", raw, "invalid_json")


@pytest.mark.parametrize("value", [5, 0, True, [1], []])
def test_values_that_are_no_arguments_are_named(value: Any) -> None:
    assert one({"index": 0, "id": "a", "function": {"name": "f", "arguments": value}}) == (
        "a",
        "f",
        json.dumps(value),
        "invalid_json",
    )


def test_integers_keep_their_digits() -> None:
    number = 123456789012345678901234567890
    assert one(call(0, "a", "f", f'{{"n":{number}}}')) == ("a", "f", {"n": number}, None)


def test_halves_of_a_character_are_joined_and_lone_ones_replaced() -> None:
    assert one(call(0, "a", "f", '{"s":"\ud83d'), call(0, None, None, '\ude00"}')) == (
        "a",
        "f",
        {"s": "😀"},
        None,
    )
    assert one(call(0, "a", "f", '{"s":"\ud83d'), call(0, None, None, '"}')) == (
        "a",
        "f",
        {"s": "\ufffd"},
        None,
    )
    assert one(call(0, "a", "f", '{"s":"\\ud83d"}')) == ("a", "f", {"s": "\ufffd"}, None)
    assert one(call(0, "a", "f", '{"s":"\ud83d')) == ("a", "f", '{"s":"\ufffd', "invalid_json")


# ----------------------------------------------------------------------------------- rules 8, 9 and 10


@pytest.mark.parametrize(
    ("reasons", "kept"),
    [
        (["stop", "tool_calls"], "tool_calls"),
        (["tool_calls", "stop"], "tool_calls"),
        (["stop", "length"], "length"),
        (["length", "tool_calls", "stop"], "length"),
        (["length", "content_filter"], "content_filter"),
        (["content_filter", "error"], "error"),
        (["function_call", "stop"], "function_call"),
        (["eos", "stop"], "eos"),
        (["", "stop", ""], "stop"),
    ],
)
def test_the_gravest_finish_reason_stays(reasons: list[str], kept: str) -> None:
    completion = chat(chunk({"content": "x"}), *(chunk(finish=reason) for reason in reasons))
    assert (completion.choices[0].finish_reason, completion.error) == (kept, None)


@pytest.mark.parametrize("reason", ["length", "content_filter", "error"])
def test_arguments_that_were_cut_off_are_truncated_and_whole_ones_are_good(reason: str) -> None:
    found = calls(call(0, "a", "f", OSLO), call(1, "b", "g", '{"ci'), call(2, "c", "h", ""), finish=reason)
    assert found == [("a", "f", CITY, None), ("b", "g", '{"ci', "truncated"), ("c", "h", "", "truncated")]


def test_done_without_a_finish_reason_is_an_end() -> None:
    completion = chat(chunk({"tool_calls": [call(0, "a", "f")]}))
    assert (completion.error, completion.choices[0].tool_calls[0].arguments) == (None, {})


@pytest.mark.parametrize("raw", ['{"ci', ""])
def test_a_connection_that_ends_without_either_is_incomplete(raw: str) -> None:
    completion = chat(chunk({"tool_calls": [call(0, "a", "f", raw)]}), done=False)
    assert completion.error == "incomplete_stream"
    assert completion.choices[0].tool_calls[0].problem == "truncated"


def test_every_choice_must_have_finished() -> None:
    chunks = [chunk({"content": "a"}, "stop"), chunk({"content": "b"}, index=1)]
    assert chat(*chunks, done=False).error == "incomplete_stream"
    assert chat(*chunks, chunk(finish="stop", index=1), done=False).error is None


def test_no_stream_at_all_is_incomplete() -> None:
    assert read([b""])[0].error == "incomplete_stream"
    assert read([b"<html>Bad Gateway</html>\n"])[0].error == "incomplete_stream"


# ------------------------------------------------------------------------------------- rule 11, errors

ERRORS = [
    b'data: {"error": {"message": "boom"}}\n\n',
    b'data: {"error": "boom"}\n\n',
    b'event: error\ndata: {"message": "boom"}\n\n',
    b'event: error\ndata: {"error": {"message": "boom"}}\n\n',
    b"event: error\ndata: boom\n\n",
    b'error: {"message": "boom"}\n\n',
    b"error: boom\n\n",
    b'data: {"object": "error", "message": "boom", "code": 400}\n\n',
    b'data: {"type": "error", "error": {"message": "boom"}}\n\n',
    b'data: [{"error": {"message": "boom"}}]\n\n',
    b'data: {"error": {"message": "boom"}, "choices": [{"index": 0, "delta": {"content": ""}}]}\n\n',
    b'data: {"choices": [{"index": 0, "delta": {}, "error": {"message": "boom"}}]}\n\n',
    b"data: boom\n\n",
    b'data: {"choices": boom\n\n',
]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_the_stream_keeps_what_came_before_and_its_own_words(error: bytes) -> None:
    before = body([chunk({"content": "a"})], done=False)
    after = body([chunk({"content": "b"}), {"choices": [], "usage": {"total_tokens": 3}}])
    completion, deltas = read([before, error, after])
    assert completion.error == "stream_error"
    assert "boom" in str(completion.error_detail)
    assert completion.choices[0].text == "a"
    assert completion.usage == {"total_tokens": 3}
    assert deltas == [ContentDelta("text", 0, "a", 0)]


@pytest.mark.parametrize("harmless", [{"error": None}, {"error": ""}, {"error": {}}, {}, [], None, 3, "x"])
def test_data_without_an_error_in_it_is_harmless(harmless: Any) -> None:
    completion = chat(chunk({"content": "a"}), harmless, chunk(finish="stop"))
    assert (completion.error, completion.choices[0].text) == (None, "a")


def test_a_body_that_is_no_stream_is_read_as_a_whole() -> None:
    message = {"role": "assistant", "content": "Hi", "tool_calls": [call(None, "a", "f", OSLO)]}
    answer = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message}],
        "usage": {"total_tokens": 1},
    }
    for text in (json.dumps(answer), "\ufeff\n" + json.dumps(answer, indent=1)):
        completion, _ = read([text[:9].encode(), text[9:].encode()])
        assert (completion.error, completion.choices[0].text) == (None, "Hi")
        assert completion.choices[0].tool_calls[0].arguments == CITY
        assert completion.usage == {"total_tokens": 1}
    assert read([b'{"error": {"message": "no such model"}}'])[0].error == "stream_error"
    assert read([b'[{"error": {"message": "no such model"}}]'])[0].error == "stream_error"
    assert read([b'{"choices": ['])[0].error == "stream_error"


def test_a_last_frame_without_its_blank_line_counts_if_it_is_whole() -> None:
    start, end = (
        body([chunk({"content": "a"})], done=False),
        b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}',
    )
    assert read([start, end])[0].error is None
    assert read([start, b"data: [DONE]"])[0].error is None
    assert read([start, end[:-3]])[0].error == "incomplete_stream"


# --------------------------------------------------------------------------------------------- content


def test_parts_follow_each_other_as_the_kinds_do() -> None:
    deltas: list[dict[str, Any]] = [
        {"reasoning_content": "r1"},
        {"content": "t1"},
        {"content": "t2"},
        {"refusal": "no"},
        {"tool_calls": [call(0, "a", "f", "{")]},
        {"content": "t3"},
        {"tool_calls": [call(0, None, None, "}")]},
        {"tool_calls": [call(1, "b", "g", "{}")]},
        {"reasoning": "r2"},
    ]
    choice = chat(*(chunk(delta) for delta in deltas)).choices[0]
    assert [(part.kind, part.text) for part in choice.parts] == [
        ("reasoning", "r1"),
        ("text", "t1t2"),
        ("refusal", "no"),
        ("tool_call", "{}"),
        ("text", "t3"),
        ("tool_call", "{}"),
        ("reasoning", "r2"),
    ]
    assert [part.part for part in choice.parts] == list(range(7))
    assert (choice.text, choice.reasoning, choice.refusal) == ("t1t2t3", "r1r2", "no")


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "abc"},
        {"reasoning": "abc"},
        {"reasoning": "abc", "reasoning_content": "abc"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "abc"}]},
        {
            "reasoning_details": [
                {"type": "reasoning.summary", "summary": "abc"},
                {"type": "reasoning.encrypted"},
            ]
        },
        {"reasoning": "abc", "reasoning_details": [{"type": "reasoning.text", "text": "abc"}]},
        {"reasoning_content": "", "reasoning": None, "reasoning_details": [{"text": "abc"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "abc"}]}]},
        {"content": [{"type": "thinking", "thinking": "abc"}], "reasoning_content": "abc"},
        {"content": {"type": "thinking", "thinking": "abc"}},
    ],
)
def test_reasoning_is_read_from_one_source(delta: dict[str, Any]) -> None:
    choice = chat(chunk(delta), chunk({"content": "Hi"}, "stop")).choices[0]
    assert (choice.reasoning, choice.text) == ("abc", "Hi")


@pytest.mark.parametrize(
    "content",
    [
        "Hi",
        [{"type": "text", "text": "Hi"}],
        ["H", {"type": "output_text", "text": "i"}],
        [{"text": "Hi"}],
        [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}, None, 3],
    ],
)
def test_content_in_any_form_is_text(content: Any) -> None:
    assert chat(chunk({"content": content}, "stop")).choices[0].text == "Hi"


def test_a_character_split_over_deltas_is_shown_whole() -> None:
    _, deltas = read(
        [body([chunk({"content": text}) for text in ("a\ud83d", "\ude00b", "\ud83d", "c\ud83d")])]
    )
    assert [delta.text for delta in deltas if isinstance(delta, ContentDelta)] == ["a", "😀b", "\ufffdc"]
    choice = chat(*(chunk({"content": text}) for text in ("a", "\ud83d"))).choices[0]
    assert (choice.text, choice.replaced) == ("a\ufffd", frozenset({0}))


def test_half_a_character_does_not_wait_for_another_kind() -> None:
    choice = chat(
        chunk({"content": "\ud83d"}), chunk({"reasoning": "\ude00"}), chunk({"content": "b"})
    ).choices[0]
    assert (choice.text, choice.reasoning) == ("\ufffdb", "\ufffd")


def test_a_message_beside_or_after_the_deltas_is_not_said_twice() -> None:
    message = {"role": "assistant", "content": "Hi there", "tool_calls": [call(None, None, "f", OSLO)]}
    chunks = [chunk({"content": "Hi"}), chunk({"tool_calls": [call(0, "a", "f", OSLO)]})]
    last = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    choice = chat(*chunks, last).choices[0]
    assert (choice.text, len(choice.tool_calls)) == ("Hi there", 1)


def test_messages_in_place_of_deltas() -> None:
    def message(text: str) -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"content": text}}]}

    assert chat(message("Hel"), message("lo")).choices[0].text == "Hello"
    assert chat(message("Hel"), message("Hello"), message("Hello")).choices[0].text == "Hello"
    empty = message("Hello")
    empty["choices"][0]["delta"] = {}
    assert chat(empty).choices[0].text == "Hello"
    assert chat(chunk({"content": "Hi"}), empty).choices[0].text == "Hi"


def test_sources_are_told_once() -> None:
    note = {"type": "url_citation", "url_citation": {"url": "https://example.org", "title": "t"}}
    chunks = [
        chunk({"content": "a"}),
        chunk({"annotations": [note]}),
        chunk({"content": "b", "annotations": [note]}),
    ]
    completion, deltas = read([body(chunks)])
    assert sources(deltas) == [note]
    assert completion.choices[0].text == "ab"
    assert [part.kind for part in completion.choices[0].parts] == ["text", "source"]


def test_choices_are_kept_apart() -> None:
    chunks = [chunk({"content": "a"}), chunk({"content": "x"}, index=1), chunk({"content": "b"}, "stop")]
    completion, deltas = read([body([*chunks, chunk(finish="length", index=1)])])
    assert [(c.index, c.text, c.finish_reason) for c in completion.choices] == [
        (0, "ab", "stop"),
        (1, "x", "length"),
    ]
    assert [delta.choice for delta in deltas] == [0, 1, 0]


def test_the_last_usage_that_says_something_wins() -> None:
    usages = [{"total_tokens": 1}, {"total_tokens": 7}, None, {}]
    assert chat(*({"choices": [], "usage": usage} for usage in usages)).usage == {"total_tokens": 7}
    in_choice = {"choices": [{"index": 0, "delta": {}, "usage": {"total_tokens": 2}}]}
    assert chat(in_choice).usage == {"total_tokens": 2}
    assert chat({"choices": [], "x_groq": {"usage": {"total_tokens": 3}}}).usage == {"total_tokens": 3}


# ---------------------------------------------------------------------------------------------- extras


def test_what_the_provider_wants_back_with_a_call_is_kept() -> None:
    signature = {"google": {"thought_signature": "c2ln"}}
    entry = call(0, "a", "f", "", type="builtin_function", extra_content=signature, status=None)
    entry["function"]["thoughts"] = "x"
    later = {"index": 0, "extra_content": {"google": {"more": 1}}}
    completion = chat(chunk({"tool_calls": [entry]}), chunk({"tool_calls": [later]}))
    assert completion.choices[0].tool_calls[0].extra == {
        "type": "builtin_function",
        "extra_content": {"google": {"thought_signature": "c2ln", "more": 1}},
        "function": {"thoughts": "x"},
    }


def test_what_the_provider_wants_back_with_the_message_is_kept() -> None:
    details = [
        [{"type": "reasoning.text", "index": 0, "text": "a"}],
        [{"type": "reasoning.text", "index": 0, "text": "b"}],
        [
            {"type": "reasoning.text", "index": 0, "signature": "s"},
            {"type": "reasoning.encrypted", "data": "x"},
        ],
        [{"type": "reasoning.encrypted", "data": "y"}],
    ]
    completion = chat(
        *(chunk({"reasoning": "r", "reasoning_details": d}) for d in details), chunk({"content": "t"})
    )
    assert completion.extras == completion.choices[0].extras
    assert completion.extras == {
        "reasoning_field": "reasoning",
        "reasoning_details": [
            {"type": "reasoning.text", "index": 0, "text": "ab", "signature": "s"},
            {"type": "reasoning.encrypted", "data": "x"},
            {"type": "reasoning.encrypted", "data": "y"},
        ],
    }


def test_a_custom_tool_has_its_text_as_input() -> None:
    first = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": "SELECT"}}
    entries = [first, *({"index": 0, "custom": {"input": text}} for text in (" 1", " 1"))]
    completion = chat(*(chunk({"tool_calls": [entry]}) for entry in entries))
    found = completion.choices[0].tool_calls[0]
    assert (found.name, found.arguments, found.arguments_json) == (
        "sql",
        {"input": "SELECT 1 1"},
        "SELECT 1 1",
    )
    assert found.extra == {"type": "custom"}


# ----------------------------------------------------------------------------------------- the classes


def test_objects_of_the_sdk_are_taken_as_well() -> None:
    chunks = [
        chunk({"tool_calls": [call(0, "a", "f", '{"city"')]}),
        chunk({"tool_calls": [call(0, None, None, ':"Oslo"}')]}),
    ]
    parsed = [ChatCompletionChunk.model_validate({**c, "created": 1}) for c in chunks]
    accumulator = ToolCallAccumulator()
    deltas = [d for c in parsed for d in accumulator.add(c.choices[0].delta.tool_calls)]
    assert [d.arguments for d in deltas] == ['{"city"', ':"Oslo"}']
    assert accumulator.finish("tool_calls")[0].arguments == CITY
    whole = ChatCompletionAccumulator()
    for one_chunk in parsed:
        whole.add(one_chunk)  # type: ignore[arg-type]
    assert whole.finish().choices[0].tool_calls[0].arguments == CITY
    plain = SimpleNamespace(index=0, id="a", function=SimpleNamespace(name="f", arguments=OSLO))
    accumulator = ToolCallAccumulator()
    accumulator.add([plain])
    assert accumulator.finish(None)[0].arguments == CITY


def test_call_deltas_say_what_became_known() -> None:
    accumulator = ToolCallAccumulator(choice=2)
    assert accumulator.add([{"index": 0, "function": {}}]) == []
    assert accumulator.add([call(4, None, "get_")]) == [CallDelta(0, 0, None, "get_", "", 2)]
    assert accumulator.add([call(4, None, "get_x")]) == [CallDelta(0, 0, None, "get_x", "", 2)]
    assert accumulator.add([call(4, "a", "get_x", "{}")]) == [CallDelta(0, 0, "a", None, "{}", 2)]
    assert accumulator.add([call(4, "a", "get_x", "{}")]) == []
    assert (
        accumulator.add([call(4, None, None, '{"b":1}')]) == []
    )  # `{}` was a placeholder: no pure extension
    assert accumulator.add(None) == []
    assert accumulator.finish("tool_calls")[0].arguments == {"b": 1}


def test_cumulative_arguments_are_shown_as_they_grow() -> None:
    accumulator = ToolCallAccumulator()
    shown = [
        d.arguments for t in ('{"a"', '{"a":1', '{"a":1}') for d in accumulator.add([call(0, "x", "f", t)])
    ]
    assert shown == ['{"a"', ":1", "}"]


def test_a_model_layer_sees_the_state_while_the_stream_goes_on() -> None:
    accumulator = ChatCompletionAccumulator()
    assert (accumulator.response_id, accumulator.model, accumulator.finish_reason) == (None, None, None)
    accumulator.add({"id": "", "model": "", "choices": []})
    accumulator.add(chunk({"content": "a"}))
    assert (accumulator.response_id, accumulator.model, accumulator.ended) == ("c1", "m", False)
    accumulator.add(chunk(finish="stop"))
    assert (accumulator.finish_reason, accumulator.ended, accumulator.done) == ("stop", True, False)
    accumulator.mark_done()
    assert accumulator.done
    assert accumulator.add(chunk({"content": "late"})) == []
    assert accumulator.finish().choices[0].text == "a"
