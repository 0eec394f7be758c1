"""The checks of an attack find what they are there to find: each promise is broken once, by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from streamchat import StoredEvent
from streamchat.events import (
    Finalized,
    MessageCompleted,
    ModelCompleted,
    RunResumed,
    RunStarted,
    StepFinished,
    StepStarted,
    TextDelta,
    ToolCallEvent,
    ToolResult,
    ToolStarted,
)
from tests.chaos.checks import (
    Findings,
    check_acknowledged,
    check_effects,
    check_log_of,
    check_readings,
    take_over_times,
)
from tests.chaos.ledger import Ledger, digest, read_ledger
from tests.chaos.readers import Reading
from tests.chaos.seams import POINTS, KillPoints

CALL = ToolCallEvent(step=1, part=1, call_id="call_0", name="charge", arguments={})
EVENTS: list[Any] = [
    RunStarted(run_id="r", conversation_id="c", message_id="m"),
    StepStarted(step=1),
    TextDelta(step=1, part=0, text="so"),
    CALL,
    ModelCompleted(step=1, finish_reason="tool_calls", call_ids=("call_0",)),
    ToolStarted(step=1, call_id="call_0", attempt=1, idempotency_key="r:call_0"),
    RunResumed(reason="takeover", worker="w2"),
    ToolResult(step=1, call_id="call_0", outcome="unknown"),
    StepFinished(step=1),
    MessageCompleted(content=()),
    Finalized(status="success"),
]
TAKEN_OVER = 7


def stored(events: Sequence[Any] = EVENTS) -> list[StoredEvent]:
    return [
        StoredEvent(seq, 1000 * seq, event, "a" if seq < TAKEN_OVER else "b")
        for seq, event in enumerate(events, 1)
    ]


def seen(events: Sequence[StoredEvent]) -> Reading:
    reading = Reading("test")
    for event in events:
        reading.take(event.id, {**json.loads(event.data), "seq": event.seq, "at": event.at})
    return reading


def effect(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "effect",
        "tool": "charge",
        "run": "r",
        "call": "call_0",
        "key": "k",
        "attempt": 1,
        **changes,
    }


def acknowledged(events: Sequence[StoredEvent], first: int, count: int) -> dict[str, Any]:
    batch = events[first - 1 : first - 1 + count]
    return {
        "kind": "appended",
        "run": "r",
        "generation": batch[0].generation,
        "head": first - 1,
        "count": count,
        "digest": digest((event.type, event.data) for event in batch),
        "then": "hold",
    }


def test_what_is_whole_passes() -> None:
    findings, log = Findings(), stored()
    check_log_of("r", log, False, findings)
    check_readings("r", log, [seen(log)], findings)
    check_acknowledged({"r": log}, [acknowledged(log, 3, 3)], findings)
    check_effects({"r": log}, [effect()], findings)
    assert findings.violations == []
    assert (findings.events, findings.acknowledged, findings.unknown, findings.effects) == (11, 3, 1, 1)


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (stored()[:-1], "not over"),
        ([*stored()[:2], *stored()[3:]], "gaps"),
        ([*stored(), StoredEvent(12, 12000, EVENTS[-1], "b")], "illegal"),
        (stored([*EVENTS[:7], *EVENTS[8:]]), "illegal"),
    ],
    ids=["without its end", "with a gap", "with two ends", "with a call that has no result"],
)
def test_a_log_that_is_not_whole_is_found(broken: list[StoredEvent], word: str) -> None:
    findings = Findings()
    check_log_of("r", broken, False, findings)
    assert any(word in what for _, what in findings.violations)


def test_a_reader_that_missed_doubled_or_changed_something_is_found() -> None:
    log = stored()
    changed = seen(log)
    changed.events[2] = {**changed.events[2], "text": "no"}
    doubled = seen([*log[:3], log[2], *log[3:]])
    reset = seen(log)
    reset.resets.append({"reason": "diverged", "snapshot": {}})
    for reading in (seen(log[1:]), seen(log[:-1]), doubled, changed, reset):
        findings = Findings()
        check_readings("r", log, [reading], findings)
        assert len(findings.violations) == 1
        assert findings.duplicated == (reading is doubled)


def test_an_acknowledged_batch_that_is_lost_changed_or_another_holders_is_found() -> None:
    log = stored()
    entry = acknowledged(log, 3, 3)
    for wrong in (
        {**entry, "digest": "0" * 24},
        {**entry, "generation": "b"},
        {**entry, "head": 10},
        {**entry, "run": "gone"},
    ):
        findings = Findings()
        check_acknowledged({"r": log}, [wrong], findings)
        assert (findings.lost, len(findings.violations)) == (3, 1)


@pytest.mark.parametrize(
    ("effects", "doubled"),
    [
        ([effect(), effect()], 1),
        ([effect(tool="book"), effect(tool="book", key="other")], 1),
        ([effect(attempt=2)], 0),
        ([effect(call="call_9")], 0),
    ],
    ids=["twice", "under two keys", "of an attempt that was not claimed", "of a call that is not there"],
)
def test_an_effect_that_may_not_be_is_found(effects: list[dict[str, Any]], doubled: int) -> None:
    findings = Findings()
    check_effects({"r": stored()}, effects, findings)
    assert findings.violations
    assert findings.doubled == doubled


def test_a_result_without_an_effect_is_found() -> None:
    ok = ToolResult(step=1, call_id="call_0", outcome="ok")
    findings = Findings()
    check_effects({"r": stored([*EVENTS[:7], ok, *EVENTS[8:]])}, [], findings)
    assert findings.violations


def test_a_take_over_is_measured_from_the_end_of_the_last_holder() -> None:
    log = stored()
    claims = [
        {"kind": "claimed", "run": "r", "generation": g, "fence": fence, "pid": pid}
        for fence, (g, pid) in enumerate([("a", 1), ("nothing", 2), ("b", 3)], 1)
    ]
    assert take_over_times({"r": log}, claims, {1: [3.0], 2: [1.0, 5.5, 9.0]}) == [1.5]
    # One that gave the run up was not waited for.
    given_up = {"kind": "appended", "run": "r", "generation": "nothing", "then": "queue"}
    assert take_over_times({"r": log}, [*claims, given_up], {2: [5.5]}) == []


def test_a_ledger_holds_what_was_written_in_order(tmp_path: Any) -> None:
    one, other = (Ledger(tmp_path / "ledger", sync=sync) for sync in (True, False))
    for number in range(4):
        (one, other)[number % 2].write("entry", number=number)
    one.close()
    other.close()
    assert [entry["number"] for entry in read_ledger(tmp_path / "ledger")] == [0, 1, 2, 3]
    assert read_ledger(tmp_path / "nothing") == []


def test_a_kill_point_is_known_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[object] = []
    monkeypatch.setattr("os.kill", lambda *what: killed.append(what))
    points = KillPoints("claim.after@2")
    points.hit("claim.after")
    points.hit("claim.before")
    assert not killed
    points.hit("claim.after")
    assert len(killed) == 1
    KillPoints(None).hit(POINTS[0])
    assert len(killed) == 1
    with pytest.raises(ValueError, match="not a kill point"):
        KillPoints("somewhere")
