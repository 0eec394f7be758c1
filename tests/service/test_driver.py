"""The driver: what is one transaction, what waits for what, and what is left when it lets go."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from streamchat import (
    EventBuffer,
    Limits,
    MemoryEventBuffer,
    RunOptions,
    RunSummary,
    ServiceLimits,
    StreamChat,
    ToolContext,
    ToolRegistry,
    check_log,
    fold,
)
from streamchat.buffers.base import Lease, NewEvent
from streamchat.core.lifecycle import BARRIERS
from streamchat.errors import BufferUnavailable
from streamchat.models import Model
from streamchat.testing import Call, ScriptedModel, Stall, Step

from .support import WatchedBuffer, drain, log_of

pytestmark = pytest.mark.anyio


def service(
    buffer: WatchedBuffer | EventBuffer, model: Model, tools: ToolRegistry | None = None, **more: object
) -> StreamChat:
    return StreamChat(model=model, tools=tools, buffer=buffer, allow_anonymous=True, **more)  # type: ignore[arg-type]


def two_tools(effects: list[str]) -> ToolRegistry:
    tools = ToolRegistry()

    @tools.tool
    async def one() -> str:
        """One."""
        effects.append("one")
        return "1"

    @tools.tool
    async def two() -> str:
        """Two."""
        effects.append("two")
        return "2"

    return tools


CALLS = Step("Let me see.", calls=[Call("one"), Call("two")])


async def test_a_tool_takes_effect_only_after_its_start_is_stored(buffer: EventBuffer) -> None:
    effects: list[str] = []
    watched = WatchedBuffer(buffer)

    def before(batch: Sequence[NewEvent]) -> None:
        if any(event.type == "tool_started" for event in batch):
            assert effects == []

    watched.before = before
    async with service(watched, ScriptedModel([CALLS, Step("Done.")]), two_tools(effects)) as chat:
        answer = await chat.reply(None, "go")
    assert answer.text == "Let me see.Done."
    assert sorted(effects) == ["one", "two"]


async def test_what_belongs_together_is_one_transaction(buffer: EventBuffer) -> None:
    watched = WatchedBuffer(buffer)
    async with service(watched, ScriptedModel([CALLS, Step("Done.")]), two_tools([])) as chat:
        await chat.reply(None, "go")
    with_calls = [batch for batch in watched.batches if "tool_call" in batch]
    assert len(with_calls) == 1
    assert with_calls[0][-1] == "model_completed"
    starts = [batch for batch in watched.batches if "tool_started" in batch]
    assert [batch.count("tool_started") for batch in starts] == [2]
    assert watched.batches[-1][-2:] == ("message_completed", "finalized")


async def test_nothing_after_a_barrier_is_stored_with_it_unless_it_belongs_to_it(buffer: EventBuffer) -> None:
    watched = WatchedBuffer(buffer)
    async with service(watched, ScriptedModel([CALLS, Step("Done.")]), two_tools([])) as chat:
        await chat.reply(None, "go")
    for batch in watched.batches:
        last_barrier = max((i for i, kind in enumerate(batch) if kind in BARRIERS), default=len(batch) - 1)
        assert last_barrier == len(batch) - 1, batch


async def test_deltas_gather_while_an_append_is_under_way(buffer: EventBuffer) -> None:
    watched = WatchedBuffer(buffer)
    go_on = asyncio.Event()
    first = itertools.count()

    async def hold_first(batch: Sequence[NewEvent]) -> None:
        if "text_delta" in {event.type for event in batch} and next(first) == 0:
            await go_on.wait()

    watched.before = hold_first
    stall = Stall()
    words = " ".join(str(n) for n in range(200))
    model = ScriptedModel([Step(words, stall_after=200, stall=stall)])
    async with service(watched, model) as chat:
        started = await chat.start(None, "go")
        await stall.reached()  # all words have come, the first append still waits
        go_on.set()
        stall.release()
        await drain(chat, started.run_id)
        deltas = [e for e in await log_of(chat, started.run_id) if e.type == "text_delta"]
    assert len(deltas) <= 4
    assert "".join(e.text for e in deltas) == words  # type: ignore[union-attr]


async def test_a_store_that_is_away_is_waited_for_and_the_batch_sent_again_unchanged(
    buffer: EventBuffer,
) -> None:
    watched = WatchedBuffer(buffer)
    sent: list[tuple[NewEvent, ...]] = []
    calls = itertools.count()

    def away(batch: Sequence[NewEvent]) -> None:
        sent.append(tuple(batch))
        if next(calls) in (1, 2, 4):
            raise BufferUnavailable("the store is away")

    watched.before = away
    async with service(watched, ScriptedModel([CALLS, Step("Done.")]), two_tools([])) as chat:
        answer = await chat.reply(None, "go")
        log = await log_of(chat, answer.run_id)
    assert check_log(log) == "over"
    assert answer.text == "Let me see.Done."
    assert sent[1] == sent[2] == sent[3]


async def test_an_acknowledgement_that_was_lost_doubles_nothing(buffer: EventBuffer) -> None:
    watched = WatchedBuffer(buffer)
    calls = itertools.count()

    def lose(batch: Sequence[NewEvent]) -> None:
        if next(calls) in (1, 3):
            raise BufferUnavailable("the answer was lost on the way")

    watched.after = lose
    async with service(watched, ScriptedModel([CALLS, Step("Done.")]), two_tools([])) as chat:
        started = await chat.start(None, "go")
        seen = await drain(chat, started.run_id)
        log = await log_of(chat, started.run_id)
    assert check_log(log) == "over"
    assert [stored.event for stored in seen] == log
    assert fold(log).text == "Let me see.Done."


async def test_closing_hands_the_run_over_and_the_next_worker_finishes_it(buffer: EventBuffer) -> None:
    watched = WatchedBuffer(buffer)
    stall = Stall()
    summaries: list[RunSummary] = []
    first = service(
        watched,
        ScriptedModel([Step("Once upon a time there was", stall_after=3, stall=stall)]),
        on_run_finished=summaries.append,
    )
    await first.open()
    started = await first.start(None, "go")
    await stall.reached()
    await first.drain(0)
    await first.close()
    assert (await buffer.get(started.run_id)).status == "queued"
    async with service(watched, ScriptedModel([Step("Once upon a time there was a cat.")])) as second:
        seen = await drain(second, started.run_id)
        log = await log_of(second, started.run_id)
    assert check_log(log) == "over"
    assert [stored.event for stored in seen] == log
    kinds = [event.type for event in log]
    assert kinds.count("run_resumed") == kinds.count("step_reset") == 1
    assert fold(log).text == "Once upon a time there was a cat."
    assert fold(log).takeovers == 0


async def test_a_worker_that_lost_its_lease_stops_and_writes_nothing() -> None:
    now = 1_000_000
    memory = MemoryEventBuffer(clock=lambda: now)
    watched = WatchedBuffer(memory)
    stall = Stall()
    ended = asyncio.Event()
    tools = ToolRegistry()

    @tools.tool
    async def long_work() -> str:
        """Works for ever."""
        try:
            await stall.wait()
        finally:
            ended.set()
        return "done"

    first = service(watched, ScriptedModel([Step(calls=[Call("long_work")])]), tools, lease_ttl=0.3)
    async with first:
        started = await first.start(None, "go")
        await stall.reached()
        now += 60_000
        claim = await memory.claim("thief", 60.0, started.run_id)
        assert claim is not None
        assert claim.was == "running"
        await ended.wait()  # the renewal found out, and the tool was cancelled
        page = await memory.read(started.run_id)
    assert page.last_seq == claim.lease.head_seq
    assert page.events[-1].type == "tool_started"


async def test_a_taken_over_call_that_may_have_taken_effect_is_unknown_and_the_run_goes_on() -> None:
    now = 1_000_000
    memory = MemoryEventBuffer(clock=lambda: now)
    stall, effects = Stall(), []
    tools = ToolRegistry()

    @tools.tool
    async def pay() -> str:
        """Pays."""
        effects.append("paid")
        await stall.wait()
        return "paid"

    first = service(WatchedBuffer(memory), ScriptedModel([Step(calls=[Call("pay")])]), tools, lease_ttl=60.0)
    second = service(WatchedBuffer(memory), ScriptedModel([Step("I cannot say.")]), tools)
    async with first:
        started = await first.start(None, "go")
        await stall.reached()
        now += 120_000  # the first worker does not notice: it is frozen, as far as the store knows
        async with second:
            await drain(second, started.run_id)
            log = await log_of(second, started.run_id)
    assert effects == ["paid"]
    results = [event for event in log if event.type == "tool_result"]
    assert [result.outcome for result in results] == ["unknown"]  # type: ignore[union-attr]
    assert check_log(log) == "over"
    assert fold(log).takeovers == 1


async def test_a_failing_hook_ends_the_run_with_an_error_and_a_whole_message(buffer: EventBuffer) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("secret detail")

    from streamchat import Hooks

    options = RunOptions(hooks=Hooks(before_tool=refuse))
    async with service(WatchedBuffer(buffer), ScriptedModel([CALLS]), two_tools([]), options=options) as chat:
        answer = await chat.reply(None, "go")
        log = await log_of(chat, answer.run_id)
    assert answer.status == "error"
    assert answer.text == "Let me see."
    assert check_log(log) == "over"
    assert b"secret detail" not in b"".join(NewEvent.of(event).data for event in log)


class SlowToEnd:
    """A tool that takes its time to end when it is cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.tools = ToolRegistry()

        @self.tools.tool
        async def slow() -> str:
            """Is slow to end."""
            try:
                self.begun.set()
                await asyncio.Event().wait()
            finally:
                await self.may_end.wait()
            return "never"


