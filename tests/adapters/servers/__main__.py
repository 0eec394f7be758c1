"""Writes the table of every row, adapter and server: ``python -m tests.adapters.servers``."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version

from tests.adapters.servers.rows import ALL
from tests.adapters.servers.running import COMBINATIONS, ROOT, SERVERS, served

PAGE = ROOT / "docs" / "reference" / "servers.md"
_TABLE = re.compile(r"(?<=<!-- written by the matrix -->\n).*?(?=<!-- /written -->)", re.DOTALL)


async def cells(adapter: str, server: str) -> dict[str, str]:
    """What each row came to: yes, a peculiarity, or a failure."""
    found: dict[str, str] = {}
    async with served(adapter, server) as on:
        for name, row in ALL.items():
            try:
                async with asyncio.timeout(120):
                    found[name] = str(await row(on) or "yes")
            except Exception as error:
                found[name] = f"FAILED: {error!r:.100}"
            print(f"{adapter} under {server}: {name}: {found[name]}", flush=True)
    return found


def table(results: Mapping[tuple[str, str], Mapping[str, str]]) -> str:
    """The Markdown table: a column for each server, in which adapters that differ are told apart."""
    servers = [f"{name} {version(name)}" for name in SERVERS]
    lines = [["", *servers], ["---"] * (len(servers) + 1)]
    for row in ALL:
        line = [row]
        for server in SERVERS:
            by_adapter = {a: found[row] for (a, s), found in results.items() if s == server}
            same = len(set(by_adapter.values())) == 1
            line.append(
                next(iter(by_adapter.values()))
                if same
                else ", ".join(f"{adapter}: {cell}" for adapter, cell in by_adapter.items())
            )
        lines.append(line)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


async def main() -> int:
    """Run all, and write the page where all hold; the exit status."""
    results = {combination: await cells(*combination) for combination in COMBINATIONS}
    if any(cell.startswith("FAILED") for found in results.values() for cell in found.values()):
        return 1
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_TABLE.sub(lambda _: table(results), page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
