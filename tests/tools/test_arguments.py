from __future__ import annotations

import inspect
import json
import keyword
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from typing_extensions import TypedDict

from streamchat.tools import ArgumentsInvalid, Tool, ToolContext
from tests.tools.support import Case, cases, context, make

_names = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name)
)
_names |= st.sampled_from(["schema", "copy", "json", "model_config", "self_", "_private", "arguments"])
DEFAULT = object()


@st.composite
def functions(draw: st.DrawFn) -> tuple[Tool, dict[str, Case], set[str]]:
    """A tool of drawn parameters of any kind, the case of each, and which of them have a default."""
    names = draw(st.lists(_names, unique=True, max_size=4))
    drawn = {name: draw(cases) for name in names}
    kinds = sorted(draw(st.lists(st.sampled_from([0, 1, 3]), min_size=len(names), max_size=len(names))))
    first_default = draw(st.integers(0, len(names)))
    optional = set(names[first_default:])
    parameters = [
        inspect.Parameter(
            name,
            inspect._ParameterKind(kind),
            annotation=drawn[name].annotation,
            default=DEFAULT if name in optional else inspect.Parameter.empty,
        )
        for name, kind in zip(names, kinds, strict=True)
    ]

    def tool() -> None: ...

    tool.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return make(tool), drawn, optional


def received(tool: Tool, sent: dict[str, Any]) -> dict[str, Any]:
    bound = tool.validate(json.loads(json.dumps(sent)), context())
    arguments = inspect.signature(tool.function).bind(*bound.args, **bound.kwargs)
    arguments.apply_defaults()
    return arguments.arguments


@given(functions())
def test_what_a_model_sends_by_the_schema_reaches_the_parameters(drawn: Any) -> None:
    tool, wanted, _ = drawn
    assert tool.check({name: case.sent for name, case in wanted.items()}) is None
    assert received(tool, {name: case.sent for name, case in wanted.items()}) == {
        name: case.received for name, case in wanted.items()
    }


@given(functions(), st.data())
def test_what_is_left_out_or_null_for_want_of_null_is_the_default(drawn: Any, data: st.DataObject) -> None:
    tool, wanted, optional = drawn
    left_out = set(data.draw(st.lists(st.sampled_from(sorted(optional)), unique=True))) if optional else set()
    sent = {name: case.sent for name, case in wanted.items() if name not in left_out}
    for name in left_out:
        # Strict mode has no way to leave a field out: where null is no value of its own, it stands for that.
        if not wanted[name].null_is_a_value and data.draw(st.booleans()):
            sent[name] = None
    assert received(tool, sent) == {
        name: DEFAULT if name in left_out else case.received for name, case in wanted.items()
    }


class Filter(BaseModel):
    field: str
    limit: int = 10
    until: date | None = date(2020, 1, 1)


class Shape(TypedDict):
    kind: Literal["shape"]
    size: NotRequired[int]


class Circle(BaseModel):
    kind: Literal["circle"]
    radius: float = 1.0


def search(query: str, filters: list[Filter] = [], what: Shape | Circle | None = None, top: int = 5) -> None:  # noqa: B006
    """Search."""


def test_nulls_deep_inside_stand_for_defaults_only_where_null_is_no_value() -> None:
    sent = {
        "query": "q",
        "filters": [{"field": "a", "limit": None, "until": None}],
        "what": {"kind": "circle", "radius": None},
        "top": None,
    }
    assert received(make(search), sent) == {
        "query": "q",
        "filters": [Filter(field="a", limit=10, until=None)],
        "what": Circle(kind="circle"),
        "top": 5,
    }
    assert received(make(search), {"query": "q", "what": {"kind": "shape", "size": None}})["what"] == {
        "kind": "shape"
    }


def test_a_required_null_stays_and_is_refused() -> None:
    problem = make(search).check({"query": None})
    assert problem is not None
    assert "query" in problem
    assert "null" in problem


def test_the_model_is_told_each_field_with_what_came_and_what_is_wanted() -> None:
    problem = make(search).check({"filters": [{"field": "x", "limit": "many"}], "top": [1], "page": 2})
    assert problem is not None
    assert problem.splitlines() == [
        "The arguments of search do not fit; it was not called:",
        "- query: is missing",
        "- filters.0.limit: Input should be a valid integer, unable to parse string as an integer; "
        'received "many"',
        "- top: Input should be a valid integer; received [1]",
        "- page: there is no such parameter (there are: query, filters, what, top)",
    ]


