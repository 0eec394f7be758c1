"""What an attack came to: for the terminal, as JSON, and as a row of the documentation's page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.run import Outcome

__all__ = ["as_row", "as_text", "update_page"]

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

_COLUMNS = (
    "runs",
    "kills",
    "freezes",
    "connections",
    "acknowledged",
    "lost",
    "duplicated",
    "effects",
    "doubled",
    "repeated",
    "unknown",
    "take_overs",
    "p50",
    "p99",
)


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


def update_page(page: Path, row: Mapping[str, Any]) -> None:
    """Put the figures in place of the backend's row in the page's table, or behind the other rows."""
    options = row["options"]
    how = f"{options['seconds']:.0f} s, seed {options['seed']}, ttl {options['ttl']:g} s"
    cells = [options["backend"], how, *(f"{row[name]:,}" for name in _COLUMNS)]
    written = f"| {' | '.join(cells)} |"
    lines = page.read_text(encoding="utf-8").splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| backend |"))
    end = head + 2
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    same = [n for n in range(head + 2, end) if lines[n].startswith(f"| {options['backend']} |")]
    if same:
        lines[same[0]] = written
    else:
        lines.insert(end, written)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
