"""What must be true when all runs are over: of the logs, the readers, what was acknowledged, the effects."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamchat import StoredEvent
from streamchat.core.fold import fold
from streamchat.core.lifecycle import check_log
from streamchat.errors import IllegalEvent
from tests.chaos.ledger import digest
from tests.chaos.readers import Reading
from tests.chaos.tools import IDEMPOTENT, ONCE

__all__ = [
    "Findings",
    "check_acknowledged",
    "check_effects",
    "check_log_of",
    "check_readings",
    "take_over_times",
]

Entry = Mapping[str, Any]


@dataclass(slots=True)
class Findings:
    """Counts, and every violation as (run, what is wrong)."""

    violations: list[tuple[str, str]] = field(default_factory=list)
    events: int = 0
    acknowledged: int = 0
    lost: int = 0
    duplicated: int = 0
    effects: int = 0
    doubled: int = 0
    repeated: int = 0
    """Effects of idempotent tools that came again under the same key."""
    unknown: int = 0
    refused: int = 0
    """Appends and renewals that were refused because another had claimed the run."""

    def wrong(self, run: str, what: str) -> None:
        """Note a violation."""
        self.violations.append((run, what))


def check_log_of(run: str, events: Sequence[StoredEvent], cancelled: bool, findings: Findings) -> None:
    """A legal log without gaps that ends in one ``finalized``, with success unless it was cancelled."""
    findings.events += len(events)
    findings.unknown += sum(e.type == "tool_result" and e.event.outcome == "unknown" for e in events)
    if [e.seq for e in events] != list(range(1, len(events) + 1)):
        findings.wrong(run, f"the log has gaps: {[e.seq for e in events]}")
    try:
        phase = check_log(events)
    except IllegalEvent as error:
        findings.wrong(run, f"illegal log: {error}")
    else:
        if phase != "over":
            findings.wrong(run, f"not over, but {phase}")
    if sum(e.type == "finalized" for e in events) != 1:
        findings.wrong(run, "not exactly one finalized")
        return
    status = events[-1].event.status
    if status != "success" and not (status == "cancelled" and cancelled):
        findings.wrong(run, f"ended with {status}: {events[-3:]!r:.500}")


def check_readings(
    run: str, events: Sequence[StoredEvent], readings: Sequence[Reading], findings: Findings
) -> None:
    """Each reader has seen the log, event for event, and folds it to the same."""
    truth = [(e.id, {**json.loads(e.data), "seq": e.seq, "at": e.at}) for e in events]
    for reading in readings:
        seen = list(zip(reading.ids, reading.events, strict=False))
        if reading.problem:
            findings.wrong(run, f"reader ({reading.how}): {reading.problem}")
        elif reading.resets:
            findings.wrong(run, f"reader ({reading.how}) was reset: {reading.resets[0]['reason']}")
        elif seen != truth:
            doubled = len(reading.ids) - len(set(reading.ids))
            findings.duplicated += doubled
            findings.wrong(
                run, f"reader ({reading.how}) saw another log ({doubled} doubled): {_first_odd(seen, truth)}"
            )
        elif reading.state() != fold(events).model_dump(mode="json"):
            findings.wrong(run, f"reader ({reading.how}) folds to another state")


def _first_odd(seen: Sequence[Any], truth: Sequence[Any]) -> str:
    for place, (one, other) in enumerate(zip(seen, truth, strict=False)):
        if one != other:
            return f"at {place}: {one!r:.300} in place of {other!r:.300}"
    return f"{len(seen)} events of {len(truth)}"


def check_acknowledged(
    logs: Mapping[str, Sequence[StoredEvent]], entries: Sequence[Entry], findings: Findings
) -> None:
    """Every batch that a worker was told is stored stands in the log, as it was, where it was."""
    for entry in entries:
        if entry["kind"] == "refused":
            findings.refused += 1
        if entry["kind"] != "appended" or not entry["count"]:
            continue
        run, head, count = entry["run"], entry["head"], entry["count"]
        findings.acknowledged += count
        stood = logs.get(run, ())[head : head + count]
        as_it_was = (
            len(stood) == count
            and {e.generation for e in stood} == {entry["generation"]}
            and digest((e.type, e.data) for e in stood) == entry["digest"]
        )
        if not as_it_was:
            findings.lost += count
            findings.wrong(run, f"acknowledged, but not in the log: {entry}; there: {stood!r:.300}")


def check_effects(
    logs: Mapping[str, Sequence[StoredEvent]], entries: Sequence[Entry], findings: Findings
) -> None:
    """At most one effect for a call of a tool that is not idempotent, one key for a call of one that is.

    An effect without a start in the log would be one that nobody can know of.
    """
    by_call: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry["kind"] == "effect":
            by_call[entry["run"], entry["call"]].append(entry)
    for (run, call), effects in by_call.items():
        findings.effects += len(effects)
        tools = {effect["tool"] for effect in effects}
        if len(tools) != 1:
            findings.wrong(run, f"call {call} is of several tools: {tools}")
        if tools <= set(ONCE) and len(effects) > 1:
            findings.doubled += len(effects) - 1
            findings.wrong(run, f"{len(effects)} effects of call {call}: {effects}")
        if tools <= set(IDEMPOTENT):
            findings.repeated += len(effects) - 1
            if len({effect["key"] for effect in effects}) != 1:
                findings.doubled += 1
                findings.wrong(run, f"several keys for call {call}: {effects}")
        started = {(e.event.call_id, e.event.attempt) for e in logs.get(run, ()) if e.type == "tool_started"}
        for effect in effects:
            if (call, effect["attempt"]) not in started:
                findings.wrong(run, f"an effect without a start in the log: {effect}")
    _check_results(logs, by_call, findings)


def _check_results(
    logs: Mapping[str, Sequence[StoredEvent]],
    by_call: Mapping[tuple[str, str], Sequence[Entry]],
    findings: Findings,
) -> None:
    for run, events in logs.items():
        for event in events:
            told = event.type == "tool_result" and event.event.outcome == "ok"
            if told and (run, event.event.call_id) not in by_call:
                findings.wrong(run, f"a result of what never happened: {event!r:.300}")


def take_over_times(
    logs: Mapping[str, Sequence[StoredEvent]],
    entries: Sequence[Entry],
    deaths: Mapping[int, Sequence[float]],
) -> list[float]:
    """Seconds from a worker's end to the first event of the next holder, for each run that it held.

    ``deaths`` are the times at which processes were killed or frozen, by pid, ascending.
    """
    claims: dict[str, dict[int, Entry]] = defaultdict(dict)
    gave_up: set[str] = set()
    for entry in entries:
        if entry["kind"] == "claimed":
            claims[entry["run"]][entry["fence"]] = entry
        elif entry["kind"] == "appended" and entry["then"] != "hold":
            gave_up.add(entry["generation"])
    times = []
    for run, events in logs.items():
        fences = {claim["generation"]: fence for fence, claim in claims[run].items()}
        for event in events:
            # Not the last one with an event, but the last one that held it: a taker-over may have died, too.
            before = claims[run].get(fences.get(event.generation, 0) - 1)
            if event.type != "run_resumed" or before is None or before["generation"] in gave_up:
                continue
            at = event.at / 1000
            died = [time for time in deaths.get(before["pid"], ()) if time < at]
            if died:
                times.append(at - died[-1])
    return times
