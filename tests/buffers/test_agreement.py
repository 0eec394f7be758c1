"""One random history drives the memory buffer and another: they agree, and no reader sees wrong data."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import shutil
import tempfile
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from streamchat.buffers.base import EventBuffer, Input, Lease, MessageRecord, NewEvent, NewRun, Then
from streamchat.core.cursor import Cursor, Position, Reset, resolve
from streamchat.errors import InputsPending, LeaseLost, RunNotFound, StreamChatError
from streamchat.events import StoredEvent
from streamchat.testing.buffers.suite import deltas, ending, suspended
from tests.buffers.backends import Backend, Memory

R = TypeVar("R")
TTL = 1.0


@dataclass
class ModelRun:
    """What is true of a run: the whole log, how much of it is stored, and who may write on."""

    run_id: str
    conversation_id: str
    log: list[StoredEvent] = field(default_factory=list)
    first_seq: int = 1
    last_batch: int = 1
    generation: str = ""
    held: bool = False
    over: bool = False
    newest: tuple[int, dict[str, Any]] | None = None
    """The head before the newest append, and its batch, while nobody has claimed since."""

    def copy(self) -> ModelRun:
        return replace(self, log=list(self.log))


@dataclass
class Holder:
    """A worker as it knows itself: its lease, and the batch whose acknowledgement it waits for.

    ``unsure`` says that a try of that batch may have been written. Who is told that its lease is lost is no
    holder any more: whatever the store says later, that lease writes nothing.
    """

    lease: Lease
    frozen: dict[str, Any] | None = None
    unsure: bool = False


LET_GO: dict[str, Any] = {"events": [], "then": "queue"}


@dataclass
class Reader:
    """A client that keeps what it has read."""

    run_id: str
    kept: list[StoredEvent] = field(default_factory=list)

    @property
    def cursor(self) -> Cursor | None:
        return Cursor(self.kept[-1].generation, self.kept[-1].seq) if self.kept else None


def same(some: list[StoredEvent], others: list[StoredEvent]) -> bool:
    """Say whether these are the same events; a batch that was lost and sent again has another time."""
    return [(e.id, e.data, e.private) for e in some] == [(e.id, e.data, e.private) for e in others]


class Agreement(RuleBasedStateMachine):
    """Memory and another buffer in lockstep, with one clock and the same tokens, beside a model of the
    log."""

    def __init__(self, kind: type[Backend], server: str) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.backends = [Memory(self.directory), kind(self.directory, server)]
        self.clock = self.backends[0].clock
        self.runs: dict[str, ModelRun] = {}
        self.holders: list[Holder] = []
        self.readers: list[Reader] = []
        self.seen: dict[str, StoredEvent] = {}
        self.saved: tuple[list[Any], dict[str, ModelRun]] | None = None
        self.numbers = itertools.count(1)
        self.texts = itertools.count(1)
        # Debug mode would take half of the time.
        self.runner = asyncio.Runner(debug=False)
        self.open_ones = contextlib.AsyncExitStack()

    @initialize()
    def open(self) -> None:
        def token() -> Callable[[], str]:
            numbers = itertools.count(1)
            return lambda: f"{next(numbers):08x}"

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.buffers = [self.runner.run(self.opened(one, token())) for one in self.backends]
        for conversation in (1, 2):
            self.create(conversation, None, "d")
            self.claim(0, False, "w-1")
            self.a_reader_comes(conversation)

    async def opened(self, backend: Backend, token: Callable[[], str]) -> EventBuffer:
        backend.clock, backend.token = self.clock, token
        return await self.open_ones.enter_async_context(backend.open())

    def teardown(self) -> None:
        try:
            for run_id in self.runs:
                self.whole_log_is_the_models(run_id)
        finally:
            self.runner.run(self.open_ones.aclose())
            self.runner.close()
            if self.saved is not None:
                self.backends[1].forget(self.saved[0][1])
            shutil.rmtree(self.directory)

    def both(self, operation: Callable[[EventBuffer], Awaitable[R]]) -> R:
        """Do it on both buffers; return what they agree on, or raise the refusal that they agree on."""

        async def attempt(buffer: EventBuffer) -> tuple[type | None, Any]:
            try:
                return None, await operation(buffer)
            except StreamChatError as error:
                return type(error), error

        (ours, result), (theirs, other) = (self.runner.run(attempt(buffer)) for buffer in self.buffers)
        assert ours == theirs, f"memory: {ours or result!r}, the other: {theirs or other!r}"
        if ours is not None:
            raise result
        assert result == other
        return result

    # ----------------------------------------------------------------------------------- runs and leases

    @precondition(lambda self: len(self.runs) < 4)
    @rule(
        conversation=st.integers(1, 3),
        key=st.sampled_from([None, "k", "l"]),
        digest=st.sampled_from("de"),
        enqueue=st.booleans(),
    )
    def create(self, conversation: int, key: str | None, digest: str, enqueue: bool = False) -> None:
        number = next(self.numbers)
        run_id = f"run-{number}"
        run = NewRun(
            run_id, f"c-{conversation}", f"m-{number}", NewEvent("run_started", b'{"n":%d}' % number)
        )
        run = replace(run, enqueue=enqueue)
        if key is not None:
            run = replace(run, idempotency_key=key, digest=digest)
        asked = MessageRecord(f"u-{number}", run.conversation_id, "user", "complete", b"[]", run_id)
        with contextlib.suppress(StreamChatError):
            made = self.both(lambda buffer: buffer.create(run, [asked], deltas("kept") * (number % 2)))
            if made.new:
                page = self.both(lambda buffer: buffer.read(run_id))
                model = ModelRun(run_id, run.conversation_id, list(page.events))
                model.generation = made.run.generation
                self.runs[run_id] = model
                self.remember(page.events)
            else:
                assert made.run.run_id in self.runs

    @rule(which=st.integers(0, 4), named=st.booleans(), worker=st.sampled_from(["w-1", "w-2"]))
    def claim(self, which: int, named: bool, worker: str) -> None:
        run_id = self.pick(list(self.runs), which) if named else None
        claim = self.both(lambda buffer: buffer.claim(worker, TTL, run_id))
        if claim is not None:
            model = self.runs[claim.lease.run_id]
            assert not model.over
            assert claim.lease.head_seq == len(model.log)
            model.generation, model.held, model.newest = claim.lease.generation, True, None
            self.holders.append(Holder(claim.lease))
            del self.holders[:-6]
        elif run_id is not None:
            # Nobody is refused what waits.
            record = self.both(lambda buffer: buffer.get(run_id))
            until = {"running": record.lease_until, "suspended": record.wake_at}
            assert (
                record.over
                or record.enqueued
                or (record.status in until and (until[record.status] or math.inf) > self.clock.now)
            )

    @rule(milliseconds=st.sampled_from([1, 400, 1001]))
    def time_passes(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds / 1000)

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, 5))
    def somebody_takes_over(self, which: int) -> None:
        run_id = self.pick(self.holders, which).lease.run_id
        if run_id in self.runs:
            self.time_passes(1001)
            self.claim(list(self.runs).index(run_id), True, "w-3")

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, 5))
    def renew(self, which: int) -> None:
        holder = self.pick(self.holders, which)
        try:
            holder.lease = self.both(lambda buffer: buffer.renew(holder.lease, TTL))
        except LeaseLost:
            assert not self.may_write(holder)
            self.holders.remove(holder)
        else:
            assert self.may_write(holder)

    # ------------------------------------------------------------------------------------------- appending

    @precondition(lambda self: self.holders)
    @rule(
        which=st.integers(0, 5),
        size=st.integers(0, 3),
        then=st.sampled_from(["hold"] * 6 + ["queue", "suspend", "suspend", "over"]),
        consume=st.booleans(),
        wake_in=st.sampled_from([None, 500]),
        keep_slot=st.booleans(),
        acknowledged=st.booleans(),
    )
    def append(
        self,
        which: int,
        size: int,
        then: Then,
        consume: bool,
        wake_in: int | None,
        keep_slot: bool,
        acknowledged: bool,
    ) -> None:
        """Any holder, also one that was taken over from; what it may not write, the store must refuse."""
        holder = self.pick(self.holders, which)
        self.write(holder, size, then, consume, wake_in, keep_slot, acknowledged)

    @precondition(lambda self: self.holders)
    @rule(size=st.integers(1, 3), acknowledged=st.booleans())
    def the_newest_holder_writes(self, size: int, acknowledged: bool) -> None:
        self.write(self.holders[-1], size, "hold", False, None, True, acknowledged)

    @precondition(lambda self: self.holders)
    @rule(
        then=st.sampled_from(["queue", "suspend", "suspend", "over"]),
        consume=st.booleans(),
        keep_slot=st.booleans(),
        acknowledged=st.booleans(),
    )
    def the_newest_holder_gives_up_its_lease(
        self, then: Then, consume: bool, keep_slot: bool, acknowledged: bool
    ) -> None:
        self.write(self.holders[-1], 1, then, consume, 500, keep_slot, acknowledged)

    def write(
        self,
        holder: Holder,
        size: int,
        then: Then,
        consume: bool,
        wake_in: int | None,
        keep_slot: bool,
        acknowledged: bool,
    ) -> None:
        """Let a holder send its next batch, or the last one again while it does not know what became of it:
        that may be what readers have, though the store forgot it."""
        if holder.frozen is not None:
            self.send(holder, acknowledged)
            return
        last = {"suspend": suspended(), "over": ending()}.get(then, [])
        consumed = []
        if consume:
            with contextlib.suppress(RunNotFound):
                kept = self.both(lambda buffer: buffer.inputs(holder.lease.run_id))
                consumed = [one.input_id for one in kept]
        holder.frozen = {
            "events": [*deltas(*(f"text {next(self.texts)}" for _ in range(size))), *last],
            "then": then,
            "consumed": consumed,
            "wake_at": None if wake_in is None else self.clock.now + wake_in,
            "keep_slot": keep_slot,
        }
        self.send(holder, acknowledged)

    @precondition(lambda self: any(holder.frozen for holder in self.holders))
    @rule(which=st.integers(0, 5), acknowledged=st.booleans())
    def send_the_same_batch_again(self, which: int, acknowledged: bool) -> None:
        self.send(self.pick([holder for holder in self.holders if holder.frozen], which), acknowledged)

    @precondition(lambda self: any(self.may_be_written(holder) for holder in self.holders))
    @rule(which=st.integers(0, 5))
    def another_batch_of_its_length_is_not_taken_for_the_one_that_was_written(self, which: int) -> None:
        holder = self.pick([holder for holder in self.holders if self.may_be_written(holder)], which)
        assert holder.frozen is not None
        rest = holder.frozen["events"][1:]
        other = deltas(f"text {next(self.texts)}")
        self.send(Holder(holder.lease, {**holder.frozen, "events": [*other, *rest]}), True)

    def may_be_written(self, holder: Holder) -> bool:
        """Say whether a holder waits for the acknowledgement of a text, and all else must be refused."""
        return (
            holder.frozen is not None
            and any(event.type == "text_delta" for event in holder.frozen["events"][:1])
            and not self.may_write(holder)
        )

    def send(self, holder: Holder, acknowledged: bool) -> None:
        """Send a holder's batch; without its acknowledgement, the holder knows no more than before."""
        assert holder.frozen is not None
        batch, lease = holder.frozen, holder.lease
        model = self.runs.get(lease.run_id)
        allowed = self.may_write(holder)
        written_before = (
            model is not None
            and model.newest == (lease.head_seq, batch)
            and model.generation == lease.generation
            and not (allowed and not batch["events"])
        )
        try:
            appended = self.both(lambda buffer: buffer.append(lease, **batch))
        except LeaseLost:
            assert not allowed
            assert not written_before
            self.holders = [other for other in self.holders if other is not holder]
            return
        except InputsPending:
            assert allowed
            assert batch["then"] == "suspend"
            if not acknowledged:
                holder.unsure = True
            else:
                # An earlier try may have been read before the store went back: no other takes its place.
                holder.frozen, holder.unsure = LET_GO if holder.unsure else None, False
            return
        assert model is not None
        assert lease.generation == model.generation
        # Of two batches without events by one who gave up the lease, nobody can tell which was written.
        assert appended.recovered == written_before or (not batch["events"] and not allowed)
        if appended.recovered:
            assert list(appended.events) == model.log[lease.head_seq :]
        else:
            assert allowed
            model.newest = len(model.log), batch
            model.log += appended.events
            if appended.events:
                model.last_batch = appended.events[0].seq
            model.held = batch["then"] == "hold"
            if batch["then"] == "suspend":
                # Nobody sleeps over an answer that is there.
                assert self.both(lambda buffer: buffer.inputs(lease.run_id)) == []
            model.over = batch["then"] == "over"
            self.remember(appended.events)
        holder.unsure = not acknowledged
        if acknowledged:
            holder.lease, holder.frozen = appended.lease, None

    def may_write(self, holder: Holder) -> bool:
        model = self.runs.get(holder.lease.run_id)
        return (
            model is not None
            and model.held
            and (model.generation, len(model.log)) == (holder.lease.generation, holder.lease.head_seq)
        )

    # ------------------------------------------------------------------------------------------- the inbox

    @precondition(lambda self: self.runs)
    @rule(
        which=st.integers(0, 4),
        kind=st.sampled_from(["cancel", "approval", "tool_result"]),
        key=st.sampled_from(["a", "b"]),
        body=st.sampled_from([{}, {"x": 1}]),
    )
    def post(self, which: int, kind: Any, key: str, body: dict[str, Any]) -> None:
        run_id = self.pick(list(self.runs), which)
        with contextlib.suppress(StreamChatError):
            posted = self.both(
                lambda buffer: buffer.post(run_id, Input(kind, "" if kind == "cancel" else key, body))
            )
            # Nobody is left waiting for an answer that is there.
            if posted.new:
                assert posted.run.status in ("queued", "running")

    # ------------------------------------------------------------------------------------------- the store

    @rule()
    def save_the_store(self) -> None:
        if self.saved is not None:
            self.backends[1].forget(self.saved[0][1])
        copies = [one.save(buffer) for one, buffer in zip(self.backends, self.buffers, strict=True)]
        self.saved = copies, {run_id: model.copy() for run_id, model in self.runs.items()}

    @precondition(lambda self: self.saved is not None)
    @rule()
    def the_store_goes_back_in_time(self) -> None:
        assert self.saved is not None
        copies, runs = self.saved
        for one, buffer, saved in zip(self.backends, self.buffers, copies, strict=True):
            one.restore(buffer, saved)
        self.runs = {run_id: model.copy() for run_id, model in runs.items()}

    @rule(age=st.sampled_from([0, 1000]))
    def trim(self, age: int) -> None:
        self.both(lambda buffer: buffer.trim(self.clock.now - age + 1))
        for run_id, model in self.runs.items():
            if model.over:
                model.first_seq = self.stored_from(run_id)
                assert model.first_seq in (1, model.last_batch)

    def stored_from(self, run_id: str) -> int:
        return self.both(lambda buffer: buffer.read(run_id)).first_seq

    @precondition(lambda self: len(self.runs) > 2)
    @rule(which=st.integers(0, 4))
    def delete(self, which: int) -> None:
        run_id = self.pick(list(self.runs), which)
        assert self.both(lambda buffer: buffer.delete(run_id=run_id)) == 1
        del self.runs[run_id]

    # ------------------------------------------------------------------------------------------- readers

    @precondition(lambda self: self.runs and len(self.readers) < 4)
    @rule(which=st.integers(0, 4))
    def a_reader_comes(self, which: int) -> None:
        self.readers.append(Reader(self.pick(list(self.runs), which)))

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 3), limit=st.sampled_from([1, 3, 100]))
    def a_reader_goes_on(self, which: int, limit: int) -> None:
        reader = self.pick(self.readers, which)
        model = self.runs.get(reader.run_id)
        after = reader.cursor.seq if reader.cursor is not None else 0
        try:
            page = self.both(lambda buffer: buffer.read(reader.run_id, after, limit))
        except RunNotFound:
            assert model is None
            self.readers.remove(reader)
            return
        assert model is not None
        verdict = resolve(reader.cursor, page.segments, page.first_seq, page.last_seq)
        stands = same(reader.kept, model.log[: len(reader.kept)])
        if isinstance(verdict, Position):
            assert stands
            assert verdict.after == after
            reader.kept += page.events
            assert same(reader.kept, model.log[: len(reader.kept)])
            assert len(reader.kept) >= min(after + limit, len(model.log))
        else:
            # Only when something that it has, or should get next, is really gone.
            assert not stands or after + 1 < model.first_seq
            reader.kept = list(model.log)

    @precondition(lambda self: self.seen and self.runs)
    @rule(which=st.integers(0, 4), other=st.integers(0, 1000))
    def any_cursor_is_judged_by_what_stands_there(self, which: int, other: int) -> None:
        run_id = self.pick(list(self.runs), which)
        model = self.runs[run_id]
        event = self.pick(list(self.seen.values()), other)
        cursor = Cursor(event.generation, event.seq)
        page = self.both(lambda buffer: buffer.read(run_id, cursor.seq))
        verdict = resolve(cursor, page.segments, page.first_seq, page.last_seq)
        if event.seq <= len(model.log) and same([model.log[event.seq - 1]], [event]):
            continues = event.seq + 1 >= model.first_seq
            assert verdict == (Position(event.seq) if continues else Reset("trimmed"))
        elif event.generation[:8] != model.log[0].generation[:8]:
            assert verdict == (Position(0) if model.first_seq == 1 else Reset("trimmed"))
        else:
            assert isinstance(verdict, Reset)

    # ------------------------------------------------------------------------------------------- always

    @invariant()
    def the_records_agree(self) -> None:
        if not hasattr(self, "buffers") or not self.runs:
            return
        run_id = self.pick(list(self.runs), len(self.seen))
        model = self.runs[run_id]
        record = self.both(lambda buffer: buffer.get(run_id))
        assert (record.head_seq, record.generation) == (len(model.log), model.generation)
        assert (record.owner is not None, record.over) == (model.held, model.over)
        conversation = self.both(lambda buffer: buffer.conversation(model.conversation_id))
        if conversation.active_run_id is not None and conversation.active_run_id in self.runs:
            assert not self.runs[conversation.active_run_id].over
        waiting = self.both(lambda buffer: buffer.enqueued(model.conversation_id))
        assert all(one.enqueued for one in waiting)
        # Nobody waits for a slot that nobody will free.
        assert not waiting or conversation.active_run_id is not None
        assert record.enqueued == (run_id in [one.run_id for one in waiting])
        self.both(lambda buffer: buffer.find(model.conversation_id))

    def whole_log_is_the_models(self, run_id: str) -> None:
        page = self.both(lambda buffer: buffer.read(run_id))
        model = self.runs[run_id]
        assert list(page.events) == model.log[page.first_seq - 1 :]
        self.both(lambda buffer: buffer.messages(model.conversation_id))
        self.both(lambda buffer: buffer.inputs(run_id))

    def remember(self, events: Any) -> None:
        for event in events:
            # One id never stands for two things, not even over a failover.
            assert same([self.seen.setdefault(event.id, event)], [event])

    @staticmethod
    def pick(items: list[R], number: int) -> R:
        return items[number % len(items)] if items else None  # type: ignore[return-value]


@pytest.mark.hypothesis
def test_buffers_agree(backend: Backend) -> None:
    if type(backend) is Memory or not backend.share:
        pytest.skip("it is what the others are compared with, or cannot go back in time")
    profile = settings()
    run_state_machine_as_test(
        cast(Any, lambda: Agreement(type(backend), backend.server)),
        settings=settings(
            profile, stateful_step_count=40, max_examples=max(1, int(profile.max_examples * backend.share))
        ),
    )
