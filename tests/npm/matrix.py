"""The matrix of clients and scenarios in ``docs/reference/clients.md``, which the tests themselves fill in.

A test that has run a scenario calls `tell` with what came of it. The page must say the same, so it cannot
promise what was not run. ``STREAMCHAT_WRITE_CLIENTS=1`` writes it into the page instead.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping

from tests.project.support import ROOT

__all__ = ["PAGE", "YES", "read_table", "tables", "tell"]

PAGE = ROOT / "docs" / "reference" / "clients.md"
YES = "yes"
_EMPTY = "–"


def _pattern(table: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- matrix: {re.escape(table)} -->\n)(.*?)(<!-- /matrix -->)", re.DOTALL)


def tables() -> list[str]:
    """The names of the page's tables."""
    return re.findall(r"^<!-- matrix: (.+) -->$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def read_table(table: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return a table's clients, in order, and its cells by scenario and client."""
    found = _pattern(table).search(PAGE.read_text(encoding="utf-8"))
    assert found is not None, f"{PAGE} has no table {table!r} (<!-- matrix: {table} --> … <!-- /matrix -->)"
    lines = [line for line in found[2].splitlines() if line.startswith("|")]
    if not lines:
        return [], {}
    clients = _cells(lines[0])[1:]
    rows = {cells[0]: dict(zip(clients, cells[1:], strict=True)) for cells in map(_cells, lines[2:])}
    return clients, rows


def tell(table: str, client: str, cells: Mapping[str, str]) -> None:
    """Say what came of scenarios (by name) with ``client``: `YES`, or what its user sees instead.

    Raises `AssertionError` where the page says otherwise, unless it is being written.
    """
    if os.environ.get("STREAMCHAT_WRITE_CLIENTS", "0") not in ("", "0"):
        _write(table, client, cells)
        return
    _, rows = read_table(table)
    said = {scenario: rows.get(scenario, {}).get(client) for scenario in cells}
    assert said == dict(cells), (
        f"docs/reference/clients.md, {client}, is not what the tests found: run them once with "
        "STREAMCHAT_WRITE_CLIENTS=1"
    )


def _write(table: str, client: str, cells: Mapping[str, str]) -> None:
    with PAGE.open("r+", encoding="utf-8") as page:
        fcntl.flock(page, fcntl.LOCK_EX)
        clients, rows = read_table(table)
        if client not in clients:
            clients.append(client)
        for scenario, cell in cells.items():
            rows.setdefault(scenario, {})[client] = cell
        lines = [["", *clients], ["---"] * (len(clients) + 1)]
        lines += [[name, *(row.get(c, _EMPTY) for c in clients)] for name, row in rows.items()]
        text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
        whole = _pattern(table).sub(lambda found: found[1] + text + found[3], page.read())
        page.seek(0)
        page.truncate()
        page.write(whole)