def test_long_wrong_values_and_long_lists_of_errors_are_told_in_short() -> None:
    problem = make(search).check({"query": ["x" * 5000], "filters": [{"field": n} for n in range(100)]})
    assert problem is not None
    assert "(5004 characters)" in problem
    assert problem.endswith("- and 81 more")
    assert len(problem) < 3000


@pytest.mark.parametrize("arguments", [None, [], "text", 3])
def test_arguments_that_are_no_object_are_told(arguments: Any) -> None:
    with pytest.raises(ArgumentsInvalid, match="must be a JSON object"):
        make(search).validate(arguments, context())


def test_values_are_read_as_json_and_leniently() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        day: date

    def tool(n: int, day: date, price: Decimal, flag: bool, tags: set[str], strict: Strict) -> None: ...

    assert received(
        make(tool),
        {
            "n": "3",
            "day": "2026-11-21",
            "price": "1.10",
            "flag": "true",
            "tags": ["a", "a"],
            "strict": {"day": "2026-11-21"},
        },
    ) == {
        "n": 3,
        "day": date(2026, 11, 21),
        "price": Decimal("1.10"),
        "flag": True,
        "tags": {"a"},
        "strict": Strict(day=date(2026, 11, 21)),
    }


def test_big_integers_keep_their_digits() -> None:
    def tool(n: int) -> None: ...

    assert received(make(tool), {"n": 2**70 + 1}) == {"n": 2**70 + 1}


def test_halves_of_surrogate_pairs_do_not_make_a_call_fail() -> None:
    def tool(text: str, more: dict[str, str]) -> None: ...

    bound = make(tool).validate({"text": "a\ud83d", "more": {"\udc00": "\ud83d\ude00"}}, context())
    assert bound.kwargs == {"text": "a\ufffd", "more": {"\ufffd": "\U0001f600"}}


def test_arguments_nested_without_end_are_an_answer_and_no_crash() -> None:
    def tool(value: Any) -> None: ...

    value: Any = []
    for _ in range(5000):
        value = [value]
    problem = make(tool).check({"value": value})
    assert problem is not None
    assert problem.startswith("The arguments of tool")


def test_a_validators_words_are_told_and_its_crash_is_not(caplog: pytest.LogCaptureFixture) -> None:
    class Booking(BaseModel):
        seats: int

        @field_validator("seats")
        @classmethod
        def few(cls, value: int) -> int:
            if value > 100:
                raise RuntimeError("secret table is missing")
            if value > 10:
                raise ValueError("at most 10 seats can be booked at once")
            return value

    def book(booking: Booking) -> None: ...

    assert make(book).check({"booking": {"seats": 11}}) == (
        "The arguments of book do not fit; it was not called:\n"
        "- booking.seats: at most 10 seats can be booked at once; received 11"
    )
    assert make(book).check({"booking": {"seats": 101}}) == (
        "The arguments of book could not be checked (RuntimeError)."
    )
    assert "secret table" in caplog.text


def test_validators_see_the_context() -> None:
    class Owned(BaseModel):
        id: str

        @field_validator("id")
        @classmethod
        def mine(cls, value: str, info: ValidationInfo) -> str:
            return f"{info.context.run_id}/{value}" if info.context else value

    def tool(owned: Owned) -> None: ...

    assert make(tool).validate({"owned": {"id": "x"}}, context()).kwargs["owned"].id == "run-1/x"


def test_field_settings_hold_in_either_place() -> None:
    def tool(
        city: Annotated[str, Field(alias="City", min_length=2, description="From the code.")],
        days: int = Field(3, ge=1),
        tags: list[str] = Field(default_factory=lambda: ["none"]),  # noqa: B008
    ) -> None:
        """Tool.

        Args:
            city: From the docstring.
            days: How many days.
        """

    made = make(tool)
    assert made.plain["properties"]["City"] == {
        "type": "string",
        "minLength": 2,
        "description": "From the code.",
    }
    assert made.plain["properties"]["days"]["description"] == "How many days."
    assert made.plain["required"] == ["City"]
    assert made.validate({"City": "Rome"}, context()).kwargs == {"city": "Rome", "days": 3, "tags": ["none"]}
    assert made.check({"City": "R", "days": 0}) is not None


def test_the_functions_own_default_is_what_it_gets_unchecked_and_uncopied() -> None:
    nothing: list[int] = []

    def tool(ctx: ToolContext, numbers: list[int] = nothing, sign: int = "?") -> None: ...  # type: ignore[assignment]

    bound = make(tool).validate({}, context())
    assert tool.__defaults__ == (nothing, "?")
    assert set(bound.kwargs) == {"ctx"}
