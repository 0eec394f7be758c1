"""Measuring in turns: CPU time per unit of work, medians, and how far the rounds were apart."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TypeAlias

__all__ = ["LIVE", "Case", "Clock", "Row", "Samples", "Scale", "in_turns"]


@dataclass(frozen=True)
class Scale:
    """How much is measured; chosen on the command line, and tiny in the tests."""

    rounds: int
    """How often the cases take their turns."""
    burst_chunks: int
    live_seconds: float
    """For how long the `live_streams` are watched; each has one chunk every 20 ms."""
    live_streams: int
    deliveries: int
    """How many events reach a client, over all connections, in one sample of the SSE benchmarks."""
    connections: int
    idle: int
    """Idle connections whose memory is measured."""
    events: int
    """The length of a log that is replayed; fragments that are accumulated; events that are appended."""

    @property
    def crowd(self) -> Scale:
        """The same with three times as many live streams: about as many as the SDK keeps up with."""
        return replace(self, live_streams=3 * self.live_streams)


LIVE = 0.25
"""How far live figures are apart from run to run, as part of themselves (the design's own figure)."""

FULL = Scale(5, 2000, 2.0, 25, 20_000, 200, 400, 20_000)
QUICK = Scale(2, 1000, 0.6, 25, 6_000, 200, 200, 5_000)
TINY = Scale(1, 20, 0.05, 2, 40, 4, 4, 100)


class Clock:
    """Counts this process's CPU time, user and system, of all threads, while it is running.

    What was there before is collected first and put out of the collector's sight: a sample pays for its own
    garbage, and for nobody else's.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let it run."""
        gc.collect()
        gc.freeze()
        since = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - since
            gc.unfreeze()


Case: TypeAlias = Callable[[Clock], Awaitable[float]]
"""Runs once, lets the clock run around the work to be measured, and returns how many units it did."""


@dataclass
class Samples:
    """Seconds of CPU per unit, by case, one for each round."""

    by_case: dict[str, list[float]] = field(default_factory=dict)

    def cost(self, case: str) -> float:
        """The median, in µs per unit."""
        return median(self.by_case[case]) * 1e6

    def ratios(self, case: str, base: str) -> list[float]:
        """Round by round."""
        return [a / b for a, b in zip(self.by_case[case], self.by_case[base], strict=True)]

    def row(
        self,
        name: str,
        case: str,
        base: str,
        budget: float | None = None,
        *,
        least: str | None = None,
        margin: float = 0.0,
    ) -> Row:
        """The ratio of two cases: the median over the rounds, and the least and most.

        ``least`` is the case that does the least that can be done; its ratio is the row's floor.
        """
        ratios = self.ratios(case, base)
        return Row(
            name,
            median(ratios),
            budget,
            note=f"{self.cost(case):.1f} µs beside {self.cost(base):.1f}",
            low=min(ratios),
            high=max(ratios),
            floor=None if least is None else median(self.ratios(least, base)),
            margin=margin,
        )


@dataclass(frozen=True)
class Row:
    """One line of the table. ``value`` is a ratio unless ``unit`` says otherwise; ``at_least`` turns the
    budget around. Without a budget it is there to compare with.

    ``floor`` is the least that was possible in the same run; ``margin`` is the part of the budget by which
    such figures differ from run to run.
    """

    name: str
    value: float
    budget: float | None = None
    unit: str = ""
    note: str = ""
    low: float | None = None
    high: float | None = None
    at_least: bool = False
    floor: float | None = None
    margin: float = 0.0

    @property
    def verdict(self) -> str:
        if self.budget is None:
            return ""
        if self.value >= self.budget if self.at_least else self.value <= self.budget:
            return "met"
        if not self.at_least and self.value <= self.budget * (1 + self.margin):
            return f"within ± {self.margin:.0%}"
        if self.floor is not None and self.floor > self.budget:
            return "missed, as is the floor"
        return "missed"


async def in_turns(cases: Mapping[str, Case], rounds: int, *, warm_up: bool = True) -> Samples:
    """Run all cases once to warm up, then ``rounds`` times in turns."""
    samples = Samples({name: [] for name in cases})
    for turn in range(rounds + warm_up):
        for name, case in cases.items():
            clock = Clock()
            units = await case(clock)
            if turn >= warm_up:
                samples.by_case[name].append(clock.seconds / units)
    return samples