async def test_draining_twice_and_cancelling_a_drain_still_hand_every_run_over(buffer: EventBuffer) -> None:
    slow = SlowToEnd()
    chat = service(WatchedBuffer(buffer), ScriptedModel([Step(calls=[Call("slow")])]), slow.tools)
    await chat.open()
    started = await chat.start(None, "go")
    await slow.begun.wait()
    impatient = asyncio.create_task(chat.drain(0))
    patient = asyncio.create_task(chat.drain(0))
    for _ in range(5):
        await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait({impatient})
    assert not patient.done()
    slow.may_end.set()
    await patient
    await chat.close()
    run = await buffer.get(started.run_id)
    assert (run.status, run.owner) == ("queued", None)
    assert await buffer.claim("somebody else", 10.0, started.run_id) is not None


async def test_a_store_that_is_away_for_a_moment_when_a_run_is_begun_does_not_end_it(
    buffer: EventBuffer,
) -> None:
    watched = WatchedBuffer(buffer)
    failures = itertools.count()
    inner_inputs = buffer.inputs

    async def inputs(run_id: str) -> object:
        if next(failures) < 2:
            raise BufferUnavailable("away")
        return await inner_inputs(run_id)

    watched.inputs = inputs  # type: ignore[attr-defined]
    async with service(watched, ScriptedModel.text("All is well.")) as chat:
        answer = await chat.reply(None, "go")
    assert (answer.status, answer.text) == ("success", "All is well.")


