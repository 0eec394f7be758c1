from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamchat.tools import Progress, Return
from streamchat.tools.yielded import Yielded
from tests.tools.support import Watched

_values = st.one_of(
    st.text(max_size=3),
    st.integers(),
    st.builds(Progress, st.text(max_size=3)),
    st.fixed_dictionaries({"message": st.text(max_size=3)}),
    st.builds(Return, st.integers() | st.none()),
)


@given(st.lists(_values, max_size=6))
def test_nothing_that_is_yielded_is_lost(values: list[Any]) -> None:
    watched = Watched()
    yielded = Yielded(watched.context())
    taken = []
    for value in values:
        taken.append(value)
        if yielded.take(value):
            break
    result = yielded.result()
    results = [value for value in taken if isinstance(value, int)]
    shown = [value for value in taken if isinstance(value, str | dict)]
    if taken and isinstance(taken[-1], Return):
        assert result == taken[-1].value
    elif results:
        assert result == results[-1]
    else:
        assert result == (shown[-1] if shown else None)
    assert len(watched.events) == len([v for v in taken if isinstance(v, str | dict | Progress)])
