"""Hypothesis strategies for events and for the logs that runs leave behind.

`events` makes single events of every type with whatever their fields may hold; `event_logs` makes whole legal
logs, and such that end early; `stored_logs` the same as a store keeps them. All of it is derived from the
event classes and the lifecycle tables, so a new type is covered, or the strategy fails and says what is
missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel

from streamchat.core.lifecycle import HELD
from streamchat.errors import MissingDependency, StreamChatError
from streamchat.events import EVENT_TYPES, StoredEvent, StreamEvent, UnknownEvent, encode_event
from streamchat.testing.choices import Choices, SeededChoices
from streamchat.testing.log_walk import ENDINGS, SECRET, LogWalk

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise MissingDependency("streamchat.testing.strategies", "testing", "hypothesis") from error

__all__ = ["SECRET", "batch_borders", "event_logs", "events", "json_values", "stored_logs", "texts"]

_ODD_TEXTS = (
    "",
    "Hello",
    " wörld",
    "\0",
    "a\r\nb",
    "\u2028",
    "\N{WAVING HAND SIGN}",
    '"\\',
    "\ufeff",
    "data: x\n\n",
)
_ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -(2**80),
    2**53 + 1,
    0.1,
    -0.0,
    1e300,
    "",
    "nul \0",
    [],
    {},
    {"": None, "type": "text_delta", "private": {"nested": [None, {"a": []}]}},
)


def texts(max_size: int | None = 40) -> st.SearchStrategy[str]:
    """Texts, odd ones first: empty, NUL, line ends, separators, quotes, characters outside the BMP.

    Lone surrogates are not among them: they do not survive UTF-8.
    """
    return st.one_of(st.sampled_from(_ODD_TEXTS), st.text(max_size=max_size))


def json_values(max_leaves: int = 6) -> st.SearchStrategy[Any]:
    """JSON values of any nesting, with integers of any size, but none of what JSON does not know (NaN)."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(2**200), 2**200)
        | st.floats(allow_nan=False, allow_infinity=False)
        | texts()
    )
    nested = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts(8), inner, max_size=4),
        max_leaves=max_leaves,
    )
    return st.one_of(st.sampled_from(_ODD_VALUES), nested)


# Single events: a strategy for each class, made from its fields.


def events(*types: str, private: bool = True) -> st.SearchStrategy[StreamEvent]:
    """Single events of the given types (all known ones and unknown ones if none are given), in any state.

    They need not make sense in a log. With ``private``, some carry private fields with `SECRET` in them.
    """
    known = [_of_model(EVENT_TYPES[name], private) for name in types or EVENT_TYPES]
    everything = [*known, _unknown_events(private)] if not types else known
    return cast("st.SearchStrategy[StreamEvent]", st.one_of(everything))


def _privates(private: bool) -> st.SearchStrategy[dict[str, Any] | None]:
    if not private:
        return st.none()
    some = st.dictionaries(texts(8), json_values(), max_size=3).map(lambda fields: {**fields, "kept": SECRET})
    return st.none() | some


def _unknown_events(private: bool) -> st.SearchStrategy[UnknownEvent]:
    kinds = (st.sampled_from(("text_delta2", "TEXT_DELTA", "")) | texts(12)).filter(
        lambda t: t not in EVENT_TYPES
    )
    fields = st.dictionaries(
        st.sampled_from(("step", "data", "copy", "seq_of")) | texts(8), json_values(), max_size=4
    )
    return st.builds(
        lambda kind, rest, kept: UnknownEvent.model_validate({**rest, "type": kind, "private": kept}),
        kinds,
        fields,
        _privates(private),
    )


def _of_model(model: type[BaseModel], private: bool = False) -> st.SearchStrategy[Any]:
    fields = {
        name: _privates(private)
        if name == "private"
        else _of_annotation(field.annotation, f"{model.__name__}.{name}")
        for name, field in model.model_fields.items()
    }
    return st.builds(model, **fields)


