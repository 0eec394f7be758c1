"""Events on their way into the log: merged without a trace, and never split where they belong together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat import check_log, fold
from streamchat.events import StreamEvent, TextDelta, ToolCallDelta
from streamchat.service.pending import Pending, merge_deltas
from streamchat.testing.strategies import event_logs


def text(part: int, words: str, step: int = 1) -> TextDelta:
    return TextDelta(step=step, part=part, text=words)


@given(event_logs())
def test_merging_changes_neither_the_fold_nor_the_legality_of_a_log(log: list[StreamEvent]) -> None:
    merged = merge_deltas(log)
    assert len(merged) <= len(log)
    assert check_log(merged) == check_log(log)
    ours, theirs = fold(merged), fold(log)
    assert ours.model_copy(update={"events": 0}) == theirs.model_copy(update={"events": 0})


def test_neighbouring_deltas_of_one_part_become_one() -> None:
    merged = merge_deltas([text(0, "a"), text(0, "b"), text(1, "c"), text(0, "d")])
    assert [(e.part, e.text) for e in merged if isinstance(e, TextDelta)] == [(0, "ab"), (1, "c"), (0, "d")]


def test_fragments_of_two_calls_stay_apart_and_a_name_is_kept() -> None:
    def fragment(call: str, arguments: str, name: str | None = None) -> ToolCallDelta:
        return ToolCallDelta(
            step=1, part=0 if call == "a" else 1, call_id=call, name=name, arguments=arguments
        )

    merged = merge_deltas(
        [fragment("a", "{", "f"), fragment("a", "}"), fragment("b", "{}", "g"), fragment("a", " ")]
    )
    assert [(e.call_id, e.name, e.arguments) for e in merged if isinstance(e, ToolCallDelta)] == [
        ("a", "f", "{}"),
        ("b", "g", "{}"),
        ("a", None, " "),
    ]


def test_a_group_is_taken_whole_or_not_at_all() -> None:
    pending = Pending()
    pending.add(text(0, "before"), more=False)
    pending.add(text(1, "first"), more=True)
    assert [e.text for e in pending.take() if isinstance(e, TextDelta)] == ["before"]
    assert not pending
    pending.add(text(2, "last"), more=False)
    assert [e.text for e in pending.take() if isinstance(e, TextDelta)] == ["first", "last"]


@given(st.lists(st.booleans(), min_size=1))
@pytest.mark.parametrize("taken_at", [1, 2, 3])
def test_groups_leave_in_order_however_often_they_are_taken(taken_at: int, more: list[bool]) -> None:
    pending, taken = Pending(), []
    for number, follows in enumerate(more):
        pending.add(text(number, str(number)), more=follows)
        if number % taken_at == 0:
            taken += pending.take()
    taken += pending.take()
    complete = len(more) - next((i for i, follows in enumerate(reversed(more)) if not follows), len(more))
    assert [e.part for e in taken if isinstance(e, TextDelta)] == list(range(complete))