async def test_a_slow_deps_factory_is_awaited_under_a_lease_that_is_kept() -> None:
    now = 1_000_000
    memory = MemoryEventBuffer(clock=lambda: now)
    watched = WatchedBuffer(memory)
    calls, renewed, go_on = itertools.count(), asyncio.Event(), asyncio.Event()
    renew = memory.renew

    async def watch(lease: Lease, ttl: float) -> Lease:
        renewed.set()
        return await renew(lease, ttl)

    async def deps(context: object) -> str:
        next(calls)
        await go_on.wait()
        return "made"

    watched.renew = watch  # type: ignore[attr-defined]
    async with service(watched, ScriptedModel.text("Hi."), deps=deps, lease_ttl=0.3) as chat:
        started = await chat.start(None, "go")
        await renewed.wait()
        go_on.set()
        await drain(chat, started.run_id)
    assert next(calls) == 1


async def test_a_cancel_does_not_wait_for_a_deps_factory_that_hangs(buffer: EventBuffer) -> None:
    asked = asyncio.Event()

    async def deps(context: object) -> str:
        asked.set()
        await asyncio.Event().wait()
        return "never"

    async with service(WatchedBuffer(buffer), ScriptedModel([]), deps=deps) as chat:
        started = await chat.start(None, "go")
        await asked.wait()
        await chat.cancel(started.run_id)
        await drain(chat, started.run_id)
        log = await log_of(chat, started.run_id)
    assert check_log(log) == "over"
    assert fold(log).status == "cancelled"


