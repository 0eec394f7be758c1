"""The vectors that folds in other languages are checked against say what this fold says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from streamchat.core.fold import RunState, fold
from streamchat.core.lifecycle import check_log
from streamchat.events import EVENT_TYPES, StoredEvent, parse_event
from streamchat.testing.strategies import SECRET
from tests.core.make_vectors import COMMAND, FOLDER, VECTORS, encoded

FILES = sorted(FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return vector


def events_of(vector: dict[str, Any]) -> list[StoredEvent]:
    return [StoredEvent(fields["seq"], fields["at"], parse_event(fields)) for fields in vector["events"]]


def test_there_is_a_file_for_each_vector() -> None:
    assert [path.stem for path in FILES] == sorted(VECTORS), f"run `{COMMAND}`"


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_is_fresh(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == encoded(name), f"run `{COMMAND}`"


@pytest.mark.parametrize("name", VECTORS)
def test_a_vectors_states_follow_from_its_events_and_from_each_other(name: str) -> None:
    vector = read(name)
    events, before = events_of(vector), None
    for expected in vector["states"]:
        length = expected["events"]
        assert json.loads(fold(events[:length]).model_dump_json()) == expected["state"]
        if before is not None:
            state = RunState.model_validate(before["state"])
            assert fold(events[before["events"] : length], state) == RunState.model_validate(
                expected["state"]
            )
        before = expected
    assert before is not None
    assert before["events"] == len(events)


@pytest.mark.parametrize("name", sorted(set(VECTORS) - {"trimmed"}))
def test_a_vectors_log_is_legal(name: str) -> None:
    check_log(events_of(read(name)))


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_holds_no_integer_that_a_browser_would_round_and_nothing_private(name: str) -> None:
    vector = read(name)
    assert not [number for number in integers(vector) if abs(number) > 2**53 - 1]
    assert SECRET not in json.dumps(vector)


def integers(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from integers(item)
    elif isinstance(value, int):
        yield value


def test_the_vectors_have_events_of_every_type() -> None:
    seen = {event["type"] for name in VECTORS for event in read(name)["events"]}
    assert set(EVENT_TYPES) - seen == set()
