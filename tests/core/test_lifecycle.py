"""The legal order: every pair of the tables is accepted, every other refused, and so is each broken rule."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.core.lifecycle import (
    BARRIERS,
    CALL,
    HELD,
    RUN,
    CallPhase,
    Lifecycle,
    Phase,
    call_event,
    check_log,
    diagram,
)
from streamchat.errors import IllegalEvent
from streamchat.events import (
    EVENT_TYPES,
    CustomEvent,
    FileEvent,
    Finalized,
    FinishedPart,
    MessageCompleted,
    ReasoningDelta,
    RefusalDelta,
    RunResumed,
    SourceEvent,
    StatusEvent,
    StreamEvent,
    Suspended,
    UnknownEvent,
)
from streamchat.testing.choices import SeededChoices
from streamchat.testing.log_walk import ENDINGS, LogWalk
from streamchat.testing.strategies import batch_borders, event_logs, events, stored_logs
from tests.core.logs import (
    CANCELLED,
    ERROR,
    RESUMED,
    STARTED,
    asked,
    begun,
    call,
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

MESSAGE = MessageCompleted()
SUCCESS = Finalized(status="success")

# A log that ends in each phase, and what must be added for an event that needs a call in a certain state.
REACH: dict[Phase, list[StreamEvent]] = {
    "start": [],
    "ready": [STARTED],
    "model": [STARTED, step()],
    "tools": with_call(),
    "suspended_ready": [*with_job(), suspended()],
    "suspended_tools": [*with_call(), asked(), suspended("approval")],
    "failed": [STARTED, ERROR],
    "stopped": [STARTED, CANCELLED],
    "message": [STARTED, MESSAGE],
    "over": [STARTED, MESSAGE, SUCCESS],
}
NEEDS: dict[tuple[str, str], list[StreamEvent]] = {
    ("ready", "job_result"): with_job(),
    ("ready", "suspended"): with_job(),
    ("model", "job_result"): [*with_job(), step(2)],
    ("model", "tool_progress"): [*with_job(), step(2)],
    ("model", "tool_result"): [STARTED, step(), call()],
    ("tools", "approval_resolved"): with_call(asked()),
    ("tools", "tool_progress"): with_call(begun()),
    ("tools", "suspended"): with_call(asked()),
    ("tools", "job_result"): with_call(begun(), result(outcome="deferred")),
    ("tools", "step_finished"): with_call(result(outcome="denied")),
    ("tools", "error"): with_call(result(outcome="denied")),
    ("tools", "cancelled"): with_call(result(outcome="denied")),
}


def an_event(kind: str, phase: str) -> StreamEvent:
    """An event of this type that fits the log of `NEEDS` or `REACH`, if any of its type may come at all."""
    simple: dict[str, StreamEvent] = {
        "run_started": STARTED,
        "run_resumed": RESUMED,
        "status": StatusEvent(status="thinking"),
        "step_started": step(),
        "step_finished": finished(),
        "text_delta": text(5),
        "reasoning_delta": ReasoningDelta(step=1, part=5, text="so"),
        "refusal_delta": RefusalDelta(step=1, part=5, text="no"),
        "source": SourceEvent(step=1, part=5),
        "file": FileEvent(step=1, part=5),
        "tool_call_delta": call_delta("b", 5),
        "tool_call": call("b", 5),
        "model_completed": completed(),
        "step_reset": reset(),
        "approval_requested": asked(),
        "approval_resolved": decided(True),
        "tool_started": begun(),
        "tool_progress": progress(),
        "tool_result": result(outcome="cancelled"),
        "job_result": job(),
        "suspended": suspended("job" if phase == "ready" else "approval"),
        "custom": CustomEvent(name="n"),
        "error": ERROR,
        "cancelled": CANCELLED,
        "message_completed": MESSAGE,
        "finalized": SUCCESS,
    }
    return simple[kind]


def walk(log: list[StreamEvent]) -> Lifecycle:
    life = Lifecycle()
    for event in log:
        life.check(event)
    return life


# The tables.


def test_the_tables_have_a_row_for_each_phase_and_lead_only_to_such() -> None:
    assert set(RUN) == set(get_args(Phase))
    assert set(CALL) == set(get_args(CallPhase))
    assert {after for row in RUN.values() for after in row.values()} <= set(RUN)
    assert {after for row in CALL.values() for after in row.values()} == set(CALL) - {"new"}
    assert set(HELD) | set(HELD.values()) | BARRIERS <= set(EVENT_TYPES)


@pytest.mark.parametrize("phase", RUN)
def test_a_log_can_end_in_each_phase(phase: Phase) -> None:
    assert check_log(REACH[phase]) == phase


@pytest.mark.parametrize("kind", EVENT_TYPES)
@pytest.mark.parametrize("phase", RUN)
def test_each_pair_of_the_table_is_accepted_and_each_other_refused(phase: Phase, kind: str) -> None:
    life = walk(NEEDS.get((phase, kind), REACH[phase]))
    assert life.phase == phase
    after = RUN[phase].get(kind)
    if after is None:
        allowed = ", ".join(sorted(RUN[phase])) or "nothing"
        with pytest.raises(
            IllegalEvent, match=f"type='{kind}'.* in phase '{phase}': here only {allowed} may"
        ):
            life.check(an_event(kind, phase))
        assert life.phase == phase
    else:
        life.check(an_event(kind, phase))
        assert life.phase == after


CALL_REACH: dict[CallPhase, list[StreamEvent]] = {
    "new": [STARTED, step(), completed()],
    "called": with_call(),
    "approval": with_call(asked()),
    "denied": with_call(asked(), decided(False)),
    "started": with_call(begun()),
    "deferred": with_call(begun(), result(outcome="deferred")),
    "answered": with_call(begun(), result()),
}
CALL_EVENTS: dict[str, Any] = {
    "approval_requested": asked(),
    "approval_resolved": decided(True),
    "approval_resolved (refused)": decided(False),
    "tool_started": begun(),
    "tool_progress": progress(),
    "tool_result": result(outcome="cancelled"),
    "tool_result (deferred)": result(outcome="deferred"),
    "job_result": job(),
}


@pytest.mark.parametrize("kind", CALL_EVENTS)
@pytest.mark.parametrize("phase", CALL)
def test_each_pair_of_a_calls_table_is_accepted_and_each_other_refused(phase: CallPhase, kind: str) -> None:
    life, event = walk(CALL_REACH[phase]), CALL_EVENTS[kind]
    assert call_event(event) == kind
    after = CALL[phase].get(kind)
    if after is None:
        reason = "no call 'a' stands" if phase == "new" else f"call 'a' is in phase '{phase}'"
        with pytest.raises(IllegalEvent, match=reason):
            life.check(event)
        assert life.calls.get("a", "new") == phase
    else:
        life.check(event)
        assert life.calls["a"] == after


def test_the_calls_table_knows_every_name_that_its_events_have() -> None:
    assert {kind for row in CALL.values() for kind in row} == {*CALL_EVENTS, "tool_call"}


# The rules that a table of types cannot say.

RULES: dict[str, tuple[list[StreamEvent], StreamEvent, str]] = {
    "steps count from 1": ([STARTED], step(2), "the next step is 1"),
    "steps count without gaps": (with_job(), step(3), "the next step is 2"),
    "a step starts once": (with_job(), step(1), "the next step is 2"),
    "an event belongs to the open step": ([STARTED, step()], text(number=2), "the open step is 1"),
    "a reset is of the open step": ([*with_job(), step(2)], reset(1), "the open step is 2"),
    "a completion is of the open step": ([STARTED, step()], completed(number=2), "the open step is 1"),
    "a result is of the open step": (with_call(begun()), result(number=2), "the open step is 1"),
    "a step is finished under its number": (
        with_call(result(outcome="error")),
        finished(2),
        "open step is 1",
    ),
    "a part has one kind": (
        [STARTED, step(), text(0)],
        ReasoningDelta(step=1, part=0, text="so"),
        "part 0 is text_delta of step 1",
    ),
    "a part belongs to one step": (
        [STARTED, step(), text(0), completed(), finished(), step(2)],
        text(0, number=2),
        "part 0 is text_delta of step 1",
    ),
    "parts increase": ([STARTED, step(), text(5)], text(4), "a new part has a number above 5"),
    "parts are not negative": ([STARTED, step()], text(-1), "a new part has a number above -1"),
    "withdrawn parts are not used again": (
        [STARTED, step(), text(3), reset()],
        text(3),
        "a new part has a number above 3",
    ),
    "a source is whole": (
        [STARTED, step(), SourceEvent(step=1, part=0)],
        SourceEvent(step=1, part=0),
        "taken",
    ),
    "a file takes no text's part": ([STARTED, step(), text(0)], FileEvent(step=1, part=0), "part 0 is taken"),
    "a call takes no text's part": ([STARTED, step(), text(0)], call("a", 0), "part 0 is text_delta"),
    "a part is one call's": ([STARTED, step(), call_delta("a", 0)], call_delta("b", 0), "part 0 is call 'a'"),
    "a call is one part": (
        [STARTED, step(), call_delta("a", 0)],
        call("a", 1),
        "call_id 'a' is taken: it is part 0",
    ),
    "a call's deltas are one part": (
        [STARTED, step(), call_delta("a", 0)],
        call_delta("a", 1),
        "call_id 'a' is taken: it is part 0",
    ),
    "a complete call is complete": ([STARTED, step(), call()], call_delta(), "that call is complete"),
    "call ids are unique in a step": ([STARTED, step(), call("a", 0)], call("a", 1), "that call is complete"),
    "call ids are unique in a run": ([*with_job("a"), step(2)], call("a", 5, 2), "that call is complete"),
    "an id that only a delta showed is taken too": (
        [STARTED, step(), call_delta("a", 0), completed(), finished(), step(2)],
        call_delta("a", 1, number=2),
        "call_id 'a' is taken: it is part 0",
    ),
    "model_completed names the step's calls": ([STARTED, step(), call()], completed(), r"calls are \['a'\]"),
    "model_completed names no others": ([STARTED, step()], completed("a"), r"the step's calls are \[\]"),
    "model_completed names a call once": (
        [STARTED, step(), call()],
        completed("a", "a"),
        r"calls are \['a'\]",
    ),
    "model_completed names no older call": (
        [*with_job("a"), step(2)],
        completed("a", number=2),
        r"the step's calls are \[\]",
    ),
    "model_completed has only parts of the step": (
        [STARTED, step(), text(0), completed(), finished(), step(2)],
        completed(number=2, parts=(FinishedPart(part=0),)),
        "part 0 is none of this step's",
    ),
    "model_completed has only parts that were seen": (
        [STARTED, step()],
        completed(parts=(FinishedPart(part=0, text="x"),)),
        "part 0 is none of this step's",
    ),
    "a withdrawn call is gone": (
        [STARTED, step(), call(), reset()],
        result(outcome="cancelled"),
        "no call 'a' stands",
    ),
    "a tool starts for a call": (with_call(), begun("b"), "no call 'b' stands"),
    "no tool starts for a call with a problem": (
        with_call(problem="invalid_json"),
        begun(),
        "the call has a problem, or is executed elsewhere",
    ),
    "no tool starts here for a client's call": (
        with_call(executed_by="client"),
        begun(),
        "the call has a problem, or is executed elsewhere",
    ),
    "no tool starts here for a provider's call": (
        with_call(executed_by="provider"),
        begun(),
        "the call has a problem, or is executed elsewhere",
    ),
    "one result": (with_call(begun(), result()), result(), "call 'a' is in phase 'answered'"),
    "no result after a job": (
        with_call(begun(), result(outcome="deferred")),
        result(),
        "call 'a' is in phase 'deferred'",
    ),
    "one job result": (
        with_call(begun(), result(outcome="deferred"), job()),
        job(),
        "call 'a' is in phase 'answered'",
    ),
    "what never ran did not succeed": (with_call(), result(), "a call that never ran has no outcome 'ok'"),
    "what never ran is not unknown": (with_call(), result(outcome="unknown"), "has no outcome 'unknown'"),
    "what was refused did not succeed": (
        with_call(asked(), decided(False)),
        result(),
        "a call that never ran has no outcome 'ok'",
    ),
    "what a client was not allowed did not succeed": (
        with_call(asked(), decided(False), executed_by="client"),
        result(),
        "a call that never ran has no outcome 'ok'",
    ),
    "a call with a problem did not succeed": (
        with_call(problem="truncated"),
        result(),
        "a call that never ran has no outcome 'ok'",
    ),
    "before model_completed a call is only cancelled": (
        [STARTED, step(), call()],
        result(outcome="error"),
        "before model_completed a call can only be cancelled",
    ),
    "a step waits for its calls": (with_call(begun()), finished(), r"calls \['a'\] have no result yet"),
    "an error waits for the results": (with_call(begun()), ERROR, r"calls \['a'\] have no result yet"),
    "an error waits for the jobs": (with_job(), ERROR, r"calls \['a'\] have no result yet"),
    "a cancellation waits for the results": (
        [STARTED, step(), call()],
        CANCELLED,
        r"calls \['a'\] have no result yet",
    ),
    "a message waits for the jobs": (with_job(), MESSAGE, r"calls \['a'\] have no result yet"),
    "a suspended run waits for something": (with_job(), Suspended(waits=()), "it waits for nothing"),
    "a run waits for calls that stand": (
        with_job(),
        suspended("job", "b"),
        "call 'b' does not wait for 'job'",
    ),
    "a run waits for approvals that were asked for": (
        with_call(),
        suspended("approval"),
        "call 'a' does not wait for 'approval'",
    ),
    "a run waits for jobs that run": (
        with_call(begun()),
        suspended("job"),
        "call 'a' does not wait for 'job'",
    ),
    "a run does not wait for its own tools": (
        with_call(),
        suspended("tool_result"),
        "call 'a' does not wait for 'tool_result'",
    ),
    "a run does not wait for what its provider executes": (
        with_call(executed_by="provider"),
        suspended("tool_result"),
        "call 'a' does not wait for 'tool_result'",
    ),
    "success is success": ([STARTED, MESSAGE], Finalized(status="error"), "this ending is 'success'"),
    "an error is an error": ([STARTED, ERROR, MESSAGE], SUCCESS, "the status of this ending is 'error'"),
    "a cancelled run is cancelled": (
        [STARTED, CANCELLED, MESSAGE],
        Finalized(status="error"),
        "the status of this ending is 'cancelled'",
    ),
    "nothing unknown is first": ([], UnknownEvent(type="new"), "nothing unknown may stand first"),
    "nothing unknown is last": (REACH["over"], UnknownEvent(type="new"), "or after the end"),
}


@pytest.mark.parametrize("rule", RULES)
def test_what_breaks_a_rule_is_refused_with_a_message_that_names_it(rule: str) -> None:
    log, event, reason = RULES[rule]
    life = walk(log)
    with pytest.raises(IllegalEvent, match=reason) as raised:
        life.check(event)
    assert repr(life.phase) in str(raised.value)
    assert f"type='{event.type}'" in str(raised.value)


LEGAL: dict[str, list[StreamEvent]] = {
    "a delta goes on": [STARTED, step(), text(0), text(1), text(0, " again")],
    "a call follows its deltas": [STARTED, step(), call_delta(), call_delta(arguments="}"), call()],
    "a call may come whole": with_call(),
    "a reset frees the call ids": [
        STARTED,
        step(),
        call_delta("a", 0),
        reset(),
        call("a", 1),
        completed("a"),
    ],
    "a reset frees complete calls": [
        STARTED,
        step(),
        call("a", 0),
        reset(),
        call_delta("a", 1),
        call("a", 1),
    ],
    "a call with a problem is told so": with_call(result(outcome="error"), problem="unknown_tool"),
    "a client's call gets its result": with_call(result(), executed_by="client"),
    "a provider's call gets its result": with_call(result(), executed_by="provider"),
    "a client's call is waited for": with_call(
        suspended("tool_result"), RESUMED, result(), executed_by="client"
    ),
    "an approval may be asked for a client's call": with_call(
        asked(), decided(True), result(), executed_by="client"
    ),
    "a tool may be tried again": with_call(begun(), progress(), begun(attempt=2), result()),
    "a job may report while the next step runs": [*with_job(), step(2), progress(), job()],
    "a job's result may come in any step": [
        *with_job(),
        step(2),
        completed(number=2),
        job(step=1),
        finished(2),
    ],
    "what was cut off is unknown": with_call(begun(), RESUMED, result(outcome="unknown"), ERROR, MESSAGE),
    "a retry begins behind what was kept": with_call(
        RunResumed(reason="retry"), begun(), result(), finished()
    ),
    "a workflow has no model": [STARTED, step(), completed(), finished(), MESSAGE, SUCCESS],
    "unknown events are let through": [
        STARTED,
        UnknownEvent.model_validate({"type": "new", "step": 9}),
        step(),
        UnknownEvent(type="new"),
    ],
}


@pytest.mark.parametrize("name", LEGAL)
def test_what_the_rules_allow_is_accepted(name: str) -> None:
    check_log(LEGAL[name])


# Over all logs.

ONE_OF_EACH = [events(kind) for kind in EVENT_TYPES]


@given(event_logs(as_written=False), event_logs())
def test_a_drawn_log_is_legal_and_over(loose: list[StreamEvent], written: list[StreamEvent]) -> None:
    assert check_log(loose) == check_log(written) == "over"


@given(stored_logs())
def test_a_stored_log_is_checked_like_its_events(log: list[Any]) -> None:
    assert check_log(log) == check_log(stored.event for stored in log)


@given(event_logs())
def test_what_is_held_stands_in_one_batch_with_what_it_is_held_for(log: list[StreamEvent]) -> None:
    borders = [0, *batch_borders(log)]
    for event, index in zip(log, range(len(log)), strict=True):
        if event.type in HELD:
            end = min(border for border in borders if border > index)
            assert HELD[event.type] in [later.type for later in log[index:end]]


@given(event_logs(as_written=False), st.data())
def test_an_event_that_is_refused_leaves_the_walk_as_it_was(
    log: list[StreamEvent], data: st.DataObject
) -> None:
    where = data.draw(st.integers(0, len(log)))
    life = walk(log[:where])
    try:
        life.check(data.draw(data.draw(st.sampled_from(ONE_OF_EACH))))
    except IllegalEvent:
        for event in log[where:]:
            life.check(event)
        assert life.phase == "over"


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_every_type_occurs_in_drawn_logs(kind: str) -> None:
    for seed in range(300):
        drawn = LogWalk(SeededChoices(seed))
        while len(drawn.log) < 30:
            drawn.step()
        drawn.finish(ENDINGS[seed % 3])
        if kind in [event.type for event in drawn.log]:
            return
    pytest.fail(f"no {kind} in 300 logs")


# The diagrams.


@pytest.mark.parametrize("table", [RUN, CALL], ids=["run", "call"])
def test_a_diagram_has_exactly_the_arrows_of_its_table(table: Any) -> None:
    lines = diagram(table).splitlines()
    assert lines[0] == "stateDiagram-v2"
    arrows = [re.fullmatch(r"    (\S+) --> (\S+?)(?:: (.*))?", line) for line in lines[1:]]
    drawn = {(m[1], kind): m[2] for m in arrows if m and m[3] for kind in m[3].split(", ")}
    assert drawn == {(phase, kind): after for phase, row in table.items() for kind, after in row.items()}
    assert [(m[1], m[2]) for m in arrows if m and not m[3]] == [
        ("[*]", next(iter(table))),
        *((phase, "[*]") for phase, row in table.items() if not row),
    ]