async def test_a_cancel_whose_caller_goes_away_is_finished_all_the_same(buffer: EventBuffer) -> None:
    stall, reading, go_on = Stall(), asyncio.Event(), asyncio.Event()
    watched = WatchedBuffer(buffer)
    model = ScriptedModel([Step("one", stall_after=0, stall=stall)])
    async with service(watched, model, limits=ServiceLimits(max_runs=1)) as chat:
        running = await chat.start(None, "a")
        await stall.reached()
        queued = await chat.start(None, "b")

        async def hold(batch: Sequence[NewEvent]) -> None:
            reading.set()
            await go_on.wait()

        watched.before = hold
        cancelling = asyncio.create_task(chat.cancel(queued.run_id))
        await reading.wait()
        cancelling.cancel()
        await asyncio.wait({cancelling})
        watched.before = None
        go_on.set()
        await drain(chat, queued.run_id)
        stall.release()
        await drain(chat, running.run_id)
        assert fold(await log_of(chat, queued.run_id)).status == "cancelled"


async def test_what_waits_for_the_store_is_bounded_by_bytes_whatever_it_is(buffer: EventBuffer) -> None:
    watched = WatchedBuffer(buffer)
    tools, largest = ToolRegistry(), []

    @tools.tool
    async def loud(ctx: ToolContext) -> str:
        """Says much."""
        for _ in range(40):
            ctx.emit("noise", "x" * 200_000)
            await asyncio.sleep(0)
        return "ok"

    def weigh(batch: Sequence[NewEvent]) -> None:
        largest.append(sum(len(event.data) for event in batch))

    watched.before = weigh
    model = ScriptedModel([Step(calls=[Call("loud")]), Step("Done.")])
    async with service(watched, model, tools) as chat:
        answer = await chat.reply(None, "go")
    assert answer.text == "Done."
    assert max(largest) < 3_000_000


async def test_a_tool_that_floods_its_run_ends_it_with_a_limit() -> None:
    tools = ToolRegistry()

    @tools.tool
    async def flood(ctx: ToolContext) -> str:
        """Floods."""
        for number in range(20_000):
            ctx.emit("drop", number)
        return "ok"

    async with service(MemoryEventBuffer(), ScriptedModel([Step(calls=[Call("flood")])]), tools) as chat:
        answer = await chat.reply(None, "go")
        log = await log_of(chat, answer.run_id)
    assert check_log(log) == "over"
    assert answer.state.error is not None
    assert (answer.state.error.phase, answer.state.error.code) == ("limit", "max_emitted")


async def test_a_holder_that_fails_before_its_first_event_says_that_it_was_there(buffer: EventBuffer) -> None:
    stall = Stall()
    first = service(WatchedBuffer(buffer), ScriptedModel([Step("one two", stall_after=1, stall=stall)]))
    await first.open()
    started = await first.start(None, "go")
    await stall.reached()
    await first.drain(0)
    await first.close()

    def deps(context: object) -> object:
        raise RuntimeError("no database")

    options = RunOptions(limits=Limits(max_takeovers=0))
    async with service(WatchedBuffer(buffer), ScriptedModel([]), deps=deps, options=options) as second:
        await drain(second, started.run_id)
        log = await log_of(second, started.run_id)
    assert check_log(log) == "over"
    kinds = [event.type for event in log]
    assert kinds[kinds.index("error") - 1] == "run_resumed"
