"""The fold: in pieces as at once, equal to a slow second fold, and nothing private in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.core.fold import _HANDLERS, Folder, RunState, fold
from streamchat.core.lifecycle import Lifecycle
from streamchat.events import (
    EVENT_TYPES,
    Cancelled,
    CustomEvent,
    ErrorEvent,
    FinishedPart,
    MessageCompleted,
    ResumeReason,
    RunResumed,
    RunStarted,
    StatusEvent,
    StepFinished,
    StepReset,
    StoredEvent,
    StreamEvent,
    UnknownEvent,
)
from streamchat.messages import ReasoningPart, RefusalPart, TextPart, ToolCallPart, Usage
from streamchat.testing.strategies import SECRET, event_logs, events, stored_logs
from tests.core.logs import (
    CANCELLED,
    ERROR,
    STARTED,
    asked,
    begun,
    call_delta,
    completed,
    decided,
    finished,
    job,
    progress,
    reset,
    result,
    step,
    suspended,
    text,
    with_call,
    with_job,
)
from tests.core.oracle import calls_of, texts_of, wholes_of

FOR_EYES_ONLY = {"status", "custom"}


def test_each_type_is_folded_or_named_here_as_one_that_changes_nothing() -> None:
    assert set(_HANDLERS) | FOR_EYES_ONLY == set(EVENT_TYPES)
    assert not set(_HANDLERS) & FOR_EYES_ONLY


# In pieces as at once.


def through_json(state: RunState) -> RunState:
    return RunState.model_validate_json(state.model_dump_json())


@given(event_logs(cut="anywhere", as_written=False, max_events=20))
def test_a_fold_in_two_pieces_is_a_fold_at_once_at_every_border(log: list[StreamEvent]) -> None:
    whole = fold(log)
    for border in range(len(log) + 1):
        assert fold(log[border:], fold(log[:border])) == whole


@given(event_logs(cut="anywhere", as_written=False, max_events=20))
def test_a_snapshot_is_as_good_as_the_log_before_it(log: list[StreamEvent]) -> None:
    whole = fold(log)
    for border in range(len(log) + 1):
        again = fold(log[border:], through_json(fold(log[:border])))
        assert again == whole
        assert again.model_dump_json() == whole.model_dump_json()


@given(stored_logs(as_written=False), st.lists(st.integers(0, 40), max_size=5))
def test_a_fold_in_many_pieces_over_stored_events_is_a_fold_at_once(
    log: list[StoredEvent], borders: list[int]
) -> None:
    state, before = RunState(), 0
    for border in sorted({min(border, len(log)) for border in borders}):
        state, before = through_json(fold(log[before:border], state)), border
    assert fold(log[before:], state) == fold(log)


@given(event_logs(as_written=False))
def test_looking_at_the_state_changes_nothing(log: list[StreamEvent]) -> None:
    folder = Folder()
    for event in log:
        assert folder.state == folder.state
        folder.content()
        folder.add(event)
    assert folder.state == fold(log)


@given(event_logs(cut="batch"))
def test_a_state_is_not_changed_by_folding_on_from_it(log: list[StreamEvent]) -> None:
    for border in range(len(log)):
        state = fold(log[:border])
        before = state.model_dump_json()
        fold(log[border:], state)
        assert state.model_dump_json() == before


@given(stored_logs(as_written=False))
def test_stored_events_fold_like_their_events_but_for_place_and_time(log: list[StoredEvent]) -> None:
    state = fold(log)
    bare = fold(stored.event for stored in log)
    times = ("seq", "started_at", "first_token_at", "ended_at")
    assert state.model_dump(exclude=set(times)) == bare.model_dump(exclude=set(times))
    assert state.seq == log[-1].seq
    assert state.started_at == log[0].at
    assert state.ended_at == (log[-1].at if state.over else None)
    assert state.events == len(log)


# What the content is.


@given(event_logs(cut="anywhere", as_written=False))
def test_the_content_is_what_a_second_fold_says(log: list[StreamEvent]) -> None:
    folder = Folder()
    for event in log:
        folder.add(event)
    parts = folder.content()
    numbers = [part.part for part in parts]
    assert numbers == sorted(set(numbers))
    said = [part for part in parts if isinstance(part, TextPart | ReasoningPart | RefusalPart)]
    assert {part.part: (part.type, part.text) for part in said} == texts_of(log)
    assert {p.part: p.type for p in parts if p.type in ("source", "file")} == wholes_of(log)
    calls = {p.call_id: p for p in parts if isinstance(p, ToolCallPart)}
    names = ("part", "state", "outcome", "output", "attempts")
    assert {i: {name: getattr(c, name) for name in names} for i, c in calls.items()} == calls_of(log)


@given(event_logs())
def test_the_whole_message_at_the_end_is_what_the_log_before_it_folds_to(log: list[StreamEvent]) -> None:
    message = log[-2]
    assert isinstance(message, MessageCompleted)
    before = fold(log[:-2])
    assert tuple(part for part in before.parts if part not in streaming(before)) == message.content
    assert fold(log).parts == message.content
    assert message.usage == before.usage == fold(log).usage


def streaming(state: RunState) -> list[object]:
    return [part for part in state.parts if isinstance(part, ToolCallPart) and part.state == "streaming"]


@given(stored_logs(cut=None))
def test_the_last_batch_of_a_trimmed_log_folds_to_the_whole_message(log: list[StoredEvent]) -> None:
    whole = fold(log)
    last = fold(log[-2 if whole.status == "success" else -3 :])
    names = (
        "parts",
        "status",
        "usage",
        "finish_reason",
        "error",
        "cancelled",
        "duration",
        "ended_at",
        "seq",
        "waits",
    )
    assert {name: getattr(last, name) for name in names} == {name: getattr(whole, name) for name in names}


@given(stored_logs(cut=None), st.data())
def test_a_log_that_lost_its_beginning_still_folds(log: list[StoredEvent], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(log) - 1))
    whole, rest = fold(log), fold(log[first:])
    assert rest.status == whole.status
    if first <= len(log) - 2:
        assert rest.parts == whole.parts


@given(event_logs(cut="anywhere", as_written=False))
def test_no_part_number_is_used_again(log: list[StreamEvent]) -> None:
    life = Lifecycle()
    for event in log:
        life.check(event)
    assert fold(log).last_part == life.last_part


@given(event_logs(as_written=False), st.data())
def test_what_is_for_eyes_only_changes_nothing(log: list[StreamEvent], data: st.DataObject) -> None:
    where = data.draw(st.integers(0, len(log)))
    noise: list[StreamEvent] = [
        StatusEvent(status="thinking"),
        CustomEvent(name="n", data=data.draw(st.integers())),
        UnknownEvent(type="from_the_future"),
    ]
    state = fold([*log[:where], *noise, *log[where:]])
    assert state.model_copy(update={"events": len(log)}) == fold(log)


def test_a_reset_withdraws_parts_and_calls_of_its_step_alone() -> None:
    log: list[StreamEvent] = [
        *with_job("a", 0),
        step(2),
        text(1, "gone", 2),
        call_delta("b", 2, number=2),
        reset(2),
    ]
    state = fold(log)
    assert [part.part for part in state.parts] == [0]
    assert state.steps[1].resets == 1
    assert state.last_part == 2
    state = fold([text(3, "new", 2), call_delta("b", 4, "{}", 2)], state)
    assert [(p.part, getattr(p, "text", getattr(p, "arguments_text", None))) for p in state.parts[1:]] == [
        (3, "new"),
        (4, "{}"),
    ]


def test_a_call_id_that_a_reset_freed_begins_a_new_call() -> None:
    log = [*with_job("a", 0), step(2), call_delta("b", 1, "{old", 2), reset(2), call_delta("b", 2, "{new", 2)]
    old, new = fold(log).parts
    assert isinstance(new, ToolCallPart)
    assert (new.part, new.call_id, new.arguments_text) == (2, "b", "{new")
    (done, _) = fold([*log, job()]).parts
    assert isinstance(old, ToolCallPart)
    assert isinstance(done, ToolCallPart)
    assert (old.state, done.state) == ("deferred", "done")


def test_the_message_brings_the_usage_where_the_steps_were_trimmed() -> None:
    usage = Usage(input_tokens=5)
    assert fold([MessageCompleted(usage=usage)]).usage == usage
    assert fold([completed(usage=usage), MessageCompleted()]).usage == usage


def test_model_completed_replaces_text_where_it_differs() -> None:
    log: list[StreamEvent] = [STARTED, step(), text(0, "Helo"), text(1, "kept"), text(2, "not named")]
    log.append(completed(parts=(FinishedPart(part=0, text="Hello"), FinishedPart(part=1))))
    assert [part.text for part in fold(log).parts if isinstance(part, TextPart)] == [
        "Hello",
        "kept",
        "not named",
    ]
    assert fold(log).text == "Hellokeptnot named"


def test_the_last_words_of_a_call_are_its_state() -> None:
    states = []
    for border in range(3, 12):
        log = with_call(asked(), decided(True, arguments={"x": 1}), begun(), progress(), begun(attempt=2))
        log = [*log, result(outcome="deferred", output="soon"), job(output=2**80)][:border]
        states.append([(c.state, c.attempts, c.outcome, c.output) for c in fold(log).calls])
    assert states == [
        [("called", 0, None, None)],
        [("called", 0, None, None)],
        [("approval", 0, None, None)],
        [("called", 0, None, None)],
        [("running", 1, None, None)],
        [("running", 1, None, None)],
        [("running", 2, None, None)],
        [("deferred", 2, "deferred", "soon")],
        [("done", 2, "ok", 2**80)],
    ]


def test_edited_arguments_stand_in_the_calls_place() -> None:
    (edited,) = fold(
        with_call(asked(), decided(True, arguments={"to": "ann"}), arguments={"to": "bob"})
    ).calls
    (refused,) = fold(with_call(asked(), decided(False), arguments={"to": "bob"})).calls
    assert edited.arguments == {"to": "ann"}
    assert refused.arguments == {"to": "bob"}


def test_a_call_known_only_from_deltas_is_in_the_state_and_not_in_the_content() -> None:
    folder = Folder()
    folder.add(call_delta("a", 0, '{"x":'))
    folder.add(call_delta("a", 0, "1}"))
    (part,) = folder.state.parts
    assert isinstance(part, ToolCallPart)
    assert (part.state, part.arguments_text, part.name) == ("streaming", '{"x":1}', "tool")
    assert folder.content() == folder.state.calls == ()


def test_progress_is_the_latest_word() -> None:
    (call_,) = fold(with_call(begun(), progress())).calls
    assert call_.progress == {"fraction": 0.5}


# Status, sums and times.

STATUS = [
    ([], "queued"),
    ([STARTED], "queued"),
    ([STARTED, step()], "running"),
    ([STARTED, RunResumed(reason="takeover")], "running"),
    ([*with_job(), suspended()], "suspended"),
    ([*with_job(), suspended(), RunResumed(reason="job")], "running"),
    ([STARTED, ERROR], "queued"),
]


@pytest.mark.parametrize(("log", "status"), STATUS, ids=lambda x: x if isinstance(x, str) else "")
def test_the_status_is_the_lifecycles(log: list[StreamEvent], status: str) -> None:
    assert fold(log).status == status


@given(event_logs())
def test_a_whole_log_folds_to_the_status_of_its_end(log: list[StreamEvent]) -> None:
    state = fold(log)
    assert state.status == log[-1].status  # type: ignore[union-attr]
    assert state.over
    assert (state.error is not None, state.cancelled is not None) == (
        state.status == "error",
        state.status == "cancelled",
    )
    assert state.waits == ()


def test_waits_stand_until_the_run_is_resumed() -> None:
    log = [*with_call(asked()), suspended("approval")]
    assert [wait.kind for wait in fold(log).waits] == ["approval"]
    assert fold([*log, RunResumed(reason="approval")]).waits == ()


def test_only_takeovers_are_counted() -> None:
    reasons: tuple[ResumeReason, ...] = (*get_args(ResumeReason), "takeover")
    assert fold([STARTED, *(RunResumed(reason=reason) for reason in reasons)]).takeovers == 2


def test_usage_is_summed_over_steps_and_names_only_what_all_share() -> None:
    first = Usage(provider="p", model="small", input_tokens=1, output_tokens=2, total_tokens=3)
    second = Usage(
        provider="p", model="large", input_tokens=10, cached_input_tokens=5, reasoning_tokens=2**70
    )
    log: list[StreamEvent] = [
        STARTED,
        step(),
        completed(usage=first),
        finished(),
        step(2),
        completed(number=2, usage=second),
    ]
    state = fold(log)
    assert state.usage == Usage(
        provider="p",
        input_tokens=11,
        output_tokens=2,
        total_tokens=3,
        cached_input_tokens=5,
        reasoning_tokens=2**70,
    )
    assert [s.usage for s in state.steps] == [first, second]
    assert fold([STARTED, step(), completed(), finished()]).usage is None


def test_a_step_tells_what_became_of_it() -> None:
    log: list[StreamEvent] = [
        STARTED,
        step(),
        StepReset(step=1, attempt=1, reason="provider"),
        completed(finish_reason="stop"),
        StepFinished(step=1, duration=2.5, time_to_first_token=0.5),
    ]
    (told,) = fold(log).steps
    assert told.model_dump(exclude={"name", "usage"}) == {
        "step": 1,
        "kind": "model",
        "model_completed": True,
        "finished": True,
        "resets": 1,
        "finish_reason": "stop",
        "duration": 2.5,
        "time_to_first_token": 0.5,
    }


def test_the_first_token_is_the_first_that_a_reader_could_see() -> None:
    log: list[StreamEvent] = [STARTED, step(), StatusEvent(status="thinking"), text(0, "a"), text(0, "b")]
    stored = [StoredEvent(seq, 1000 + seq, event, "g") for seq, event in enumerate(log, 1)]
    state = fold(stored)
    assert (state.started_at, state.first_token_at, state.ended_at) == (1001, 1004, None)


# Nothing private.


@given(event_logs(cut="anywhere", as_written=False))
def test_a_state_never_holds_what_is_private(log: list[StreamEvent]) -> None:
    state = fold(log)
    assert SECRET not in state.model_dump_json() + repr(state) + str(state.model_dump())
    held = [state.error, state.cancelled, *state.waits, *state.parts, *state.steps]
    assert not [thing for thing in held if getattr(thing, "private", None) is not None]


EVERY_TYPE = [events(kind) for kind in EVENT_TYPES]


@given(st.lists(st.sampled_from(EVERY_TYPE).flatmap(lambda strategy: strategy), max_size=5))
def test_even_a_senseless_log_folds_and_puts_nothing_private_into_the_state(
    log: Sequence[StreamEvent],
) -> None:
    state = fold(log)
    assert SECRET not in repr(state) + state.model_dump_json()


@pytest.mark.parametrize("event", [ERROR, CANCELLED], ids=["error", "cancelled"])
def test_the_reason_of_an_ending_loses_its_private_fields(event: ErrorEvent | Cancelled) -> None:
    state = fold([STARTED, event.model_copy(update={"private": {"traceback": SECRET}})])
    assert (state.error or state.cancelled) == event


def test_what_a_provider_wants_back_is_beside_the_state() -> None:
    folder = Folder()
    folder.add(step())
    folder.add(completed(private={"chat": {"signature": SECRET}}))
    assert folder.extras == {1: {"chat": {"signature": SECRET}}}


# Numbers that other languages cannot hold are none of the fold's business.


def test_integers_of_any_size_survive_the_snapshot() -> None:
    state = fold(with_call(begun(), result(output={"n": [2**200]}), arguments={"n": -(2**64)}))
    assert through_json(state) == state
    assert json.loads(state.model_dump_json())["parts"][0]["output"]["n"] == [2**200]


@given(event_logs(cut="anywhere"))
def test_the_head_of_the_log_is_in_the_state(log: list[StreamEvent]) -> None:
    state = fold(log)
    if log:
        assert isinstance(log[0], RunStarted)
        assert (state.run_id, state.parent_run_id) == (log[0].run_id, log[0].parent_run_id)
