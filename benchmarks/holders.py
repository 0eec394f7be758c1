"""Holders of runs that append to a buffer, beside a bare driver that does the least, by a batch's size."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from benchmarks.measure import Case, Clock, Row, Scale, in_turns
from streamchat.buffers.base import EventBuffer, Lease, NewEvent, NewRun
from streamchat.events import RunStarted, TextDelta

__all__ = ["BATCHES", "Bare", "Holders", "beside_bare_server"]

BATCHES = (1, 10, 50, 200)
RUNS = 25

Bare = Callable[[list[NewEvent], int], Case]
"""Makes the case of the bare driver: so many times this batch, one after the other's answer."""


class Holders:
    """Makes runs in a buffer, claims them, and appends to them; runs' names begin with ``name``."""

    def __init__(self, buffer: EventBuffer, name: str = "run") -> None:
        self._buffer = buffer
        self._name = name
        self._made = 0

    async def held(self) -> Lease:
        """The lease of a new run."""
        self._made += 1
        name = f"{self._name}-{self._made}"
        started = NewEvent.of(RunStarted(run_id=name))
        await self._buffer.create(NewRun(name, conversation_id=name, message_id=f"m-{name}", started=started))
        claim = await self._buffer.claim("benchmark", 600.0, name)
        assert claim is not None
        return claim.lease

    def case(self, batch: list[NewEvent], times: int, runs: int = 1) -> Case:
        """One batch after the other's answer, shared among so many runs at once."""

        async def write(lease: Lease) -> None:
            for _ in range(times // runs):
                lease = (await self._buffer.append(lease, batch)).lease

        async def case(clock: Clock) -> float:
            leases = [await self.held() for _ in range(runs)]
            with clock.running():
                async with asyncio.TaskGroup() as group:
                    for lease in leases:
                        group.create_task(write(lease))
            return times // runs * runs * len(batch)

        return case


async def beside_bare_server(name: str, buffer: EventBuffer, bare: Bare, scale: Scale) -> list[Row]:
    """Deltas appended by one holder, one batch after the other; then by many holders at once."""
    event = NewEvent.of(TextDelta(step=1, part=1, text=" word"))
    holders = Holders(buffer)
    rows: list[Row] = []
    for size in BATCHES:
        batch, times = [event] * size, max(RUNS, min(scale.events // 10, scale.events // size))
        cases = {
            "ours": holders.case(batch, times),
            "many": holders.case(batch, times, RUNS),
            "bare": bare(batch, times),
        }
        samples = await in_turns(cases, scale.rounds)
        rows.append(samples.row(f"append to {name}, batches of {size}", "ours", "bare", 1.3))
        rows.append(samples.row(f"the same, {RUNS} runs at once", "many", "bare", 1.3))
    return rows
