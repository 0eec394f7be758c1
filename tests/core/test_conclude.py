"""Concluding: wherever a log was cut off, it becomes legal and over, and says only what is known."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.core.conclude import conclude, ending
from streamchat.core.fold import Folder, fold
from streamchat.core.lifecycle import HELD, Lifecycle, check_log
from streamchat.events import (
    Cancelled,
    ErrorEvent,
    Finalized,
    JobResult,
    MessageCompleted,
    RunResumed,
    StoredEvent,
    StreamEvent,
    ToolResult,
    UnknownEvent,
)
from streamchat.messages import ToolCallPart
from streamchat.testing.strategies import SECRET, event_logs, stored_logs
from tests.core.logs import (
    CANCELLED,
    ERROR,
    STARTED,
    asked,
    begun,
    call,
    call_delta,
    completed,
    decided,
    finished,
    result,
    step,
    suspended,
    text,
    with_call,
    with_job,
)

REASONS = st.sampled_from(["worker_lost", "interrupted", "cancelled", "deadline", ERROR, CANCELLED])
RESUMED = st.sampled_from([None, "takeover", "cancel", "expired"])


def kinds(events: Sequence[StreamEvent]) -> list[str]:
    return [event.type for event in events]


# Whatever the log.


@given(event_logs(as_written=False, max_events=20), REASONS)
def test_every_prefix_of_every_log_is_legal_and_over_once_concluded(
    log: list[StreamEvent], reason: str | ErrorEvent | Cancelled
) -> None:
    for border in range(1, len(log) + 1):
        assert check_log([*log[:border], *conclude(log[:border], reason)]) == "over"


@given(event_logs(max_events=20), REASONS, RESUMED)
def test_so_is_every_prefix_that_a_new_holder_concludes(
    log: list[StreamEvent], reason: str | ErrorEvent | Cancelled, resumed: str | None
) -> None:
    for border in range(1, len(log) + 1):
        added = conclude(log[:border], reason, resumed=resumed, worker="w")  # type: ignore[arg-type]
        assert check_log([*log[:border], *added]) == "over"


@given(event_logs(cut="anywhere", as_written=False), REASONS)
def test_what_is_concluded_is_not_concluded_again(log: list[StreamEvent], reason: str) -> None:
    whole = [*log, *conclude(log, reason)]
    assert conclude(whole, reason) == conclude(whole, "worker_lost", resumed="takeover") == []


@given(event_logs(cut="anywhere", as_written=False), REASONS, st.data())
def test_a_conclusion_that_was_cut_off_is_finished_by_the_next(
    log: list[StreamEvent], reason: str, data: st.DataObject
) -> None:
    added = conclude(log, reason)
    cut = [*log, *added[: data.draw(st.integers(0, len(added)))]]
    if cut:
        assert check_log([*cut, *conclude(cut, "worker_lost", resumed="takeover")]) == "over"


@given(event_logs())
def test_a_log_that_is_over_needs_nothing(log: list[StreamEvent]) -> None:
    assert conclude(log, "worker_lost") == []


def test_an_empty_log_has_no_run_to_end() -> None:
    assert conclude([], "worker_lost") == conclude([], "cancelled", resumed="cancel") == []


@given(stored_logs(as_written=False), REASONS)
def test_stored_events_conclude_like_their_events(log: list[StoredEvent], reason: str) -> None:
    assert conclude(log, reason) == conclude([stored.event for stored in log], reason)


@given(event_logs(cut="anywhere", as_written=False), REASONS)
def test_each_call_has_its_one_result_and_each_job_its_end(log: list[StreamEvent], reason: str) -> None:
    added = conclude(log, reason)
    before = {call.call_id: call.state for call in fold(log).calls}
    results = {event.call_id: event.outcome for event in added if isinstance(event, ToolResult)}
    jobs = {event.call_id: event.outcome for event in added if isinstance(event, JobResult)}
    assert len(results) + len(jobs) == len([e for e in added if e.type in ("tool_result", "job_result")])
    if not added:
        return
    assert results == {
        call_id: "unknown" if state == "running" else "cancelled"
        for call_id, state in before.items()
        if state not in ("done", "deferred")
    }
    assert jobs == {call_id: "cancelled" for call_id, state in before.items() if state == "deferred"}
    assert {call.state for call in fold([*log, *added]).calls} <= {"done"}


@given(event_logs(cut="batch"), REASONS)
def test_the_ending_is_one_batch_and_the_last(log: list[StreamEvent], reason: str) -> None:
    added = kinds(conclude(log, reason))
    if added:
        first = "cancelled" if reason in ("cancelled", CANCELLED) else "error"
        assert added[-3:] == [first, "message_completed", "finalized"]
        assert not [kind for kind in added[:-3] if kind in HELD]


@given(event_logs(cut="batch"), REASONS)
def test_the_message_is_what_the_log_held(log: list[StreamEvent], reason: str) -> None:
    added = conclude(log, reason)
    if added:
        message = added[-2]
        assert isinstance(message, MessageCompleted)
        parts = {part.part: part for part in message.content}
        for part in fold(log).parts:
            if not isinstance(part, ToolCallPart):
                assert parts[part.part] == part
            else:
                assert (part.part in parts) == (part.state != "streaming")
        assert message.usage == fold(log).usage
        assert SECRET not in message.model_dump_json()


@given(event_logs(cut="anywhere", as_written=False), REASONS)
def test_something_unknown_at_the_end_changes_nothing(log: list[StreamEvent], reason: str) -> None:
    walk = Lifecycle()
    for event in log:
        walk.check(event)
    if walk.phase not in ("start", "over"):
        assert conclude([*log, UnknownEvent(type="from_the_future")], reason) == conclude(log, reason)


@given(event_logs(cut="anywhere", as_written=False), REASONS)
def test_the_message_tells_what_became_of_each_call(log: list[StreamEvent], reason: str) -> None:
    whole = [*log, *conclude(log, reason)]
    results = {e.call_id: e.outcome for e in whole if isinstance(e, ToolResult | JobResult)}
    for event in whole:
        if isinstance(event, MessageCompleted):
            calls = [part for part in event.content if isinstance(part, ToolCallPart)]
            assert {call.state for call in calls} <= {"done"}
            assert [call.outcome for call in calls] == [results[call.call_id] for call in calls]


# What a holder says first.

FIRST: dict[str, tuple[list[StreamEvent], str | None, str | None]] = {
    "a new holder says so": (with_call(), "takeover", "takeover"),
    "the old holder does not": (with_call(), None, None),
    "nobody has held a log of one event": ([STARTED], "takeover", None),
    "a suspended run is always resumed": ([*with_job(), suspended()], None, "handover"),
    "as whoever ends it says": ([*with_job(), suspended()], "expired", "expired"),
}


@pytest.mark.parametrize("name", FIRST)
def test_what_comes_first(name: str) -> None:
    log, resumed, expected = FIRST[name]
    first = conclude(log, "worker_lost", resumed=resumed, worker="w1")[0]  # type: ignore[arg-type]
    if expected is None:
        assert not isinstance(first, RunResumed)
    else:
        assert first == RunResumed(reason=expected, worker="w1")  # type: ignore[arg-type]


def test_a_suspended_run_that_is_cancelled_is_resumed_for_that() -> None:
    assert conclude([*with_job(), suspended()], "cancelled")[0] == RunResumed(reason="cancel")


# What is known of calls.

CALLS: dict[str, tuple[list[StreamEvent], list[str]]] = {
    "started, no result: unknown": (with_call(begun()), ["unknown"]),
    "tried twice, no result: unknown": (with_call(begun(), begun(attempt=2)), ["unknown"]),
    "never started: cancelled": (with_call(), ["cancelled"]),
    "not yet completed: cancelled": ([STARTED, step(), call()], ["cancelled"]),
    "not yet approved: cancelled": (with_call(asked()), ["cancelled"]),
    "approved, not started: cancelled": (with_call(asked(), decided(True)), ["cancelled"]),
    "refused: cancelled": (with_call(asked(), decided(False)), ["cancelled"]),
    "with a problem: cancelled": (with_call(problem="truncated"), ["cancelled"]),
    "the client's: cancelled": (with_call(executed_by="client"), ["cancelled"]),
    "a job that runs: cancelled": (with_job(), ["cancelled"]),
    "answered: nothing": (with_call(begun(), result()), []),
    "only in deltas: nothing": ([STARTED, step(), call_delta()], []),
    "withdrawn: nothing": ([STARTED, step(), call_delta()], []),
    "one of each": (
        [
            *with_job("j", 0),
            step(2),
            *(call(i, n, 2) for n, i in enumerate(("a", "b", "c"), 1)),
            completed("a", "b", "c", number=2),
            begun("a", 2),
            begun("b", 2),
            result("b", number=2),
        ],
        ["cancelled", "unknown", "cancelled"],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_becomes_what_is_known_of_it(name: str) -> None:
    log, outcomes = CALLS[name]
    added = conclude(log, "worker_lost")
    assert [event.outcome for event in added if isinstance(event, ToolResult | JobResult)] == outcomes
    assert check_log([*log, *added]) == "over"
    message = added[-2]
    assert isinstance(message, MessageCompleted)
    told = [part.outcome for part in message.content if isinstance(part, ToolCallPart)]
    assert sorted(outcome or "" for outcome in told if outcome != "ok") == sorted(outcomes)


def test_an_open_job_is_ended_under_its_own_id() -> None:
    (ended,) = [event for event in conclude(with_job(), "cancelled") if isinstance(event, JobResult)]
    assert (ended.job_id, ended.call_id, ended.step, ended.outcome) == ("r:a", "a", 1, "cancelled")
    assert ended.error is not None
    assert "run ended" in ended.error


# Why and how it ended.


def test_a_word_becomes_an_error_whose_message_is_safe() -> None:
    for word in ("worker_lost", "interrupted", "something_else"):
        error = conclude([STARTED], word)[0]
        assert isinstance(error, ErrorEvent)
        assert (error.phase, error.code, error.retryable) == ("orchestration", word, True)
        assert re.fullmatch(r"The [a-z ]+\.", error.message)


def test_a_reason_that_is_an_event_is_taken_as_it_is() -> None:
    assert conclude([STARTED], ERROR)[0] is ERROR
    assert conclude([STARTED], CANCELLED)[0] is CANCELLED
    assert conclude([STARTED], "cancelled")[0] == Cancelled()


def test_the_status_follows_the_reason() -> None:
    for reason, status in (("cancelled", "cancelled"), ("worker_lost", "error")):
        final = conclude([STARTED, step(), text()], reason, duration=2.5)[-1]
        assert isinstance(final, Finalized)
        assert (final.status, final.duration) == (status, 2.5)


HALF: dict[str, tuple[list[StreamEvent], list[str], str]] = {
    "failed": ([STARTED, step(), text(), ERROR], ["message_completed", "finalized"], "error"),
    "stopped": ([STARTED, CANCELLED], ["message_completed", "finalized"], "cancelled"),
    "failed, message there": ([STARTED, ERROR, MessageCompleted()], ["finalized"], "error"),
    "succeeded": ([STARTED, step(), completed(), finished(), MessageCompleted()], ["finalized"], "success"),
}


@pytest.mark.parametrize("name", HALF)
def test_of_half_an_ending_only_the_rest_is_added_whatever_the_reason(name: str) -> None:
    log, rest, status = HALF[name]
    for reason in ("worker_lost", "cancelled"):
        added = conclude(log, reason, resumed="takeover")
        assert kinds(added) == rest
        assert added[-1].status == status  # type: ignore[union-attr]


def test_only_a_success_tells_why_the_model_finished() -> None:
    folder = Folder()
    for event in (STARTED, step(), completed(finish_reason="stop"), finished()):
        folder.add(event)
    success, failure = ending(folder), ending(folder, ERROR)
    assert kinds(success) == ["message_completed", "finalized"]
    assert kinds(failure) == ["error", "message_completed", "finalized"]
    assert (success[0].finish_reason, failure[1].finish_reason) == ("stop", None)  # type: ignore[union-attr]
