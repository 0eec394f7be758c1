"""Every case of the provider notes, through bytes, decoder and accumulator."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.core.accumulator import Completion, CompletionReader
from streamchat.testing import accumulate_sse
from tests.core.provider_streams import RECORDED, body_of, cases, cut, read

QUIRKS = [*cases("quirks_chat.jsonl"), *cases("quirks_responses.jsonl")]
RECORDED_FILES = ["recorded_chat.jsonl.gz", "recorded_responses.jsonl.gz"]


def differences(case: dict[str, Any], completion: Completion, api: str) -> list[str]:
    """What differs from what the case expects; a recorded one knows no error."""
    expect = case["expect"]
    wanted = (expect.get("choices") or case.get("expect_choices") or [expect]) if api == "chat" else [expect]
    if not completion.choices and not any(expect.get(field) for field in ("text", "tool_calls")):
        wanted = []
    found = []
    if len(completion.choices) != len(wanted):
        return [f"{len(completion.choices)} choices"]
    for choice, want in zip(completion.choices, wanted, strict=True):
        fields = ("text", "reasoning", "refusal", *(["finish_reason"] if api == "chat" else []))
        found += [field for field in fields if (getattr(choice, field) or None) != (want.get(field) or None)]
        if len(choice.tool_calls) != len(want["tool_calls"]):
            found.append("number of calls")
            continue
        for one, call in zip(choice.tool_calls, want["tool_calls"], strict=True):
            arguments = one.arguments
            if one.problem:
                arguments = one.arguments_json  # type: ignore[assignment]
            raw = call.get("arguments_raw", call["arguments"]) if call.get("problem") else call["arguments"]
            got = (one.id if call["id"] else None, one.name, one.problem, arguments)
            if got != (call["id"], call["name"], call.get("problem"), raw):
                found.append(f"call {got}")
            if call.get("extra", one.extra) != one.extra:
                found.append(f"extra {one.extra}")
    if api == "responses" and completion.status != expect["status"]:
        found.append(f"status {completion.status}")
    if "source" not in case and completion.error != expect["error"]:
        found.append(f"error {completion.error}")
    if expect.get("usage") is not None and completion.usage != expect["usage"]:
        found.append(f"usage {completion.usage}")
    return found


@pytest.mark.parametrize("case", QUIRKS, ids=[case["name"] for case in QUIRKS])
def test_each_quirk_is_read_as_its_rule_says(case: dict[str, Any]) -> None:
    body, api = body_of(case)
    completion, _ = read([body], api)
    assert differences(case, completion, api) == [], case["why"]


@pytest.mark.parametrize("name", RECORDED_FILES)
def test_recorded_streams_come_to_what_the_reference_made_of_them(name: str) -> None:
    recorded = cases(name)
    if not recorded:
        pytest.skip(f"the recorded streams are not at {RECORDED.name}")
    failed = {}
    for case in recorded:
        body, api = body_of(case)
        if found := differences(case, read([body], api)[0], api):
            failed[case["name"]] = found
    assert failed == {}


@given(st.sampled_from([case for case in QUIRKS if len(str(case)) < 20_000]), st.lists(st.integers(0, 9999)))
def test_the_splits_of_the_bytes_change_nothing(case: dict[str, Any], places: list[int]) -> None:
    body, api = body_of(case)
    assert read(list(cut(body, places)), api) == read([body], api)


def test_a_byte_at_a_time_changes_nothing() -> None:
    for case in QUIRKS:
        body, api = body_of(case)
        if len(body) < 5000:
            assert read([bytes([byte]) for byte in body], api) == read([body], api)


def test_accumulate_sse_is_the_reader_over_a_whole_body() -> None:
    for case in QUIRKS:
        body, api = body_of(case)
        assert accumulate_sse(body, api=api) == read([body], api)[0]  # type: ignore[arg-type]


@given(st.sampled_from([case for case in QUIRKS if len(str(case)) < 20_000]), st.integers(0, 9999))
def test_a_connection_that_breaks_anywhere_is_never_a_success_with_a_broken_call(case, place: int) -> None:
    body, api = body_of(case)
    cut_off = body[: place % (len(body) + 1)]
    completion, _ = read([cut_off], api)
    for choice in completion.choices:
        for one in choice.tool_calls:
            if one.problem is None:
                assert isinstance(one.arguments, dict)
            elif completion.error is None:
                pytest.fail("a call with a problem in a completion without error")
    if b"DONE" not in cut_off and "finish_reason" not in cut_off.decode() and api == "chat":
        assert completion.error in ("incomplete_stream", "stream_error")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    "id",
    "model",
    "choices",
    "usage",
    "error",
    "type",
    "index",
    "delta",
    "message",
    "finish_reason",
    "content",
]
KEYS += [
    "tool_calls",
    "function",
    "name",
    "arguments",
    "function_call",
    "reasoning",
    "reasoning_details",
    "text",
]
KEYS += [
    "response",
    "output",
    "item",
    "output_index",
    "content_index",
    "item_id",
    "call_id",
    "part",
    "summary",
]
TYPES = ["response.output_item.added", "response.output_item.done", "response.completed", "text", "thinking"]
TYPES += ["response.function_call_arguments.delta", "response.function_call_arguments.done", "function_call"]
TYPES += ["response.output_text.delta", "response.output_text.done", "response.content_part.done", "message"]
ODD = st.recursive(
    JSON | st.sampled_from(TYPES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
        | st.fixed_dictionaries({"choices": st.lists(inner, max_size=2)})
        | st.fixed_dictionaries(
            {"type": st.sampled_from(TYPES), "item": inner, "delta": inner, "part": inner}
        )
        | st.fixed_dictionaries({"delta": st.fixed_dictionaries({"tool_calls": st.lists(inner, max_size=2)})})
    ),
    max_leaves=12,
)


@given(st.lists(ODD, max_size=4), st.sampled_from(["chat", "responses"]))
def test_nothing_that_a_provider_sends_raises(values: list[Any], api: str) -> None:
    frames = [f"data: {json.dumps(value)}\n\n".encode() for value in values]
    read(frames, api)
    read([json.dumps(value).encode() for value in values[:1]], api)


@given(st.binary(max_size=60), st.sampled_from(["chat", "responses"]))
def test_no_bytes_raise(body: bytes, api: str) -> None:
    read([body], api)
    read([b"data: " + body + b"\n\n"], api)


def test_comments_are_no_data_for_an_idle_timeout() -> None:
    reader = CompletionReader()
    reader.feed(b": waiting\n\n" * 3)
    assert reader.frames == 0
    reader.feed(b'data: {"choices":[]}\n\n: x\n\ndata: [DONE]\n\n')
    assert reader.frames == 2
    assert reader.done
