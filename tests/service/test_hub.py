"""The hub: any number of readers, one reader of the store, nobody lost, nobody in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import pytest

from streamchat import EventBuffer, HistoryReset, MemoryEventBuffer, RunState, StoredEvent, StreamChat
from streamchat.core.cursor import parse_cursor
from streamchat.errors import RunNotFound
from streamchat.service.hub import Hub, Subscription
from streamchat.service.log import read_log
from streamchat.testing import ScriptedModel, Stall, Step

from .support import WatchedBuffer, drain

pytestmark = pytest.mark.anyio

Read: TypeAlias = Callable[[Subscription, Any], Coroutine[Any, Any, bytes]]

WORDS = " ".join(f"word{n}" for n in range(60))


class Lines:
    """An encoder that counts."""

    def __init__(self) -> None:
        self.encoded = 0

    def event(self, event: StoredEvent) -> bytes:
        self.encoded += 1
        return b"%s\n" % event.id.encode()

    def reset(self, reset: HistoryReset) -> bytes:
        return b"reset\n"


def service(buffer: Any, model: ScriptedModel, **more: Any) -> StreamChat:
    return StreamChat(model=model, buffer=buffer, allow_anonymous=True, **more)


async def read_bytes(subscription: Subscription, lines: Lines) -> bytes:
    out = b""
    async with subscription:
        while not subscription.finished:
            out += await subscription.next_bytes(lines) or b""
    return out


async def pull_bytes(subscription: Subscription, lines: Lines) -> bytes:
    """The same, as streams do it."""
    out = b""
    async with subscription:
        while not subscription.finished:
            given = subscription.pull(lines)
            if isinstance(given, asyncio.Future):
                result = await given
                out += result if isinstance(result, bytes) else b""
            elif given is None:
                out += await subscription.next_bytes(lines) or b""
            else:
                out += given
    return out


both_ways = pytest.mark.parametrize("read", [read_bytes, pull_bytes])


@both_ways
async def test_many_readers_of_a_run_at_work_cost_no_reads_and_no_encoding_of_their_own(
    buffer: EventBuffer,
    read: Read,
) -> None:
    watched, lines, stall = WatchedBuffer(buffer), Lines(), Stall()
    async with service(watched, ScriptedModel([Step(WORDS, stall_after=0, stall=stall)])) as chat:
        started = await chat.start(None, "go")
        await stall.reached()
        subscriptions = [await chat.attach(started.run_id) for _ in range(50)]
        readers = [asyncio.create_task(read(each, lines)) for each in subscriptions]
        reads = watched.reads
        stall.release()
        got = await asyncio.gather(*readers)
        reads = watched.reads - reads
        log = await read_log(buffer, started.run_id)
    assert set(got) == {b"".join(b"%s\n" % event.id.encode() for event in log)}
    assert lines.encoded == len(log)
    assert reads <= 4


async def test_a_reader_behind_the_window_reads_the_store_and_misses_nothing(buffer: EventBuffer) -> None:
    stall = Stall()
    async with service(buffer_of(buffer), ScriptedModel([Step(WORDS, stall_after=30, stall=stall)])) as chat:
        chat.hub = hub = Hub(chat.buffer, window=400)
        started = await chat.start(None, "go")
        await stall.reached()
        slow = await chat.attach(started.run_id)
        quick = asyncio.create_task(drain(chat, started.run_id))
        stall.release()
        whole = await quick
        events: list[StoredEvent] = []
        async with slow:
            while not slow.finished:
                got = await slow.next()
                assert got is not None
                assert not isinstance(got, HistoryReset)
                events += got
        assert events == whole == await read_log(buffer, started.run_id)
        await hub.close()


def buffer_of(buffer: EventBuffer) -> WatchedBuffer:
    return WatchedBuffer(buffer)


@both_ways
async def test_a_reader_in_another_process_follows_by_the_store_alone(
    buffer: EventBuffer, read: Read
) -> None:
    stall = Stall()
    other = Hub(buffer, poll=0.05)
    async with service(buffer_of(buffer), ScriptedModel([Step(WORDS, stall_after=5, stall=stall)])) as chat:
        started = await chat.start(None, "go")
        await stall.reached()
        subscription = await other.subscribe(started.run_id)
        reading = asyncio.create_task(read(subscription, Lines()))
        stall.release()
        await drain(chat, started.run_id)
        log = await read_log(buffer, started.run_id)
        assert await reading == b"".join(b"%s\n" % event.id.encode() for event in log)
    await other.close()


async def test_waiting_ends_after_the_given_time_and_loses_nothing(buffer: EventBuffer) -> None:
    stall = Stall()
    async with service(
        buffer_of(buffer), ScriptedModel([Step("one two", stall_after=1, stall=stall)])
    ) as chat:
        started = await chat.start(None, "go")
        await stall.reached()
        subscription = await chat.attach(started.run_id)
        events: list[StoredEvent] = []
        while (got := await subscription.next(0.05)) is not None:
            assert not isinstance(got, HistoryReset)
            events += got
        stall.release()
        while not subscription.finished:
            got = await subscription.next()
            assert isinstance(got, list)
            events += got
        await subscription.close()
        assert events == await read_log(buffer, started.run_id)


async def test_a_subscription_gives_one_event_after_the_other_until_it_is_closed(buffer: EventBuffer) -> None:
    stall = Stall()
    async with service(
        buffer_of(buffer), ScriptedModel([Step("one two", stall_after=1, stall=stall)])
    ) as chat:
        started = await chat.start(None, "go")
        closed, whole = await chat.attach(started.run_id), await chat.attach(started.run_id)
        async for event in closed:
            assert isinstance(event, StoredEvent)
            if event.event.type == "text_delta":
                await closed.close()
        stall.release()
        events = [event async for event in whole]
        await whole.close()
        assert events == await read_log(buffer, started.run_id)


async def test_closing_a_subscription_ends_a_wait_on_it(buffer: EventBuffer) -> None:
    stall = Stall()
    async with service(
        buffer_of(buffer), ScriptedModel([Step("one two", stall_after=0, stall=stall)])
    ) as chat:
        started = await chat.start(None, "go")
        await stall.reached()
        subscription = await chat.attach(started.run_id)
        while await subscription.next(0.05) is not None:
            pass
        waiting = asyncio.ensure_future(subscription.next())
        await asyncio.sleep(0)
        await subscription.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        stall.release()
        await drain(chat, started.run_id)


async def quiet(
    chat: StreamChat, run_id: str, lines: Any
) -> tuple[Subscription, asyncio.Future[bool | bytes]]:
    """A subscription that has all that there is, and what it waits for."""
    subscription = await chat.attach(run_id)
    while await subscription.next_bytes(lines, 0.05) is not None:
        pass
    waiting = subscription.pull(lines)
    assert isinstance(waiting, asyncio.Future)
    return subscription, waiting


async def test_who_waits_for_bytes_is_given_them_by_whoever_publishes(buffer: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("one two", stall_after=1, stall=stall)])
    async with service(buffer_of(buffer), model) as chat:
        started = await chat.start(None, "go")
        await stall.reached()
        lines = Lines()
        subscription, waiting = await quiet(chat, started.run_id, lines)
        before = subscription.cursor
        assert not waiting.done()
        stall.release()
        given = await waiting
        assert isinstance(given, bytes)
        assert given.splitlines()[-1] == subscription.cursor.encode() != before.encode()
        rest = await pull_bytes(subscription, lines)
        ids = [event.id.encode() for event in await read_log(buffer, started.run_id)]
        assert ids[ids.index(before.encode()) + 1 :] == (given + rest).splitlines()


async def test_nudged_or_closed_what_is_waited_for_holds_no_bytes(buffer: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("one two", stall_after=1, stall=stall)])
    async with service(buffer_of(buffer), model) as chat:
        started = await chat.start(None, "go")
        await stall.reached()
        lines = Lines()
        subscription, waiting = await quiet(chat, started.run_id, lines)
        subscription.nudge()
        assert await waiting is False
        again = subscription.pull(lines)
        assert isinstance(again, asyncio.Future)
        await subscription.close()
        assert await again is True
        assert subscription.pull(lines) is None
        stall.release()
        await drain(chat, started.run_id)


async def test_an_encoder_that_fails_hurts_its_readers_and_nobody_else(buffer: EventBuffer) -> None:
    class Fails(Lines):
        broken = False

        def event(self, event: StoredEvent) -> bytes:
            if self.broken:
                raise ValueError("a bug")
            return super().event(event)

    stall = Stall()
    model = ScriptedModel([Step("one two", stall_after=1, stall=stall)])
    async with service(buffer_of(buffer), model) as chat:
        started = await chat.start(None, "go")
        await stall.reached()
        fails, lines = Fails(), Lines()
        hurt, waiting = await quiet(chat, started.run_id, fails)
        other = asyncio.create_task(pull_bytes(await chat.attach(started.run_id), lines))
        fails.broken = True
        stall.release()
        assert await waiting is True
        with pytest.raises(ValueError, match="a bug"):
            hurt.pull(fails)
        await hurt.close()
        log = await read_log(buffer, started.run_id) if await other else []
        assert await other == b"".join(b"%s\n" % event.id.encode() for event in log)
        assert log[-1].type == "finalized"


async def test_waits_that_were_given_up_are_not_kept(buffer: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("one two", stall_after=1, stall=stall)])
    async with service(buffer_of(buffer), model) as chat:
        started = await chat.start(None, "go")
        await stall.reached()
        subscription, _ = await quiet(chat, started.run_id, Lines())
        topic = chat.hub._topics[started.run_id]
        for _ in range(100):
            assert await subscription.next(0) is None
        assert len(topic._waiters) < 5
        await subscription.close()
        assert not any(topic._followers.values())
        stall.release()


async def test_a_cursor_behind_the_trim_gets_a_snapshot_and_goes_on_from_it() -> None:
    now = 1_000_000
    memory = MemoryEventBuffer(clock=lambda: now)
    async with service(WatchedBuffer(memory), ScriptedModel.text(WORDS)) as chat:
        answer = await chat.reply(None, "go")
        whole = await read_log(memory, answer.run_id)
        now += 10_000
        assert await memory.trim(now) == 1
        async with await chat.attach(answer.run_id, whole[3].id) as subscription:
            reset = await subscription.next()
            assert isinstance(reset, HistoryReset)
            assert (reset.reason, reset.last_seq, reset.id) == ("trimmed", whole[-1].seq, whole[-1].id)
            assert subscription.finished
        assert RunState.model_validate_json(reset.snapshot).text == WORDS
        async with await chat.attach(answer.run_id, reset.id) as again:
            assert again.finished


async def test_a_run_that_is_deleted_ends_its_readers(buffer: EventBuffer) -> None:
    stall = Stall()
    hub = Hub(buffer, poll=0.05)
    async with service(
        buffer_of(buffer), ScriptedModel([Step("one two", stall_after=0, stall=stall)])
    ) as chat:
        started = await chat.start(None, "go")
        await stall.reached()
        subscription = await hub.subscribe(started.run_id)
        while await subscription.next(0.05) is not None:
            pass
        await buffer.delete(run_id=started.run_id)
        with pytest.raises(RunNotFound):
            await subscription.next()
        await subscription.close()
        stall.release()
    await hub.close()


async def test_a_subscription_says_where_it_is(buffer: EventBuffer) -> None:
    async with service(buffer_of(buffer), ScriptedModel.text("hello there")) as chat:
        answer = await chat.reply(None, "go")
        async with await chat.attach(answer.run_id) as subscription:
            assert parse_cursor(subscription.cursor).seq == 0
            got = await subscription.next()
            assert isinstance(got, list)
            assert subscription.cursor == got[-1].id
