"""The driver: what is one transaction, what waits for what, and what is left when it lets go."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from streamchat import (
    EventBuffer,
    MemoryEventBuffer,
    RunOptions,
    RunSummary,
    StreamChat,
    ToolRegistry,
    check_log,
    fold,
)
from streamchat.buffers.base import NewEvent
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
