"""The rules that all buffers share, and what would go wrong without them."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from streamchat.core.append_rule import (
    batch_must_last,
    claimable_since,
    decide_append,
    final_status,
    idempotency_slot,
    status_after_append,
    status_after_post,
)
from streamchat.core.lifecycle import BARRIERS
from streamchat.errors import InvalidInput

HELD = {"stored_generation": "g", "stored_head": 5, "stored_held": True, "lease_generation": "g"}


def decide(**changes: object) -> str:
    return decide_append(**{**HELD, "lease_head": 5, "batch": 2, "keeps": True, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "decision"),
    [
        ({}, "write"),
        ({"batch": 0}, "write"),
        ({"keeps": False}, "write"),
        ({"stored_generation": "h"}, "lost"),
        ({"stored_head": 7}, "recovered"),
        ({"stored_head": 7, "stored_generation": "h"}, "lost"),
        ({"stored_head": 7, "stored_held": False}, "lost"),
        ({"stored_head": 7, "keeps": False}, "lost"),
        ({"stored_head": 7, "stored_held": False, "keeps": False}, "recovered"),
        ({"stored_head": 6}, "lost"),
        ({"stored_head": 8}, "lost"),
        ({"stored_head": 4}, "lost"),
        ({"stored_held": False}, "lost"),
        ({"stored_held": False, "keeps": False}, "lost"),
        ({"stored_held": False, "batch": 0}, "lost"),
        ({"stored_held": False, "batch": 0, "keeps": False}, "recovered"),
    ],
)
def test_a_batch_is_written_recovered_or_lost(case: dict[str, object], decision: str) -> None:
    assert decide(**case) == decision


@given(st.integers(1, 10), st.integers(0, 10), st.integers(0, 5))
def test_a_holder_notices_that_the_store_went_back(head: int, back: int, size: int) -> None:
    """A fence number alone would let this holder through: nobody else has claimed."""
    restored = max(head - back, 0)
    decision = decide(stored_head=restored, lease_head=head, batch=size)
    assert decision == ("write" if restored == head else "lost")


@pytest.mark.parametrize(
    ("then", "types", "status"),
    [
        ("hold", [], "running"),
        ("hold", ["text_delta"], "running"),
        ("queue", ["text_delta"], "queued"),
        ("suspend", ["suspended"], "suspended"),
        ("over", ["message_completed", "finalized"], None),
    ],
)
def test_an_append_says_what_becomes_of_the_run(then: str, types: list[str], status: str | None) -> None:
    assert status_after_append(then, types) == status  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("then", "types"),
    [("over", []), ("over", ["text_delta"]), ("hold", ["finalized"]), ("over", ["finalized", "finalized"])],
)
def test_an_ending_needs_its_event(then: str, types: list[str]) -> None:
    with pytest.raises(InvalidInput):
        status_after_append(then, types)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", ["success", "error", "cancelled"])
def test_a_run_ends_as_its_last_event_says(status: str) -> None:
    assert final_status(b'{"type":"finalized","status":"%b"}' % status.encode()) == status


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"status":"running"}', b'{"status":null}', b"\xff"])
def test_an_end_without_a_status_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        final_status(data)


def test_a_post_wakes_only_who_sleeps() -> None:
    statuses = ("queued", "running", "suspended", "success")
    assert [status_after_post(status) for status in statuses] == ["queued", "running", "queued", "success"]


@pytest.mark.parametrize(
    ("status", "times", "since"),
    [
        ("queued", (10, None, None), 10),
        ("queued", (10, 50, 60), 10),
        ("running", (None, 99, None), 99),
        ("running", (None, 100, None), 100),
        ("running", (None, 101, None), None),
        ("suspended", (None, None, 100), 100),
        ("suspended", (None, None, 101), None),
        ("suspended", (None, None, None), None),
        ("success", (1, 1, 1), None),
    ],
)
def test_a_run_is_there_to_be_taken_since(
    status: str, times: tuple[int | None, int | None, int | None], since: int | None
) -> None:
    queued_at, lease_until, wake_at = times
    found = claimable_since(status, queued_at=queued_at, lease_until=lease_until, wake_at=wake_at, now=100)
    assert found == since


def test_barriers_answers_and_endings_must_last_and_deltas_need_not() -> None:
    assert not batch_must_last(["text_delta", "status"], consumed=0, keeps=True)
    assert batch_must_last(["text_delta"], consumed=1, keeps=True)
    assert batch_must_last([], consumed=0, keeps=False)
    for barrier in BARRIERS:
        assert batch_must_last(["text_delta", barrier], consumed=0, keeps=True)


@given(st.lists(st.tuples(st.none() | st.text(), st.none() | st.text(), st.text()), unique=True, min_size=2))
def test_no_two_principals_share_a_key(keys: list[tuple[str | None, str | None, str]]) -> None:
    slots = {idempotency_slot(*key) for key in keys}
    assert len(slots) == len(keys)
    assert all(len(slot) == 64 and slot.isascii() for slot in slots)
