"""The hub without a network: one more subscriber, and a log that is replayed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from benchmarks.measure import Case, Clock, Row, Scale, in_turns
from streamchat.buffers.base import EventBuffer, Lease, NewEvent, NewRun
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.core.conclude import conclude
from streamchat.events import RunStarted, StepStarted, StoredEvent, TextDelta
from streamchat.service.hub import Hub
from streamchat.wire.native import NATIVE

__all__ = ["Feed", "fanning_out", "replaying", "sqlite_buffer"]

BURST = 10


class Feed:
    """A run whose events are published as a driver would, without being stored: what reading costs alone."""

    def __init__(self, hub: Hub, lease: Lease) -> None:
        self._hub = hub
        self._run_id = lease.run_id
        self._generation = lease.generation
        self._seq = lease.head_seq
        hub.feed(self._run_id, True)

    @classmethod
    async def over(cls, hub: Hub, run_id: str) -> Feed:
        """Make and claim a run."""
        started = NewEvent.of(RunStarted(run_id=run_id))
        await hub.buffer.create(NewRun(run_id, f"c-{run_id}", f"m-{run_id}", started))
        claim = await hub.buffer.claim("benchmark", 3600.0, run_id)
        assert claim is not None
        return cls(hub, claim.lease)

    def prepare(self, count: int) -> list[StoredEvent]:
        """The next events."""
        first, self._seq = self._seq + 1, self._seq + count
        data = NewEvent.of(TextDelta(step=1, part=1, text=" word")).data
        return [
            StoredEvent(seq, 1763700000000, None, self._generation, type="text_delta", data=data)
            for seq in range(first, first + count)
        ]

    def publish(self, events: Sequence[StoredEvent]) -> None:
        """Hand them to the hub."""
        self._hub.publish(self._run_id, events)


def _fan_out(subscribers: int, bursts: int) -> Case:
    async def case(clock: Clock) -> float:
        hub = Hub(MemoryEventBuffer())
        feed = await Feed.over(hub, "run")
        seen = 0

        async def read() -> None:
            nonlocal seen
            async with await hub.subscribe("run") as subscription:
                for _ in range(bursts + 1):
                    await subscription.next_bytes(NATIVE)
                    seen += 1

        tasks = [asyncio.create_task(read()) for _ in range(subscribers)]
        while seen < subscribers:
            await asyncio.sleep(0.01)
        stretches = [feed.prepare(BURST) for _ in range(bursts)]
        with clock.running():
            for stretch in stretches:
                feed.publish(stretch)
                seen = 0
                while seen < subscribers:
                    await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await hub.close()
        return bursts

    return case


async def fanning_out(scale: Scale) -> list[Row]:
    """Events in bursts of 10: what each further subscriber adds."""
    few, many = scale.connections // 10 or 1, scale.connections
    bursts = max(2, scale.deliveries // (few * BURST))
    cases = {"few": _fan_out(few, bursts), "many": _fan_out(many, bursts)}
    samples = await in_turns(cases, scale.rounds)
    pairs = zip(samples.by_case["many"], samples.by_case["few"], strict=True)
    each = [(a - b) * 1e6 / (many - few) / BURST for a, b in pairs]
    return [
        Row(
            "one more subscriber, per delivery, bursts of 10",
            median(each),
            0.25,
            unit="µs",
            low=min(each),
            high=max(each),
        )
    ]


async def _log(buffer: EventBuffer, length: int) -> str:
    """A run that is over, with so many events."""
    started = RunStarted(run_id="long")
    await buffer.create(NewRun("long", "c-long", "m-long", NewEvent.of(started)))
    claim = await buffer.claim("benchmark", 600.0, "long")
    assert claim is not None
    lease = (await buffer.append(claim.lease, [NewEvent.of(StepStarted(step=1))])).lease
    delta = NewEvent.of(TextDelta(step=1, part=1, text=" word"))
    for start in range(0, length, 1000):
        lease = (await buffer.append(lease, [delta] * min(1000, length - start))).lease
    ending = conclude([started, StepStarted(step=1)], "interrupted")
    await buffer.append(lease, [NewEvent.of(event) for event in ending], then="over")
    return "long"


def _replay(buffer: EventBuffer, length: int) -> Case:
    async def case(clock: Clock) -> float:
        hub = Hub(buffer)
        size = 0
        with clock.running():
            async with await hub.subscribe("long") as subscription:
                while not subscription.finished:
                    size += len(await subscription.next_bytes(NATIVE) or b"")
        await hub.close()
        return length

    return case


@asynccontextmanager
async def sqlite_buffer() -> AsyncIterator[SQLEventBuffer]:
    """A buffer in a file that is gone with the block."""
    with tempfile.TemporaryDirectory() as directory:
        buffer = SQLEventBuffer(f"sqlite:///{Path(directory) / 'log.db'}")
        await buffer.open()
        try:
            yield buffer
        finally:
            await buffer.close()


async def replaying(scale: Scale) -> list[Row]:
    """A long finished log, read from its start as the bytes of the native wire."""
    async with sqlite_buffer() as sqlite:
        buffers: dict[str, EventBuffer] = {"memory": MemoryEventBuffer(), "SQLite": sqlite}
        for buffer in buffers.values():
            await _log(buffer, scale.events)
        cases = {name: _replay(buffer, scale.events) for name, buffer in buffers.items()}
        samples = await in_turns(cases, scale.rounds * 2)
    return [
        Row(
            f"replay of {scale.events:,} events, {name}",
            1e6 / samples.cost(name),
            200_000,
            unit="events/s",
            note=f"{samples.cost(name):.2f} µs each",
            at_least=True,
        )
        for name in cases
    ]
