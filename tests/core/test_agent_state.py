"""The agent's state: what runs do to it one after another, and JSON Patch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.core.agent_state import AgentState, PatchFailed, StateChanges, apply_patch, changed
from streamchat.events import CustomEvent, RunStarted, StreamEvent, TextDelta
from streamchat.models.langgraph.patch import json_patch

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("a/~é", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("a/~b", max_size=2), inner, max_size=4)
    ),
)


@given(JSON, JSON)
def test_the_difference_of_two_values_makes_one_of_the_other_and_changes_neither(old: Any, new: Any) -> None:
    before, patch = deepcopy(old), json_patch(old, new)
    assert apply_patch(old, patch) == new
    assert old == before


@pytest.mark.parametrize(
    ("value", "operation", "expected"),
    [
        ({"a": [1]}, {"op": "add", "path": "/a/0", "value": 0}, {"a": [0, 1]}),
        ({"a": [1]}, {"op": "add", "path": "/a/-", "value": 2}, {"a": [1, 2]}),
        ({"a": 1}, {"op": "move", "from": "/a", "path": "/b"}, {"b": 1}),
        ({"a": {"b": 1}}, {"op": "copy", "from": "/a", "path": "/c"}, {"a": {"b": 1}, "c": {"b": 1}}),
        ({"a~/b": 1}, {"op": "remove", "path": "/a~0~1b"}, {}),
        ({"a": 1}, {"op": "test", "path": "/a", "value": 1.0}, {"a": 1}),
        ({"": 1}, {"op": "replace", "path": "/", "value": 2}, {"": 2}),
        (1, {"op": "add", "path": "", "value": {}}, {}),
    ],
)
def test_each_operation_does_what_the_rfc_says(value: Any, operation: dict[str, Any], expected: Any) -> None:
    assert apply_patch(value, [operation]) == expected


@pytest.mark.parametrize(
    ("value", "operation"),
    [
        ({}, {"op": "remove", "path": "/a"}),
        ({}, {"op": "replace", "path": "/a", "value": 1}),
        ({}, {"op": "add", "path": "/a/b", "value": 1}),
        ([1], {"op": "add", "path": "/2", "value": 1}),
        ([1], {"op": "remove", "path": "/-"}),
        ([1], {"op": "remove", "path": "/00"}),
        ([1], {"op": "replace", "path": "/1", "value": 1}),
        ("ab", {"op": "add", "path": "/0", "value": 1}),
        ({"a": 1}, {"op": "test", "path": "/a", "value": True}),
        ({"a": {}}, {"op": "move", "from": "/a", "path": "/a/b"}),
        ({}, {"op": "add", "path": "/a" * 5000, "value": 1}),
    ],
)
def test_an_operation_that_does_not_fit_is_refused(value: Any, operation: dict[str, Any]) -> None:
    with pytest.raises(PatchFailed):
        apply_patch(value, [operation])


def changes(*data: dict[str, Any], first: StreamEvent | None = None) -> StateChanges:
    made = StateChanges()
    made.add(first or RunStarted(run_id="r", message_id="m"))
    for each in data:
        made.add(CustomEvent(name="state", data=each))
    return made


def put(key: str, value: Any = 1) -> dict[str, Any]:
    return {"patch": [{"op": "add", "path": f"/{key}", "value": value}]}


SAID = st.one_of(
    st.builds(lambda value: {"values": value}, JSON),
    st.builds(put, st.sampled_from(["a", "b", "a/-", "a/0"]), JSON),
)


@given(st.lists(st.lists(SAID, max_size=4), max_size=4), JSON)
def test_it_does_not_matter_into_which_runs_the_changes_fall(runs: list[list[Any]], first: Any) -> None:
    one = changed(None, changes({"values": first}, *(each for run in runs for each in run)).kept())
    state = changed(None, changes({"values": first}).kept())
    for run in runs:
        state = changed(state, changes(*run).kept())
    assert state == one


def test_many_patches_are_gathered_and_come_to_the_same() -> None:
    said = [put("list/-", number) for number in range(1000)]
    assert changed(None, changes({"values": {"list": []}}, *said).kept()) == AgentState(
        {"list": list(range(1000))}, whole=True
    )


def test_a_state_is_not_known_where_a_patch_may_be_for_what_a_page_had_or_events_are_gone() -> None:
    assert changed(None, None) is None
    assert changed(None, changes(put("a")).kept()) == AgentState({"a": 1})
    assert changed(None, changes(put("a/b")).kept()) == AgentState(known=False)
    late = TextDelta(step=1, part=0, text="x")
    assert changed(AgentState({}, whole=True), changes(put("a"), first=late).kept()) == AgentState(
        known=False
    )
    assert changed(AgentState(known=False), changes(put("a")).kept()) == AgentState(known=False)
    assert changed(AgentState(known=False), changes({"values": 1}).kept()) == AgentState(1, whole=True)
