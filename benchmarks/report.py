"""The table of a run: on the terminal, as JSON, and as a page of the documentation."""

from __future__ import annotations

import json
import platform
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version

from benchmarks.measure import Row

__all__ = ["as_json", "as_page", "as_text", "machine"]

_PAGE = """# Benchmarks

What the library costs beside what it replaces; lower is better. All are ratios of CPU time, taken in turns
in one run of `make bench ARGS="--page docs/reference/benchmarks.md"`; a budget is what changes should keep
to. *Burst* is a response of 2,000 chunks with many in each TCP write. *Live* is 25 streams at once with one
chunk every 20 ms each, where waking up costs more than the work: there the figures vary by a quarter from
run to run, and more on a busy machine, and they are the ones to plan with. "Floor here" is what the least
that can be done over the same bytes cost in the same run; "in between" is the least and the most of the
rounds. A live figure above its budget by up to a quarter is "within ± 25%": neither met nor missed for sure.
"Missed, as is the floor" says that here the least that can be done misses it too. Rows in brackets are there
to compare with. Why budgets are missed: [decisions](../explanation/decisions.md#what-it-costs).

{tables}
Measured with {machine}.

What is compared with what:

- `orchestrate()` with iterating `AsyncOpenAI…create(stream=True)` of the same bytes over the SDK's own
  transport (httpx2), also where `orchestrate()` reads over aiohttp. The provider is a process of its own.
  "The least" splits the client's bytes into frames, decodes their JSON and keeps nothing.
- The whole way (provider, `StreamChat`, event buffer, ASGI application under uvicorn, client's socket) with
  the same iteration of the SDK, which delivers nothing to anybody. Provider and clients are processes of
  their own.
- Native SSE with an ASGI application that is woken by a bare future for each event and sends bytes that
  were encoded beforehand.
- Appending with `sqlite3` on a thread, which begins, inserts the same rows, updates one row and commits.
"""


_HEADS = "| what | budget | floor here | measured | verdict | in between | |\n|---|---|---|---|---|---|---|"


def machine() -> str:
    """What the run was measured with, in words that name no machine."""
    parts = [f"{platform.python_implementation()} {platform.python_version()}", platform.system()]
    parts += [f"{name} {version(name)}" for name in ("openai", "httpx2", "aiohttp", "pydantic", "uvicorn")]
    return ", ".join([*parts, f"SQLite {sqlite3.sqlite_version}"])


def as_text(name: str, rows: Sequence[Row]) -> str:
    """One benchmark's table for a terminal."""
    lines = [name]
    lines += [
        f"  {row.name:<50} {_value(row):>9} {_budget(row):>9} {row.verdict:<12} {_spread(row):>11} {row.note}"
        for row in rows
    ]
    return "\n".join(lines)


def as_json(results: Mapping[str, Sequence[Row]]) -> str:
    """All figures, for programs."""
    rows = {
        name: [{**asdict(row), "verdict": row.verdict} for row in found] for name, found in results.items()
    }
    return json.dumps({"machine": machine(), "benchmarks": rows}, indent=1, ensure_ascii=False) + "\n"


def as_page(results: Mapping[str, Sequence[Row]]) -> str:
    """The page of the documentation."""
    tables = ""
    for name, rows in results.items():
        tables += f"## {name}\n\n{_HEADS}\n"
        for row in rows:
            floor = "" if row.floor is None else _number(row.floor, row.unit)
            cells = (row.name, _budget(row), floor, _value(row), row.verdict, _spread(row), row.note)
            tables += "| " + " | ".join(cells) + " |\n"
        tables += "\n"
    return _PAGE.format(tables=tables, machine=machine())


def _number(value: float, unit: str) -> str:
    if unit:
        return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _value(row: Row) -> str:
    return _number(row.value, row.unit)


def _budget(row: Row) -> str:
    if row.budget is None:
        return ""
    return ("≥ " if row.at_least else "≤ ") + (
        f"{row.budget:,.0f}" if row.budget >= 1000 else f"{row.budget:g}"
    )


def _spread(row: Row) -> str:
    if row.low is None or row.high is None:
        return ""
    return f"{_number(row.low, '')}–{_number(row.high, '')}"
