"""The strategies that users get: they cover every type, say so where they cannot, and hide secrets."""

from __future__ import annotations

import importlib
import json
import sys
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamchat.core.lifecycle import RUN, check_log
from streamchat.errors import MissingDependency, StreamChatError
from streamchat.events import EVENT_TYPES, Event, StoredEvent, StreamEvent, UnknownEvent
from streamchat.testing import log_walk, strategies
from streamchat.testing.choices import SeededChoices
from streamchat.testing.log_walk import LogWalk
from streamchat.testing.strategies import SECRET, batch_borders, event_logs, events, json_values, stored_logs


@given(event_logs(cut="batch"), event_logs(cut="anywhere"), event_logs(max_events=0))
def test_a_log_may_be_whole_or_cut(
    batch: list[StreamEvent], anywhere: list[StreamEvent], short: list[StreamEvent]
) -> None:
    check_log(anywhere)
    assert len(batch) in batch_borders(batch)
    assert (check_log(short), short[-1].type) == ("over", "finalized")


def test_logs_are_cut_at_all_sorts_of_places() -> None:
    phases = set()

    @given(event_logs(cut="batch"))
    def collect(log: list[StreamEvent]) -> None:
        phases.add(check_log(log))

    collect()
    assert {"ready", "model", "tools", "over"} <= phases


@given(stored_logs(cut="anywhere"), st.data())
def test_a_stored_log_is_read_back_from_its_bytes(log: list[StoredEvent], data: st.DataObject) -> None:
    for stored in log:
        again = StoredEvent(stored.seq, stored.at, stored.event, stored.generation)
        assert again == stored
        assert SECRET.encode() not in stored.data


@given(events("text_delta", "finalized", private=False))
def test_events_can_be_limited_to_some_types_and_to_what_is_public(event: StreamEvent) -> None:
    assert event.type in ("text_delta", "finalized")
    assert event.private is None


def test_events_are_of_every_type_and_unknown_ones() -> None:
    types: set[type] = set()

    @settings(max_examples=500)
    @given(events())
    def collect(event: StreamEvent) -> None:
        types.add(type(event))

    collect()
    assert types == {*EVENT_TYPES.values(), UnknownEvent}


def test_a_seed_decides_a_walk() -> None:
    logs = []
    for seed in (1, 1, 2):
        walk = LogWalk(SeededChoices(seed))
        while len(walk.log) < 20:
            walk.step()
        logs.append(walk.log)
    assert logs[0] == logs[1] != logs[2]


def test_a_type_of_the_tables_that_no_walk_can_make_stops_it_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = {**RUN, "ready": {**RUN["ready"], "brand_new": "ready"}}
    monkeypatch.setattr(log_walk, "RUN", MappingProxyType(newer))
    walk = LogWalk(SeededChoices(1))
    walk.step()
    with pytest.raises(StreamChatError, match="no maker for 'brand_new'"):
        walk.step()


def test_a_field_that_no_strategy_can_make_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newer(Event):
        type: str = "newer"
        odd: set[int]

    monkeypatch.setattr(strategies, "EVENT_TYPES", {"newer": Newer})
    with pytest.raises(StreamChatError, match=r"Newer\.odd is a set\[int\]"):
        events("newer")


def test_a_missing_hypothesis_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "streamchat.testing.strategies"
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependency, match=r"streamchat\[testing\]"):
        importlib.import_module(name)


@given(json_values())
def test_json_values_are_json(value: object) -> None:
    assert json.loads(json.dumps(value, allow_nan=False)) == value
