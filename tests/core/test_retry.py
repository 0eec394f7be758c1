"""What a retry begins with is a legal log with what its parent had up to there, whatever happened in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamchat.core.conclude import conclude
from streamchat.core.fold import fold
from streamchat.core.lifecycle import check_log
from streamchat.core.retry import kept_events, kept_key
from streamchat.errors import InvalidInput, NotRetryable
from streamchat.events import Cancelled, RunResumed, RunStarted, StoredEvent, ToolCallEvent
from streamchat.testing.strategies import event_logs

STARTED = RunStarted(run_id="child", conversation_id="c", message_id="m", parent_run_id="parent")
RESUMED = RunResumed(reason="retry", worker="w")


def stored(log: Sequence[Any]) -> list[StoredEvent]:
    return [StoredEvent(seq, 0, event, "g") for seq, event in enumerate(log, 1)]


def over(log: Sequence[Any]) -> list[StoredEvent]:
    """A walk may stop anywhere: a cancel ends it."""
    log = list(log)
    if not log or log[-1].type != "finalized":
        log += conclude(log, Cancelled(), resumed="cancel", worker="w")
    return stored(log)


def kept_keys(kept: Sequence[StoredEvent]) -> dict[str, str | None]:
    return {e.event.call_id: kept_key(e.event) for e in kept if isinstance(e.event, ToolCallEvent)}


def begun(kept: Sequence[StoredEvent]) -> list[Any]:
    return [STARTED, *(event.event for event in kept), *([RESUMED] if kept else [])]


@given(event_logs(), st.data())
def test_from_any_step_the_steps_before_stand_as_they_were(log: Sequence[Any], data: st.DataObject) -> None:
    whole = over(log)
    steps = fold(whole).steps
    assume(steps)
    step = data.draw(st.integers(1, len(steps)))
    child = begun(kept_events(whole, from_step=step))
    assert check_log(child) == "ready"
    state = fold(child)
    assert [s.step for s in state.steps] == list(range(1, step))
    kept_parts = {part.part: part for part in state.parts}
    for part in fold(whole).parts:
        # What a job says and came to while later steps ran is told without those steps.
        own = {"state", "job", "progress"}
        if part.part in kept_parts:
            assert kept_parts[part.part].model_dump(exclude=own) == part.model_dump(exclude=own)
    assert not state.waits


@given(event_logs(), st.data())
def test_any_call_that_failed_can_be_done_again_and_only_that_one(
    log: Sequence[Any], data: st.DataObject
) -> None:
    whole = over(log)
    calls = [event.event.call_id for event in whole if event.type == "tool_call"]
    assume(calls)
    call_id = data.draw(st.sampled_from(calls))
    try:
        kept = kept_events(whole, call_id=call_id)
    except (NotRetryable, InvalidInput):
        state = {call.call_id: call for call in fold(whole).calls}.get(call_id)
        assume(state is not None)
        return
    child = begun(kept)
    assert check_log(child) == "tools"
    after = {call.call_id: call for call in fold(child).calls}
    before = {call.call_id: call for call in fold(whole).calls}
    assert after[call_id].outcome is None
    assert before[call_id].outcome != "ok" or before[call_id].job is not None
    for name in after.keys() - {call_id}:
        assert after[name].outcome == before[name].outcome
    started = [
        e.event.idempotency_key for e in whole if e.type == "tool_started" and e.event.call_id == call_id
    ]
    keys = kept_keys(kept)
    assert keys == {name: started[-1] if started and name == call_id else None for name in keys}
    assert kept_keys(kept_events(over(child), call_id=call_id)) == keys


@given(event_logs(cut="batch"))
def test_nothing_of_a_run_that_is_not_over_is_retried(log: Sequence[Any]) -> None:
    assume(not log or log[-1].type != "finalized")
    with pytest.raises(NotRetryable) as caught:
        kept_events(stored(log))
    assert caught.value.reason == "run_active"


@given(event_logs())
def test_the_whole_run_anew_keeps_nothing_and_what_is_not_there_is_refused(log: Sequence[Any]) -> None:
    whole = over(log)
    assert kept_events(whole) == []
    with pytest.raises(InvalidInput, match="no step"):
        kept_events(whole, from_step=len(fold(whole).steps) + 2)
    with pytest.raises(InvalidInput, match="no call"):
        kept_events(whole, call_id="not a call of this run")
    with pytest.raises(InvalidInput, match="not both"):
        kept_events(whole, from_step=1, call_id="x")


@given(event_logs())
def test_what_is_kept_keeps_its_private_fields(log: Sequence[Any]) -> None:
    whole = over(log)
    for event in kept_events(whole, from_step=max(1, len(fold(whole).steps))):
        assert event in whole
