"""Breadth-first search over all states of a model within its bounds: what it finds first is shortest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.protocol.invariants import Invariants
from tests.protocol.model import Model, Words, World
from tests.protocol.rules import Rules
from tests.protocol.state import State, Violation

__all__ = ["Explored", "Found", "explore", "told"]


@dataclass(frozen=True)
class Found:
    """A counterexample: what was done, step by step, and the promise that the last step broke."""

    steps: tuple[str, ...]
    broken: str

    def __str__(self) -> str:
        lines = [f"{number:2}. {step}" for number, step in enumerate(self.steps, 1)]
        return "\n".join([*lines, f"    → {self.broken}"])


@dataclass(frozen=True)
class Explored:
    """``states`` that are different, ``steps`` between them, ``depth`` of the farthest, and what was found.

    ``whole`` is False where the search was stopped at its limit: then there are states that nobody saw.
    """

    states: int
    steps: int
    depth: int
    whole: bool
    found: Found | None = None


def explore(world: World, rules: Rules | None = None, *, most: int | None = None) -> Explored:
    """Visit all states of ``world`` (at most ``most``), and stop at the first broken promise."""
    model = Model(world, rules)
    invariants = Invariants(model)
    start = model.start()
    invariants.check(start)
    came_from: dict[State, tuple[State, Words] | None] = {start: None}
    level, depth, steps = [start], 0, 0
    while level:
        after: list[State] = []
        for state in level:
            try:
                for words, reached, _, _ in model.steps(state):
                    steps += 1
                    if reached not in came_from:
                        came_from[reached] = (state, words)
                        after.append(reached)
                        invariants.check(reached)
            except Violation as violation:
                where = state if violation.words else after[-1]
                found = Found((*_path(came_from, where), *_last(violation)), str(violation))
                return Explored(len(came_from), steps, depth + 1, whole=False, found=found)
            if most is not None and len(came_from) >= most:
                return Explored(len(came_from), steps, depth, whole=False)
        level = after
        depth += bool(after)
    return Explored(len(came_from), steps, depth, whole=True)


def told(words: Words) -> str:
    """What was done, as a sentence."""
    return " ".join(str(word) for word in words)


def _last(violation: Violation) -> Iterator[str]:
    if violation.words:
        yield told(violation.words)


def _path(came_from: dict[State, tuple[State, Words] | None], state: State) -> list[str]:
    out: list[str] = []
    before = came_from[state]
    while before is not None:
        out.append(told(before[1]))
        before = came_from[before[0]]
    return out[::-1]
