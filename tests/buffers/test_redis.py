"""What is Redis's own: whose connections they are, keys, one round trip for many, gaps, data that is lost."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from streamchat.buffers.base import NewEvent, NewRun
from streamchat.buffers.redis import RedisEventBuffer
from streamchat.buffers.redis.lanes import Link
from streamchat.core.cursor import Cursor, Position, Reset, resolve
from streamchat.errors import BufferUnavailable, InvalidInput, LeaseLost, RunNotFound, StreamChatError
from streamchat.testing.buffers import Bench, BufferSuite
from streamchat.testing.buffers.suite import deltas, ending
from tests.buffers.redis_backend import Valkey, keys_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(valkey_url: str, tmp_path: Path) -> Valkey:
    return Valkey(tmp_path, valkey_url)


def bench_of(buffer: Any) -> Bench:
    return Bench(buffer, None, None, 60.0)


# ------------------------------------------------------------------------------------------ what it is given


@pytest.mark.parametrize("prefix", ["", "a{b", "}"])
def test_a_prefix_that_would_mix_deployments_or_nodes_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidInput, match="prefix"):
        RedisEventBuffer("redis://localhost", prefix=prefix)


@pytest.mark.parametrize(
    "url",
    ["localhost:6379", "http://localhost", "redis:///chat", "redis://:secret@localhost/0x1", ""],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        RedisEventBuffer(url, prefix="p")
    assert refused.value.field == "url"
    assert "secret" not in str(refused.value)


def test_a_client_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"redis\.asyncio"):
        RedisEventBuffer(redis.Redis(), prefix="p")  # type: ignore[arg-type]


async def test_a_client_that_is_given_stays_the_callers(store: Valkey) -> None:
    # Not even that it decodes answers, or speaks another protocol, is of any concern.
    async with redis.asyncio.Redis.from_url(store.server, decode_responses=True, protocol=3) as client:
        await client.set(f"{{{store.prefix}}}:mine", "ä")
        buffer = await RedisEventBuffer(client, prefix=store.prefix).open()
        lease = await bench_of(buffer).held()
        follower = await buffer.follow(lease.run_id)
        assert await follower.wait(10)
        lease = (await buffer.append(lease, [NewEvent("custom", b"\xff\0", b"\xff")])).lease
        await follower.close()
        await buffer.close()
        assert await client.get(f"{{{store.prefix}}}:mine") == "ä"
    store.clear()


@pytest.mark.parametrize("scheme", ["valkey", "redis"])
async def test_both_names_of_the_scheme_lead_there(store: Valkey, scheme: str) -> None:
    url = store.server.replace("redis://", f"{scheme}://")
    buffer = await RedisEventBuffer(url, prefix=store.prefix).open()
    await bench_of(buffer).created()
    await buffer.close()
    store.clear()


async def test_nothing_is_done_by_a_buffer_that_is_not_open(store: Valkey) -> None:
    buffer = store.make()
    with pytest.raises(BufferUnavailable, match="not open"):
        await buffer.get("run")
    await buffer.open()
    assert await buffer.open() is buffer
    await buffer.close()
    await buffer.close()
    with pytest.raises(BufferUnavailable, match="not open"):
        await buffer.claim("w", 1.0)
    await buffer.open()
    assert await buffer.claim("w", 1.0) is None
    await buffer.close()


def test_a_buffer_belongs_to_the_loop_that_opened_it(store: Valkey) -> None:
    with asyncio.Runner() as one, asyncio.Runner() as other:
        buffer = one.run(store.make().open())
        with pytest.raises(StreamChatError, match="another event loop"):
            other.run(buffer.get("run"))
        one.run(buffer.close())


async def test_all_keys_begin_with_the_prefix_and_deployments_do_not_see_each_other(store: Valkey) -> None:
    with redis.Redis.from_url(store.server) as client:
        before: set[Any] = set(client.keys())
        async with store.open() as buffer:
            bench = bench_of(buffer)
            lease = await bench.held(idempotency_key="k", digest="d")
            await buffer.append(lease, [*deltas("a"), *ending()], then="over")
            assert keys_of(client, store.prefix)
            # Other tests may be at work there as well, under prefixes of their own.
            new: set[Any] = set(client.keys()) - before
            assert all(re.match(rb"\{[\w-]+\}:", key) for key in new)
            other = await RedisEventBuffer(store.server, prefix=f"{store.prefix}2").open()
            with pytest.raises(RunNotFound):
                await other.get(lease.run_id)
            assert await other.claim("w", 1.0) is None
            await other.close()


async def test_the_connections_are_closed_with_the_buffer(store: Valkey) -> None:
    with redis.Redis.from_url(store.server) as client:

        def connected() -> int:
            return sum(one["name"] == store.prefix for one in client.client_list())

        async with redis.asyncio.Redis.from_url(store.server, client_name=store.prefix) as given:
            buffer = await RedisEventBuffer(given, prefix=store.prefix).open()
            lease = await bench_of(buffer).held()
            follower = await buffer.follow(lease.run_id)
            assert await follower.wait(10)
            await buffer.get(lease.run_id)
            assert connected() == 3
            await buffer.close()
            while connected():
                await asyncio.sleep(0.01)
    store.clear()


# --------------------------------------------------------------------------------------------- many at once


async def test_what_waits_goes_in_one_round_trip(store: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    trips: list[int] = []
    exchange = Link.exchange

    async def counted(link: Link, commands: Sequence[Any]) -> tuple[list[Any], bool]:
        trips.append(len(commands))
        return await exchange(link, commands)

    async with store.open() as buffer:
        bench = bench_of(buffer)
        leases = [await bench.held() for _ in range(30)]
        stale = leases[7].advanced(9)
        monkeypatch.setattr(Link, "exchange", counted)
        done = await asyncio.gather(
            *(buffer.append(stale if lease is leases[7] else lease, deltas("a", "b")) for lease in leases),
            return_exceptions=True,
        )
        monkeypatch.undo()
        assert [type(one) for one in done if isinstance(one, Exception)] == [LeaseLost]
        # The first goes at once, the others together.
        assert trips in ([1, 29], [30])


async def test_cancelled_calls_leave_no_answer_behind_for_others(store: Valkey) -> None:
    async with store.open() as buffer:
        bench = bench_of(buffer)
        runs = [(await bench.created()).run_id for _ in range(8)]

        async def look(number: int, cancelled: bool) -> None:
            run_id = runs[number % len(runs)]
            task = asyncio.ensure_future(buffer.get(run_id))
            for _ in range(number % 7):
                await asyncio.sleep(0)
            if cancelled:
                task.cancel()
            found = await asyncio.gather(task, return_exceptions=True)
            if not cancelled:
                assert found[0].run_id == run_id  # type: ignore[union-attr]

        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(look(number, number % 3 == 0))


async def test_a_claim_that_is_cancelled_while_the_buffer_closes_holds_nothing(store: Valkey) -> None:
    async with store.open() as theirs:
        bench = bench_of(theirs)
        for steps in range(12):
            run = await bench.created()
            buffer = await store.make().open()
            claim = asyncio.ensure_future(buffer.claim("w-1", 1e6, run.run_id))
            for _ in range(steps):
                await asyncio.sleep(0)
            closing = asyncio.ensure_future(buffer.close())
            claim.cancel()
            await closing
            if not isinstance((await asyncio.gather(claim, return_exceptions=True))[0], BaseException):
                continue
            assert await theirs.claim("w-2", 60.0, run.run_id) is not None


async def test_a_page_is_bounded_by_bytes_and_brings_at_least_one_event(store: Valkey) -> None:
    async with store.open() as buffer:
        lease = await bench_of(buffer).held()
        large = NewEvent("custom", b"x" * 400_000)
        for _ in range(5):
            lease = (await buffer.append(lease, [large, large])).lease
        seqs: list[int] = []
        pages = 0
        while len(seqs) < 11:
            page = await buffer.read(lease.run_id, len(seqs))
            assert 1 <= len(page.events) <= 5
            seqs += [event.seq for event in page.events]
            pages += 1
        assert seqs == list(range(1, 12))
        assert pages >= 3


# -------------------------------------------------------------------------------------------------- payload


class Noisy:
    """A codec that never gives the same bytes twice, as encryption does."""

    key_id = "noise"

    def encode(self, plain: bytes) -> bytes:
        key = os.urandom(4)
        return key + bytes(byte ^ key[at % 4] for at, byte in enumerate(plain))

    def decode(self, coded: bytes) -> bytes:
        return bytes(byte ^ coded[at % 4] for at, byte in enumerate(coded[4:]))


@pytest.mark.parametrize(
    "behaviour",
    [
        "a_batch_whose_acknowledgement_was_lost_is_recovered",
        "only_the_very_same_batch_is_taken_for_one_that_was_lost",
        "a_run_begins_queued_with_run_started_as_its_first_event",
        "the_same_input_again_changes_nothing",
        "another_answer_is_a_conflict",
        "any_bytes_survive",
        "a_title_is_that_of_the_first_run",
        "messages_are_written_with_the_events_or_not_at_all",
        "a_note_is_kept_by_run_and_name_and_replaced",
    ],
)
async def test_promises_hold_with_a_codec_that_never_repeats_itself(store: Valkey, behaviour: str) -> None:
    class Coded(Valkey):
        def make(self) -> RedisEventBuffer:
            return RedisEventBuffer(self.server, prefix=self.prefix, codec=Noisy(), clock=self.clock)

    coded = Coded(store.directory, store.server)
    await BufferSuite(coded.open, another=coded.open, advance=coded.advance).run(behaviour)


async def test_what_users_said_is_nowhere_in_clear_with_a_codec(store: Valkey) -> None:
    buffer = await RedisEventBuffer(store.server, prefix=store.prefix, codec=Noisy()).open()
    lease = await bench_of(buffer).held(title="SECRET", request=b"SECRET")
    await buffer.append(lease, deltas("SECRET"))
    await buffer.close()
    with redis.Redis.from_url(store.server) as client:
        dumps: list[Any] = [client.dump(key) for key in keys_of(client, store.prefix)]
    assert dumps
    assert not any(b"SECRET" in dump for dump in dumps)
    store.clear()


# ------------------------------------------------------------------------------------- what others have lost


async def log_of(store: Valkey, buffer: Any) -> tuple[str, bytes, redis.Redis]:
    """Write a log of five batches of two behind its first event; return its run and its key."""
    lease = await bench_of(buffer).held()
    for number in range(5):
        lease = (await buffer.append(lease, deltas(f"{number}a", f"{number}b"))).lease
    return lease.run_id, f"{{{store.prefix}}}:log:{lease.run_id}".encode(), redis.Redis.from_url(store.server)


async def read_through(buffer: Any, run_id: str, limit: int) -> list[int]:
    """Read as a client does; return the seqs that it got, and a 0 where it was told of a gap."""
    seqs: list[int] = []
    after = 0
    cursor = None
    while True:
        page = await buffer.read(run_id, after, limit)
        verdict = resolve(cursor, page.segments, page.first_seq, page.last_seq)
        if isinstance(verdict, Reset):
            seqs.append(0)
            after = max(page.first_seq - 1, after)
            page = await buffer.read(run_id, after, limit)
        assert [event.seq for event in page.events] == list(range(after + 1, after + 1 + len(page.events)))
        seqs += [event.seq for event in page.events]
        if not page.events:
            assert after == page.last_seq
            return seqs
        after = page.events[-1].seq
        cursor = Cursor(page.events[-1].generation, after)


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ([], [*range(1, 12)]),
        ([1], [0, *range(2, 12)]),
        ([5], [1, 2, 3, 0, *range(6, 12)]),
        ([5, 7], [1, 2, 3, 0, *range(8, 12)]),
        ([5, 9], [1, 2, 3, 0, 6, 7, 0, 10, 11]),
        ([11], [*range(1, 10), 0]),
        ([1, 3, 5, 7, 9, 11], [0]),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_a_log_with_entries_missing_never_reads_as_if_it_were_whole(
    store: Valkey, lost: list[int], expected: list[int], limit: int
) -> None:
    async with store.open() as buffer:
        run_id, key, client = await log_of(store, buffer)
        with client:
            for last in lost:
                assert client.xdel(key, f"{last}-0") == 1
        assert await read_through(buffer, run_id, limit) == expected


async def test_a_holder_whose_log_is_gone_writes_on_and_readers_see_the_gap(store: Valkey) -> None:
    async with store.open() as buffer:
        lease = await bench_of(buffer).held()
        lease = (await buffer.append(lease, deltas("a"))).lease
        with redis.Redis.from_url(store.server) as client:
            client.delete(f"{{{store.prefix}}}:log:{lease.run_id}")
        await buffer.append(lease, deltas("b"))
        assert await read_through(buffer, lease.run_id, 100) == [0, 3]


async def test_when_all_is_gone_runs_are_unknown_leases_lost_and_work_begins_anew(store: Valkey) -> None:
    async with store.open() as buffer:
        bench = bench_of(buffer)
        run = await bench.created(idempotency_key="k", digest="d")
        lease = await bench.claimed(run.run_id)
        store.clear()
        for call in (buffer.get, buffer.read, buffer.inputs):
            with pytest.raises(RunNotFound):
                await call(run.run_id)
        with pytest.raises(LeaseLost):
            await buffer.append(lease, deltas("a"))
        with pytest.raises(LeaseLost):
            await buffer.renew(lease, 60.0)
        assert await buffer.claim("w", 60.0) is None
        made = await buffer.create(run)
        assert made.new
        await bench.claimed(run.run_id)


@pytest.mark.parametrize("kept", ["queue:1", "key:", "conversation:", "open:", "log:", "owner:", "ended"])
async def test_what_is_left_of_a_lost_run_stands_in_nobodys_way(store: Valkey, kept: str) -> None:
    async with store.open() as buffer:
        bench = bench_of(buffer)
        run = bench.new_run(idempotency_key="k", digest="d")
        await buffer.create(run)
        with redis.Redis.from_url(store.server) as client:
            for key in keys_of(client, store.prefix):
                if not key.startswith(f"{{{store.prefix}}}:{kept}".encode()):
                    client.delete(key)
        assert await buffer.claim("w", 60.0) is None
        assert await buffer.find(run.conversation_id) is None
        again: NewRun = bench.new_run(
            run_id=run.run_id,
            conversation_id=run.conversation_id,
            message_id=run.message_id,
            idempotency_key="k",
            digest="d",
        )
        assert (await buffer.create(again)).new
        lease = await bench.claimed(run.run_id)
        await buffer.append(lease, [*deltas("a"), *ending()], then="over")
        page = await buffer.read(run.run_id)
        verdict = resolve(None, page.segments, page.first_seq, page.last_seq)
        assert (verdict, len(page.events)) == (Position(0), 4)
