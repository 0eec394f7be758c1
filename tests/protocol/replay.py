"""The model's way through a world, walked on a real buffer: each answer and each row must be the same.

So the model is no opinion of its own on what a store does: whoever changes the one must change the other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from streamchat.buffers.base import EventBuffer, Input, Lease, NewEvent, NewRun
from streamchat.core.cursor import Cursor, Reset, resolve
from streamchat.errors import InputsPending, LeaseLost
from tests.buffers.backends import Backend
from tests.protocol.model import Model, Step, World
from tests.protocol.rules import enqueued, payload
from tests.protocol.state import LATER, Given, Reader, Row, Sent, State, Store

__all__ = ["Replay", "walk"]

TTL = 1.0
CONVERSATION = "v"


def walk(model: Model, seed: int, longest: int = 40) -> list[Step]:
    """A random way through a world, of steps that one clock for all can follow."""
    chance = random.Random(seed)
    state = model.start()
    steps: list[Step] = []
    while len(steps) < longest:
        possible = [step for step in model.steps(state) if _one_clock_will_do(state, step)]
        if not possible:
            break
        step = chance.choice(possible)
        steps.append(step)
        state = step.state
    return steps


def _one_clock_will_do(state: State, step: Step) -> bool:
    """Where time runs out for one lease, it must not for another, nor for one in a copy."""
    if step.call[:1] != ("time",):
        return True
    waiting = sum((row.lease == LATER) + (row.ready == LATER) for row in state.store.rows)
    copied = state.replica.rows if state.replica is not None else ()
    return waiting == 1 and not any(LATER in (row.lease, row.ready) for row in copied)


class Replay:
    """Asks a buffer what the model asked its store. Generations have other names there, one for each here."""

    def __init__(self, buffer: EventBuffer, backend: Backend) -> None:
        self._buffer = buffer
        self._backend = backend
        self._names: dict[str, str] = {}
        self._enqueues = False
        self._saved: Any = None
        self._copier = ThreadPoolExecutor(1)

    async def close(self) -> None:
        """Let go of the copy of the store."""
        await self._forget()
        self._copier.shutdown()

    async def run(self, world: World, start: State, steps: list[Step]) -> None:
        """Follow ``steps``; raises `AssertionError` at the first difference."""
        self._enqueues = world.enqueues
        if not world.creates:
            await self._create(0, start.store.rows[0].generation)
        await self._same(Model(world), start.store)
        for step in steps:
            if step.call:
                operation, *given = step.call
                name = {"save": "save_copy", "fail over": "fail_over"}.get(operation, operation)
                answer = await getattr(self, f"_{name}")(*given)
                assert answer == step.answer, f"{step.words}: the buffer says {answer!r}"
            await self._same(Model(world), step.state.store)

    # ----------------------------------------------------------------------------------------- the calls

    async def _create(self, run: int, generation: str) -> str:
        started = payload("run_started", "")
        first = NewEvent(started.type, started.data, None)
        new = NewRun(_id(run), CONVERSATION, f"m-{run}", first, enqueue=self._enqueues)
        made = await self._buffer.create(new)
        assert made.new
        self._name(generation, made.run.generation)
        return ""

    async def _claim(self, run: int, number: int, generation: str) -> str:
        claim = await self._buffer.claim(f"w{number}", TTL, _id(run))
        assert claim is not None, f"run {run} is not to be had"
        self._name(generation, claim.lease.generation)
        return ""

    async def _append(self, sent: Sent) -> str:
        batch = sent.batch
        events = [payload(*event) for event in batch.events]
        try:
            appended = await self._buffer.append(
                self._lease(sent),
                [NewEvent(event.type, event.data, event.private) for event in events],
                consumed=[f"{kind}:" for kind in batch.consumed],
                then=batch.then,
                wake_at=self._backend.clock.now + round(TTL * 1000) if batch.wakes else None,
                keep_slot=batch.keep_slot,
            )
        except LeaseLost:
            return "lease lost"
        except InputsPending:
            return "inputs pending"
        return "recovered" if appended.recovered else "written"

    async def _renew(self, sent: Sent) -> str:
        try:
            await self._buffer.renew(self._lease(sent), TTL)
        except LeaseLost:
            return "lease lost"
        return "written"

    async def _post(self, run: int, kind: Any, body: str) -> str:
        posted = await self._buffer.post(_id(run), Input(kind, "", {"said": body}))
        return "new" if posted.new else "known"

    async def _time(self) -> str:
        self._backend.clock.advance(TTL + 0.001)
        return ""

    async def _trim(self) -> str:
        assert await self._buffer.trim(self._backend.clock.now + 1) == 1
        return ""

    async def _read(self, reader: Reader, limit: int) -> str:
        kept = reader.kept
        page = await self._buffer.read(_id(reader.run), len(kept), limit)
        cursor = Cursor(self._names[kept[-1].generation], len(kept)) if kept else None
        verdict = resolve(cursor, page.segments, page.first_seq, page.last_seq)
        if isinstance(verdict, Reset):
            return f"is told to reset ({verdict.reason})"
        return f"reads up to seq {page.events[-1].seq}"

    async def _save_copy(self) -> str:
        await self._forget()
        self._saved = await self._apart(self._backend.save, self._buffer)
        return ""

    async def _fail_over(self) -> str:
        await self._apart(self._backend.restore, self._buffer, self._saved)
        return ""

    def _name(self, generation: str, real: str) -> None:
        assert real not in self._names.values(), "a generation is given once"
        self._names[generation] = real

    def _lease(self, sent: Sent) -> Lease:
        generation = self._names[sent.generation]
        return Lease(_id(sent.run), f"w{sent.number}", generation, sent.fence, sent.head, 0)

    async def _forget(self) -> None:
        if self._saved is not None:
            await self._apart(self._backend.forget, self._saved)
            self._saved = None

    async def _apart(self, work: Callable[..., Any], *given: Any) -> Any:
        """Copy in one thread, which runs no loop: a backend may run one of its own for it."""
        return await asyncio.get_running_loop().run_in_executor(self._copier, work, *given)

    # ---------------------------------------------------------------------------------------- comparing

    async def _same(self, model: Model, store: Store) -> None:
        for run, row in enumerate(store.rows):
            await self._same_run(run, row)
            if not model.store.claimable(row):
                assert await self._buffer.claim("nobody", TTL, _id(run)) is None
        if store.rows:
            line = [_id(run) for run, row in enumerate(store.rows) if enqueued(row)]
            assert [record.run_id for record in await self._buffer.enqueued(CONVERSATION)] == line
            conversation = await self._buffer.conversation(CONVERSATION)
            assert conversation.active_run_id == (None if store.slot is None else _id(store.slot))

    async def _same_run(self, run: int, row: Row) -> None:
        record = await self._buffer.get(_id(run))
        assert record.status == row.status
        assert (record.generation, record.fence) == (self._names[row.generation], row.fence)
        assert (record.owner is not None, record.lease_until is not None) == (row.held, row.lease is not None)
        page = await self._buffer.read(_id(run))
        assert (page.first_seq, page.last_seq) == (row.first_seq, len(row.log))
        segments = [(self._names[generation], seq) for generation, seq in row.segments]
        assert [tuple(segment) for segment in page.segments] == segments
        expected = row.log[row.first_seq - 1 :]
        names = [(self._names[e.generation], e.type) for e in expected]
        assert [(e.generation, e.type) for e in page.events] == names
        assert [e.data for e in page.events] == [payload(e.type, e.says).data for e in expected]
        unread = [Given(given.kind, given.body["said"]) for given in await self._buffer.inputs(_id(run))]
        assert unread == [given for given in row.inputs if not given.consumed]


def _id(run: int) -> str:
    return f"run-{run}"
