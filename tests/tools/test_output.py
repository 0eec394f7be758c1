from __future__ import annotations

import enum
import itertools
import json
import uuid
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from streamchat.tools import OutputUnusable
from streamchat.tools.output import DEEPEST, json_value, limit_output

any_text = st.text(st.characters(exclude_categories=[]), max_size=12)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)
clean_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(any_json)
def test_any_value_of_json_types_can_be_stored_everywhere(value: Any) -> None:
    text = json.dumps(json_value(value), ensure_ascii=False, allow_nan=False)
    assert "\0" not in text
    assert "\\u0000" not in text
    text.encode()


@given(clean_json)
def test_clean_json_stays_as_it_is(value: Any) -> None:
    assert json_value(value) == value


@given(any_json)
def test_turning_into_json_twice_changes_nothing_more(value: Any) -> None:
    once = json_value(value)
    assert json_value(once) == once


class Colour(enum.Enum):
    RED = "red"


class Word(str, enum.Enum):  # noqa: UP042 - it is found in applications
    YES = "yes"


class Name(str):
    def __str__(self) -> str:
        return "misleading"


class Number(int): ...


class Model(BaseModel):
    at: datetime
    n: Decimal


@dataclass
class Record:
    name: str
    tags: set[str]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Model(at=datetime(2026, 1, 2), n=Decimal("1.1")), {"at": "2026-01-02T00:00:00", "n": "1.1"}),
        (Record("x", {"a"}), {"name": "x", "tags": ["a"]}),
        ([Colour.RED, date(2026, 1, 2), timedelta(seconds=90)], ["red", "2026-01-02", "PT1M30S"]),
        ((uuid.UUID(int=1), Path("/a")), ["00000000-0000-0000-0000-000000000001", "/a"]),
        ({1: "one", (2, 3): "pair"}, {"1": "one", "2,3": "pair"}),
        (b"text", "text"),
        ([Word.YES, Name("x"), Number(3), True], ["yes", "x", 3, True]),
        (float("nan"), "NaN"),
        ([float("inf"), float("-inf")], ["Infinity", "-Infinity"]),
        ("a\0b\ud800", "a\ufffdb\ufffd"),
        ({"\ud800": Colour.RED}, {"\ufffd": "red"}),
    ],
)  # fmt: skip
def test_what_python_has_is_written_as_json_has_it(value: Any, written: Any) -> None:
    assert json_value(value) == written


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def repr_of(value: Any) -> str:
    return type(value).__name__


def circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        object(),
        b"\xff",
        [{"f": open}],
        {object(): 1},
        nested(DEEPEST + 1),
        nested(5000),
        circular(),
        itertools.count(),
        (n for n in range(3)),
    ],
    ids=repr_of,
)
def test_what_is_no_json_is_refused_without_telling_contents(value: Any) -> None:
    with pytest.raises(OutputUnusable):
        json_value(value)


def test_nesting_up_to_the_bound_is_fine() -> None:
    assert json_value(nested(DEEPEST)) == nested(DEEPEST)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(80, 300))
def test_long_text_is_cut_between_characters_and_says_so(text: str, most: int) -> None:
    text *= 301
    cut = limit_output(text, most)
    assert len(cut.encode()) <= most
    kept, note = cut.rsplit("\n[cut: ", 1)
    assert text.startswith(kept)
    assert note == f"{len(text.encode())} bytes, of which at most {most} are passed on]"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, 100))
def test_no_limit_is_exceeded_by_what_is_said_of_it(text: str, most: int) -> None:
    text *= 101
    cut = limit_output(text, most)
    assert len(cut.encode()) <= most
    kept = cut.split("\n[cut", 1)[0] if "\n[cut" in cut else cut
    assert text.startswith(kept)
    if most >= 16:
        assert kept


@given(clean_json, st.integers(1, 40))
def test_a_value_that_is_too_large_is_an_error_and_never_cut(value: Any, most: int) -> None:
    if isinstance(value, str):
        return
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    if size <= most:
        assert limit_output(value, most) is value
    else:
        with pytest.raises(OutputUnusable, match=f"{size} bytes of JSON and at most {most}"):
            limit_output(value, most)
