"""What the tests of tools share: a context that collects events, tools of one function, types with values."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import anyio
import pytest
from hypothesis import strategies as st
from pydantic import BaseModel, create_model
from typing_extensions import TypedDict

from streamchat.events import StreamEvent, ToolProgress
from streamchat.tools import Tool, ToolContext, ToolOutcome, ToolRegistry

LIMIT = 0.15
"""Seconds: the time limit in tests of what happens when it is over; enough for the tool to have begun."""

on_both_loops = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@dataclass
class Watched:
    """A context, and the events that were published through it."""

    events: list[StreamEvent] = field(default_factory=list)

    def context(self, **fields: Any) -> ToolContext[Any]:
        return ToolContext("run-1", "call-1", publish=self.events.append, **fields)

    @property
    def progress(self) -> list[tuple[str | None, float | None, Any]]:
        return [(e.message, e.fraction, e.data) for e in self.events if isinstance(e, ToolProgress)]


def make(function: Callable[..., Any], **options: Any) -> Tool:
    return ToolRegistry().add(function, **options)


def context(**fields: Any) -> ToolContext[Any]:
    return Watched().context(**fields)


def stubborn(release: anyio.Event) -> Callable[..., Any]:
    """A tool that swallows its cancellation and goes on until ``release``."""

    async def tool(ctx: ToolContext) -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await release.wait()
            ctx.progress("still here")
        return "late"

    return tool


class Case(NamedTuple):
    """A type, a JSON value of it as a model sends it, and the Python value that a function must get."""

    annotation: Any
    sent: Any
    received: Any
    null_is_a_value: bool = False


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


@dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict):
    deep: bool


class Tree(BaseModel):
    label: str
    children: list[Tree] = []


def _tree(label: str) -> Tree:
    return Tree(label=label, children=[Tree(label=label)])


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_leaves = st.one_of(
    st.integers().map(lambda n: Case(int, n, n)),
    st.integers(-(2**40), 2**40).map(lambda n: Case(int, str(n), n)),
    st.booleans().map(lambda b: Case(bool, b, b)),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: Case(float, x, x)),
    _texts.map(lambda s: Case(str, s, s)),
    st.sampled_from(Colour).map(lambda c: Case(Colour, c.value, c)),
    st.sampled_from(["a", 1, "ü"]).map(lambda v: Case(Literal["a", 1, "ü"], v, v)),
    st.integers(-9, 9).map(lambda n: Case(Point, {"x": n}, Point(n))),
    st.booleans().map(lambda b: Case(Options, {"deep": b}, {"deep": b})),
    _texts.map(lambda s: Case(Tree, {"label": s, "children": [{"label": s}]}, _tree(s))),
)


def _wrap(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    @st.composite
    def model(draw: st.DrawFn) -> Case:
        cases = draw(st.lists(inner, min_size=1, max_size=3))
        kind = create_model("Model", **{f"f{n}": (case.annotation, ...) for n, case in enumerate(cases)})  # type: ignore[call-overload]
        sent = {f"f{n}": case.sent for n, case in enumerate(cases)}
        return Case(kind, sent, kind(**{f"f{n}": case.received for n, case in enumerate(cases)}))

    return st.one_of(
        inner.map(
            lambda c: Case(list.__class_getitem__(c.annotation), [c.sent, c.sent], [c.received, c.received])
        ),
        st.tuples(_texts, inner).map(
            lambda p: Case(
                dict.__class_getitem__((str, p[1].annotation)), {p[0]: p[1].sent}, {p[0]: p[1].received}
            )
        ),
        st.tuples(inner, inner).map(
            lambda p: Case(
                tuple.__class_getitem__((p[0].annotation, p[1].annotation)),
                [p[0].sent, p[1].sent],
                (p[0].received, p[1].received),
            )
        ),
        inner.map(lambda c: Case(c.annotation | None, c.sent, c.received, True)),
        inner.map(lambda c: Case(c.annotation | None, None, None, True)),
        model(),
    )


cases = st.recursive(_leaves, _wrap, max_leaves=4)


def told(outcome: ToolOutcome) -> str:
    """What an outcome has to tell: its error, else its output, as text."""
    said = outcome.error if outcome.error is not None else outcome.output
    return said if isinstance(said, str) else json.dumps(said)
