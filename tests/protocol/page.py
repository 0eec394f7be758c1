"""The tables and histories of ``docs/explanation/protocol.md``, as an exploration gives them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from tests.protocol.explore import Explored, explore
from tests.protocol.invariants import PROMISES
from tests.protocol.model import World
from tests.protocol.mutations import MUTATIONS, SECOND_LINES
from tests.protocol.worlds import LARGE, SMALL

__all__ = ["COMMAND", "PARTS", "filled", "part", "world_row"]

COMMAND = "python -m tests.protocol --page docs/explanation/protocol.md"
PARTS = ("promises", "mutations", "second-lines")
_PART = re.compile(r"(<!-- explored: (?P<name>[\w-]+) -->\n).*?(<!-- /explored -->)", re.DOTALL)


def filled(page: str, small: Mapping[str, Explored], large: Mapping[str, Explored]) -> str:
    """The page with its parts written anew; ``small`` and ``large`` are what exploring all worlds came to."""

    def fresh(match: re.Match[str]) -> str:
        name = match["name"]
        text = _worlds(small, large) if name == "worlds" else part(name)
        return f"{match[1]}\n{text}\n{match[3]}"

    return _PART.sub(fresh, page)


@cache
def part(name: str) -> str:
    """One of `PARTS`, explored anew."""
    return {"promises": _promises, "mutations": _mutations, "second-lines": _second_lines}[name]()


def world_row(world: World, explored: Explored, size: str = "small") -> str:
    """A line of the table of worlds."""
    left = {name: number for name, number in world.left._asdict().items() if number}
    bounds = ", ".join(
        f"{name} {number}" for name, number in {"texts": world.texts, **left}.items() if number
    )
    about = f"**{world.name}** ({size}): {world.about}"
    return f"| {about} | {bounds} | {explored.states:,} | {explored.steps:,} | {explored.depth} |"


def _worlds(small: Mapping[str, Explored], large: Mapping[str, Explored]) -> str:
    rows = [world_row(SMALL[name], explored) for name, explored in small.items()]
    rows += [world_row(LARGE[name], explored, "large") for name, explored in large.items()]
    every = [*small.values(), *large.values()]
    states, steps = sum(one.states for one in every), sum(one.steps for one in every)
    head = ("what", "bounds", "states", "steps between them", "farthest")
    said = f"In all {states:,} states and {steps:,} steps. No promise is broken in any."
    return f"{_table(head, '--rrr', rows)}\n{said}\n"


def _promises() -> str:
    return _table(("promise", "checked"), "--", [f"| {promise} | {when} |" for promise, when in PROMISES])


def _mutations() -> str:
    rows, histories = [], []
    for number, one in enumerate(MUTATIONS, 1):
        found = explore(one.world, one.rules).found
        assert found is not None, one.name
        rows.append(f"| {number} | {one.name} | {one.instead} | {found.broken} | {len(found.steps)} |")
        histories.append(f"**{number}. Without “{one.name}”**: {one.instead}.\n\n```text\n{found}\n```\n")
    head = ("", "the rule", "taken away", "then", "steps")
    return "\n".join([_table(head, "r---r", rows), *histories])


def _second_lines() -> str:
    rows = []
    for one in SECOND_LINES:
        explored = explore(one.world, one.rules)
        assert explored.whole, f"{one.name}:\n{explored.found}"
        rows.append(f"| {one.name} | {one.instead} |")
    return _table(("the rule", "taken away"), "--", rows)


def _table(head: Iterable[str], align: str, rows: Iterable[str]) -> str:
    """A table; ``align`` has a letter for each column, ``r`` for figures."""
    line = "|".join("---:" if one == "r" else "---" for one in align)
    return "\n".join([f"| {' | '.join(head)} |", f"|{line}|", *rows, ""])
