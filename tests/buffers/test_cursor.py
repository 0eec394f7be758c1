"""Cursors: what is one, and where a reader with one goes on."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from streamchat.core.cursor import (
    MAX_SEQ,
    RUN_PART,
    Cursor,
    Position,
    Reset,
    next_generation,
    owner_of,
    parse_cursor,
    resolve,
)
from streamchat.errors import CursorInvalid

GENERATIONS = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=64)
SEQS = st.integers(0, MAX_SEQ)

# One run: created by a (1-3), claimed by b (4-5), by c (nothing), by d (6-9); e is to come.
FIRST = "runpart0aaaaaaaa"
A, B, C, D, E = (next_generation(FIRST, letter * 8) for letter in "abcde")
SEGMENTS = [(A, 1), (B, 4), (C, 6), (D, 6), (E, 10)]
OWNERS = {0: A, 1: A, 2: A, 3: A, 4: B, 5: B, 6: D, 7: D, 8: D, 9: D}
OTHER_RUN = "otherrunaaaaaaaa"


@given(GENERATIONS, SEQS)
def test_a_cursor_is_read_as_it_is_written(generation: str, seq: int) -> None:
    assert parse_cursor(str(Cursor(generation, seq))) == Cursor(generation, seq)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "abc",
        "abc.",
        ".5",
        "abc.05",
        "abc.-1",
        "abc.+1",
        "abc.1.0",
        "abc.1e3",
        "abc. 1",
        " abc.1",
        "abc.1 ",
        "abc.1\n",
        "ABC.1",
        "äbc.1",
        "abc.１",
        "a b.1",
        "abc.1\0",
        "a" * 65 + ".1",
        f"abc.{MAX_SEQ + 1}",
        "abc." + "9" * 400,
        "undefined",
        "null",
        "5",
    ],
)
def test_what_is_not_of_that_form_is_refused_and_named(text: str) -> None:
    with pytest.raises(CursorInvalid) as caught:
        parse_cursor(text)
    assert caught.value.field == "last_event_id"
    assert repr(text)[1:60] in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.text())
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        cursor = parse_cursor(text)
    except CursorInvalid:
        return
    assert str(cursor) == text


def test_a_segment_owns_its_seqs_up_to_the_next_and_an_empty_one_none() -> None:
    assert {seq: owner_of(seq, SEGMENTS) for seq in OWNERS} == OWNERS
    assert owner_of(10, SEGMENTS) == E
    assert owner_of(1, []) is None


@pytest.mark.parametrize("seq", OWNERS)
@pytest.mark.parametrize("generation", [A, B, C, D, E])
def test_a_cursor_is_valid_iff_its_generation_owns_its_seq(seq: int, generation: str) -> None:
    verdict = resolve(Cursor(generation, seq), SEGMENTS, 1, 9)
    assert verdict == (Position(seq) if OWNERS[seq] == generation else Reset("diverged"))


@pytest.mark.parametrize("generation", [D, E])
def test_a_cursor_ahead_of_the_log_is_unknown(generation: str) -> None:
    assert resolve(Cursor(generation, 10), SEGMENTS, 1, 9) == Reset("unknown")


def test_a_generation_that_the_store_has_lost_is_diverged_and_not_another_run() -> None:
    lost = next_generation(FIRST, "lostlost")
    assert resolve(Cursor(lost, 5), SEGMENTS, 1, 9) == Reset("diverged")


@pytest.mark.parametrize("cursor", [None, Cursor(OTHER_RUN, 0), Cursor(OTHER_RUN, 5), Cursor(OTHER_RUN, 500)])
def test_no_cursor_and_that_of_another_run_mean_the_start(cursor: Cursor | None) -> None:
    assert resolve(cursor, SEGMENTS, 1, 9) == Position(0)
    assert resolve(cursor, SEGMENTS, 8, 9) == Reset("trimmed")


def test_a_reader_behind_the_trim_gets_a_reset_and_one_at_its_edge_goes_on() -> None:
    verdicts = {seq: resolve(Cursor(OWNERS[seq], seq), SEGMENTS, 8, 9) for seq in OWNERS}
    assert verdicts == {seq: Position(seq) if seq >= 7 else Reset("trimmed") for seq in OWNERS}


def test_the_priming_id_is_a_cursor_as_long_as_the_log_is_whole() -> None:
    assert resolve(Cursor(A, 0), SEGMENTS, 1, 9) == Position(0)
    assert resolve(Cursor(B, 0), SEGMENTS, 1, 9) == Reset("diverged")


def test_the_generations_of_one_run_share_their_beginning() -> None:
    assert {generation[:RUN_PART] for generation in (A, B, C, D, E)} == {FIRST[:RUN_PART]}
    assert len({A, B, C, D, E}) == 5


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.data(),
)
def test_a_cursor_stays_valid_over_later_claims(sizes: list[int], data: st.DataObject) -> None:
    segments, events, seq = [], [], 1
    for number, size in enumerate(sizes):
        generation = next_generation(FIRST, f"{number:08}")
        segments.append((generation, seq))
        events += [Cursor(generation, seq + offset) for offset in range(size)]
        seq += size
    seen = data.draw(st.integers(1, len(segments)))
    for cursor in events:
        before = resolve(cursor, segments[:seen], 1, len(events))
        if isinstance(before, Position) and owner_of(cursor.seq, segments) == cursor.generation:
            assert resolve(cursor, segments, 1, len(events)) == before == Position(cursor.seq)
        assert resolve(cursor, segments, 1, len(events)) == Position(cursor.seq)
