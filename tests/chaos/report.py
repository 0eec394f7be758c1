"""What an attack came to: for the terminal, as JSON, and as the page of the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tests.chaos.run import Outcome

__all__ = ["as_row", "as_text"]

_LABELS = {
    "runs": "runs",
    "kills": "workers killed",
    "at_points": "  of them at a named point",
    "freezes": "workers frozen past the ttl",
    "connections": "readers' connections",
    "events": "events",
    "acknowledged": "events acknowledged",
    "lost": "lost",
    "duplicated": "duplicated",
    "effects": "tool effects",
    "doubled": "doubled",
    "repeated": "repeated under the same key",
    "unknown": "outcomes unknown",
    "refused": "appends refused (zombies)",
    "take_overs": "take-overs",
    "p50": "take-over p50, in ttls",
    "p99": "take-over p99, in ttls",
    "violations": "violations",
    "seconds": "seconds",
}


def as_row(outcome: Outcome) -> dict[str, Any]:
    """Return the figures."""
    found, options = outcome.findings, outcome.options
    times = [seconds / options.ttl for seconds in outcome.take_overs]
    return {
        "options": asdict(options),
        "runs": outcome.runs,
        "kills": outcome.kills,
        "at_points": outcome.at_points,
        "freezes": outcome.freezes,
        "workers": outcome.workers,
        "connections": outcome.connections,
        "seconds": round(outcome.seconds, 1),
        "events": found.events,
        "acknowledged": found.acknowledged,
        "lost": found.lost,
        "duplicated": found.duplicated,
        "effects": found.effects,
        "doubled": found.doubled,
        "repeated": found.repeated,
        "unknown": found.unknown,
        "refused": found.refused,
        "take_overs": len(times),
        "p50": round(_quantile(times, 0.5), 2),
        "p99": round(_quantile(times, 0.99), 2),
        "violations": len(found.violations),
    }


def _quantile(values: Sequence[float], share: float) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def as_text(outcome: Outcome) -> str:
    """Return a table for a terminal, with the violations behind it."""
    row = as_row(outcome)
    options = outcome.options
    lines = [f"{options.backend}, seed {options.seed}, {options.workers} workers, ttl {options.ttl} s"]
    lines += [f"  {label:<32} {row[name]:>10}" for name, label in _LABELS.items()]
    lines += [f"VIOLATION {run}: {what}" for run, what in outcome.findings.violations[:20]]
    return "\n".join(lines)
