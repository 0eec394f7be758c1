"""Events: what is written is read again, the unknown survives, the malformed is refused, secrets are kept."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from streamchat.core.lifecycle import RUN
from streamchat.errors import InvalidInput
from streamchat.events import (
    EVENT_TYPES,
    TERMINAL,
    CustomEvent,
    ErrorEvent,
    Event,
    ModelCompleted,
    StoredEvent,
    StreamEvent,
    TextDelta,
    ToolResult,
    UnknownEvent,
    encode_event,
    parse_event,
)
from streamchat.testing.strategies import SECRET, event_logs, events, json_values, stored_logs, texts

# Written down a second time on purpose: a type that goes missing is noticed.
DESIGN = {
    "run_started",
    "run_resumed",
    "status",
    "step_started",
    "step_finished",
    "text_delta",
    "reasoning_delta",
    "refusal_delta",
    "source",
    "file",
    "tool_call_delta",
    "tool_call",
    "model_completed",
    "step_reset",
    "approval_requested",
    "approval_resolved",
    "tool_started",
    "tool_progress",
    "tool_result",
    "job_result",
    "suspended",
    "custom",
    "error",
    "cancelled",
    "message_completed",
    "finalized",
}


def test_there_is_a_class_for_each_type_of_the_design_and_no_other() -> None:
    assert set(EVENT_TYPES) == DESIGN
    assert EVENT_TYPES[TERMINAL].__name__ == "Finalized"


def test_each_type_has_its_place_in_the_lifecycle() -> None:
    assert {kind for row in RUN.values() for kind in row} == set(EVENT_TYPES)


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_a_class_belongs_to_the_public_union(kind: str) -> None:
    union, unknown = get_args(get_args(StreamEvent)[0])
    assert EVENT_TYPES[kind] in get_args(get_args(union)[0])
    assert unknown is UnknownEvent


# Writing and reading.


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_an_event_of_each_type_is_read_as_it_was_written(kind: str) -> None:
    @given(events(kind))
    def check(event: StreamEvent) -> None:
        data, private = encode_event(event)
        again = parse_event(data, private)
        assert type(again) is EVENT_TYPES[kind]
        assert again == event
        assert encode_event(again) == (data, private)

    check()


@given(events())
def test_any_event_can_be_read_from_text_bytes_and_a_mapping(event: StreamEvent) -> None:
    data, private = encode_event(event)
    fields = json.loads(data)
    text = None if private is None else private.decode()
    assert (
        parse_event(data.decode(), text)
        == parse_event(fields, private)
        == parse_event(data, private)
        == event
    )
    assert "private" not in fields or isinstance(event, UnknownEvent)


@given(events())
def test_none_is_left_out_of_what_is_written_but_not_from_inside_values(event: StreamEvent) -> None:
    if isinstance(event, UnknownEvent):
        return
    fields = json.loads(encode_event(event)[0])
    assert None not in fields.values()
    assert set(fields) <= set(type(event).model_fields) - {"private"}
    assert fields["type"] == event.type


def test_null_inside_a_value_is_kept() -> None:
    event = CustomEvent(name="n", data={"a": None, "b": [None, {"c": None}]})
    assert parse_event(encode_event(event)[0]) == event


@given(
    st.sampled_from(sorted(EVENT_TYPES)).flatmap(events), st.dictionaries(texts(8), json_values(), max_size=3)
)
def test_fields_that_this_version_does_not_know_are_ignored(
    event: StreamEvent, extra: dict[str, Any]
) -> None:
    data, private = encode_event(event)
    strange = {f"zz_{name}": value for name, value in extra.items()}
    assert parse_event({**json.loads(data), **strange}, private) == event


@given(events())
def test_an_event_is_frozen(event: StreamEvent) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(event, "type", "other")  # noqa: B010 - the type checkers would not let it pass


def test_an_unknown_event_is_frozen_too() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(UnknownEvent(type="new"), "type", "other")  # noqa: B010 - as above


# What is unknown, and what is wrong.


@given(st.dictionaries(texts(8), json_values(), max_size=4), texts(12), st.booleans())
def test_an_unknown_type_keeps_its_bytes(fields: dict[str, Any], kind: str, has_private: bool) -> None:
    if kind in EVENT_TYPES:
        return
    newer = type("Newer", (BaseModel,), {"__annotations__": {"fields": dict[str, Any]}})
    body = {
        "type": kind,
        **{name: value for name, value in fields.items() if name not in ("type", "private")},
    }
    data = newer(fields=body).model_dump_json().removeprefix('{"fields":').removesuffix("}").encode()
    private = b'{"kept":[null,"' + SECRET.encode() + b'"]}' if has_private else None
    event = parse_event(data, private)
    assert isinstance(event, UnknownEvent)
    assert event.type == kind
    assert encode_event(event) == (data, private)


def test_an_unknown_type_keeps_fields_that_are_null() -> None:
    data = b'{"type":"from_the_future","a":null,"b":{"c":null}}'
    assert encode_event(parse_event(data)) == (data, None)


@given(st.sampled_from(sorted(EVENT_TYPES)))
def test_an_unknown_event_cannot_pass_for_a_known_one(kind: str) -> None:
    with pytest.raises(ValidationError, match="is known"):
        UnknownEvent(type=kind)


MALFORMED = [
    {"type": "text_delta", "step": 1, "part": 0},
    {"type": "text_delta", "step": 1, "part": 0, "text": 5},
    {"type": "text_delta", "step": "one", "part": 0, "text": "a"},
    {"type": "text_delta", "step": 1.5, "part": 0, "text": "a"},
    {
        "type": "tool_call",
        "step": 1,
        "part": 0,
        "call_id": "c",
        "name": "n",
        "arguments": ["not", "an", "object"],
    },
    {"type": "tool_call", "step": 1, "part": 0, "call_id": "c", "name": "n", "problem": "dislike"},
    {"type": "tool_result", "step": 1, "call_id": "c", "outcome": "perhaps"},
    {"type": "suspended", "waits": [{"kind": "weather", "call_id": "c"}]},
    {"type": "message_completed", "content": [{"type": "hologram", "part": 1}]},
    {"type": "finalized", "status": "running"},
    {"type": "error", "phase": "elsewhere", "code": "c", "message": "m"},
    {"type": 5},
    {"type": ["text_delta"]},
    {"type": {}},
    {"type": None},
    {},
    [],
    None,
    "text_delta",
    7,
]


@pytest.mark.parametrize("fields", MALFORMED, ids=str)
def test_a_malformed_event_is_refused(fields: Any) -> None:
    with pytest.raises(ValidationError):
        parse_event(json.dumps(fields))


@pytest.mark.parametrize(
    "kind", [k for k, c in EVENT_TYPES.items() if any(f.is_required() for f in c.model_fields.values())]
)
def test_a_known_type_without_its_required_fields_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError):
        parse_event({"type": kind})


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"type":"custom","name":"n"} x', "{'type':1}"])
def test_what_is_not_json_is_a_value_error(data: bytes | str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its text is the JSON decoder's
        parse_event(data)


# What JSON cannot carry.


@pytest.mark.parametrize("half", ["\ud83d", "\ude00"], ids=["high", "low"])  # noqa: PT014 - they differ
def test_a_lone_surrogate_becomes_the_replacement_character(half: str) -> None:
    odd = {half: [f"a{half}b"], "whole": "\ud83d\ude00"}
    event = CustomEvent(name=half, data=odd, private={"p": half})
    data, private = encode_event(event)
    clean = {"\ufffd": ["a\ufffdb"], "whole": "\N{GRINNING FACE}"}
    assert json.loads(data) == {"type": "custom", "name": "\ufffd", "data": clean}
    assert private == '{"p":"\ufffd"}'.encode()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_to_json_becomes_null(number: float) -> None:
    data, private = encode_event(CustomEvent(name="n", data=[number], private={"p": number}))
    assert (data, private) == (b'{"type":"custom","name":"n","data":[null]}', b'{"p":null}')
    assert json.loads(encode_event(CustomEvent(name="\ud800", data=[number]))[0])["data"] == [None]


@pytest.mark.parametrize(
    "event", [CustomEvent(name="n", data=object()), CustomEvent(name="n", private={"p": object()})]
)
def test_a_value_that_is_no_json_is_refused_by_name(event: CustomEvent) -> None:
    with pytest.raises(InvalidInput, match="custom holds a value that is not JSON"):
        encode_event(event)


def test_integers_keep_all_their_digits() -> None:
    event = ToolResult(step=2**70, call_id="c", outcome="ok", output=[2**200, -(2**64)])
    assert parse_event(encode_event(event)[0]) == event


# What is private.


@given(events())
def test_nothing_private_is_in_any_dump(event: StreamEvent) -> None:
    shown = [encode_event(event)[0].decode(), event.model_dump_json(), repr(event), str(event)]
    shown += [str(event.model_dump()), str(event.model_dump(mode="json"))]
    assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize(
    "event", [ModelCompleted(step=1), ErrorEvent(phase="tool", code="c", message="m")], ids=repr
)
def test_what_is_public_cannot_become_private(event: Event) -> None:
    fields = {**event.model_dump(), "private": {"forged": True}}
    assert parse_event(fields).private is None
    assert parse_event(fields, b'{"true":1}').private == {"true": 1}


# Stored events.


@given(events(), st.integers(1, 2**53), st.integers(0, 2**53))
def test_a_stored_event_goes_on_the_wire_as_json_with_its_place_and_time(
    event: StreamEvent, seq: int, at: int
) -> None:
    stored = StoredEvent(seq, at, event, "gen")
    wire = json.loads(stored.public_json())
    assert (wire["seq"], wire["at"], wire["type"]) == (seq, at, event.type)
    assert {**json.loads(stored.data), "seq": seq, "at": at} == wire
    assert SECRET.encode() not in stored.public_json()
    assert b"\n" not in stored.public_json()
    assert stored.id == f"gen.{seq}"


@given(events())
def test_a_stored_event_is_the_same_from_an_event_and_from_its_bytes(event: StreamEvent) -> None:
    first = StoredEvent(3, 5, event, "g")
    again = StoredEvent(3, 5, None, "g", type=event.type, data=first.data, private=first.private)
    assert again == first
    assert hash(again) == hash(first)
    assert again.event == first.event == event
    assert again.event is again.event
    assert (first.type, again.type, again.event.private) == (event.type, event.type, event.private)
    assert StoredEvent(4, 5, event, "g") != first
    assert StoredEvent(3, 5, event, "h") != first
    assert first != "g.3"


def test_the_repr_of_a_stored_event_names_it_and_hides_what_is_private() -> None:
    stored = StoredEvent(7, 5, TextDelta(step=1, part=0, text="a", private={"p": SECRET}), "gen")
    assert "gen.7" in repr(stored)
    assert SECRET not in repr(stored)


# The strategies themselves: what they promise, other tests build on.


@given(event_logs(cut="anywhere"))
def test_drawn_logs_hide_what_is_private(log: list[StreamEvent]) -> None:
    assert not [event for event in log if SECRET in event.model_dump_json()]


@given(stored_logs())
def test_stored_logs_have_no_gaps_no_time_that_goes_back_and_a_segment_for_each_holder(
    log: list[StoredEvent],
) -> None:
    assert [stored.seq for stored in log] == list(range(1, len(log) + 1))
    assert [stored.at for stored in log] == sorted(stored.at for stored in log)
    borders = [b.seq for a, b in pairwise(log) if a.generation != b.generation]
    assert borders == [s.seq for s in log[1:] if s.seq == 2 or s.type == "run_resumed"]
    assert len({stored.generation for stored in log}) == len(borders) + 1