_LEAVES: Mapping[Any, Callable[[], st.SearchStrategy[Any]]] = {
    NoneType: st.none,
    bool: st.booleans,
    int: lambda: st.integers(0, 9) | st.integers(-(2**70), 2**70),
    float: lambda: st.floats(allow_nan=False, allow_infinity=False),
    str: texts,
    Any: json_values,
}


def _of_annotation(annotation: Any, where: str) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _LEAVES:
        return _LEAVES[annotation]()
    if origin is Annotated:
        return _of_annotation(arguments[0], where)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, UnionType):
        return st.one_of([_of_annotation(argument, where) for argument in arguments])
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(_of_annotation(arguments[0], where), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(
            _of_annotation(arguments[0], where), _of_annotation(arguments[1], where), max_size=3
        )
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _of_model(annotation)
    raise StreamChatError(
        f"{where} is a {annotation!r}: teach {__name__} to make one, so that tests cover it"
    )


# Logs.


_GRAINS = 48
_SEEDS = st.integers(0, 2**32 - 1)
_TEXTS = st.lists(texts(), max_size=3)
_VALUES = st.lists(json_values(), max_size=3)


def _choices(draw: st.DrawFn) -> Choices:
    # Decisions drawn one by one cluster (of 60 logs, none was cut while a tool worked); a seed spreads them.
    # What shrinks is how long the walk is, where it is cut, and which texts and values it holds.
    return SeededChoices(draw(_SEEDS), [*_ODD_TEXTS, *draw(_TEXTS)], [*_ODD_VALUES, *draw(_VALUES)])


def batch_borders(log: Sequence[StreamEvent | StoredEvent]) -> list[int]:
    """Return the lengths at which a stored log may end: nowhere inside what is stored in one batch."""
    return [length for length in range(1, len(log) + 1) if log[length - 1].type not in HELD]


@st.composite
def event_logs(
    draw: st.DrawFn,
    *,
    cut: Literal["batch", "anywhere"] | None = None,
    as_written: bool = True,
    max_events: int = 40,
) -> list[StreamEvent]:
    """Legal logs: steps, parts, calls, resets, approvals, jobs, suspensions, take-overs, and every ending.

    ``cut`` is where they may end early: at the end of a ``batch`` (what a store may hold), ``anywhere`` (the
    empty log among them); None gives whole logs. ``as_written`` keeps to what this package itself writes,
    else whatever the tables allow may come (`streamchat.testing.log_walk.LogWalk`). ``max_events`` is how
    long the walk is before it turns to its ending, which takes a few more.
    """
    length = draw(st.integers(0, max_events)) if cut is None else max_events
    kept = draw(st.integers(1, _GRAINS))
    choices = _choices(draw)
    walk = LogWalk(choices, as_written=as_written)
    while len(walk.log) < length:
        walk.step()
    walk.finish(ENDINGS[choices.below(len(ENDINGS))])
    if cut is None:
        return walk.log
    ends = list(range(len(walk.log) + 1)) if cut == "anywhere" else batch_borders(walk.log)
    return walk.log[: ends[(kept * len(ends) - 1) // _GRAINS]]


@st.composite
def stored_logs(
    draw: st.DrawFn,
    *,
    cut: Literal["batch", "anywhere"] | None = "batch",
    as_written: bool = True,
    max_events: int = 40,
) -> list[StoredEvent]:
    """Logs as a store keeps them: ``seq`` 1, 2, 3, …, ``at`` never going back, a generation for each holder.

    The first generation is ``create``'s and holds ``run_started``; the next begins with the first worker,
    then one with each ``run_resumed``. The other arguments are those of `event_logs`.
    """
    log = draw(event_logs(cut=cut, as_written=as_written, max_events=max_events))
    choices = _choices(draw)
    stored: list[StoredEvent] = []
    at, segment = 1_700_000_000_000 + choices.below(1000), 0
    for seq, event in enumerate(log, start=1):
        if seq == 2 or event.type == "run_resumed":
            segment += 1
        at += choices.below(50)
        data, private = encode_event(event)
        generation = f"g{segment}{'abcdef'[segment % 6]}"
        stored.append(StoredEvent(seq, at, None, generation, type=event.type, data=data, private=private))
    return stored
