"""Servers that refuse, vanish, stall, forget or are full: what callers are told, what is not done twice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from streamchat.buffers.base import EventBuffer, Input
from streamchat.buffers.notes import NewNote
from streamchat.buffers.redis import RedisEventBuffer, RedisEvictionWarning
from streamchat.buffers.redis.checking import check_server
from streamchat.buffers.redis.failures import translate
from streamchat.errors import (
    BufferUnavailable,
    ConversationBusy,
    InputsPending,
    InvalidInput,
    LeaseLost,
    StreamChatError,
)
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending, message, suspended
from tests.buffers.proxy import Proxy, proxy_to
from tests.buffers.redis_backend import Redis
from tests.services.fixtures import require
from tests.services.process import Unavailable, free_port
from tests.services.redis import RedisServer, start_redis

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["valkey", pytest.param("redis", marks=pytest.mark.slow)])
def own(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server whose settings a test may change, if it puts them back."""
    try:
        server = start_redis(flavour=request.param, fsync="everysec")
    except Unavailable as unavailable:
        require(unavailable)
        raise
    with server:
        yield server


@pytest.fixture
def admin(own: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own.url) as client:
        yield client


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Bench]:
    buffer = await RedisEventBuffer(url, **{"prefix": "chat", **options}).open()
    try:
        yield Bench(buffer, None, None, 60.0)
    finally:
        await buffer.close()


async def refused_at_open(url: str, words: str, kind: type[StreamChatError] = BufferUnavailable) -> None:
    with pytest.raises(kind, match=words) as refused:
        async with opened(url):
            pass
    assert "s3cret" not in str(refused.value)


# ----------------------------------------------------------------------------------------------- at the start


async def test_nobody_listens_there() -> None:
    await refused_at_open(f"redis://:s3cret@127.0.0.1:{free_port()}", "cannot be reached")


async def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    await refused_at_open(f"unix://:s3cret@{tmp_path}/none.sock", "none.sock")


async def test_a_wrong_password(own: RedisServer) -> None:
    await refused_at_open(f"redis://:s3cret@127.0.0.1:{own.port}", "user name or password")


async def test_no_password_where_one_is_asked_for(own: RedisServer) -> None:
    await refused_at_open(f"redis://127.0.0.1:{own.port}", "user name or password")


async def test_a_database_that_is_not_there(own: RedisServer) -> None:
    await refused_at_open(own.url.replace("/0", "/99"), "no such database", InvalidInput)


async def test_what_answers_there_is_no_redis() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    async with server:
        await refused_at_open(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", "Redis at 127")


async def test_where_nobody_answers_it_is_said_what_to_look_at() -> None:
    await refused_at_open(
        "redis://127.0.0.1:1", "cannot be reached.*check that the server runs.*host and port"
    )


def test_an_old_server_and_a_replica_are_refused_and_one_that_hides_is_not() -> None:
    with pytest.raises(BufferUnavailable, match=r"5\.0\.14.*6\.2"):
        check_server("# Server\r\nredis_version:5.0.14\r\n", "here")
    with pytest.raises(BufferUnavailable, match="primary"):
        check_server("redis_version:7.2.4\r\nrole:slave\r\n", "here")
    check_server("", "here")
    check_server("redis_version:6.2.0\r\nrole:master\r\nmaxmemory_policy:volatile-lru\r\n", "here")


async def test_a_server_that_evicts_is_warned_of(own: RedisServer, admin: redis.Redis) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.warns(RedisEvictionWarning, match="noeviction"):
            async with opened(own.url):
                pass
    finally:
        admin.config_set("maxmemory-policy", "noeviction")


async def test_a_replica_is_refused_at_the_start_and_when_it_becomes_one(
    own: RedisServer, admin: redis.Redis
) -> None:
    async with opened(own.url) as bench:
        lease = await bench.held()
        admin.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
        try:
            with pytest.raises(BufferUnavailable, match="primary"):
                await bench.buffer.append(lease, deltas("a"))
            await refused_at_open(own.url, "primary")
        finally:
            admin.execute_command("REPLICAOF", "NO", "ONE")
        await bench.buffer.append(lease, deltas("a"))
        assert await bench.texts(lease.run_id) == ["a"]


async def test_a_user_with_few_rights_is_told_which_it_needs(own: RedisServer, admin: redis.Redis) -> None:
    admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "&*", "+@read", "+@connection")
    await refused_at_open(f"redis://reader:pw@127.0.0.1:{own.port}", r"ACL.*~\{chat\}")


async def test_a_user_without_channels_or_information_still_hears_of_what_others_write(
    own: RedisServer, admin: redis.Redis
) -> None:
    rights = ["resetchannels", "~{chat}:*", "+@all", "-@dangerous", "-subscribe", "-info"]
    admin.execute_command("ACL", "SETUSER", "modest", "on", ">pw", *rights)
    modest = f"redis://modest:pw@127.0.0.1:{own.port}"
    async with opened(own.url) as bench, opened(modest) as theirs:
        lease = await bench.held()
        follower = await theirs.buffer.follow(lease.run_id)
        assert await follower.wait(10)
        lease = (await bench.buffer.append(lease, deltas("a"))).lease
        while await theirs.texts(lease.run_id) != ["a"]:
            await follower.wait(10)
        assert await follower.wait(10)
        await follower.close()


# ---------------------------------------------------------------------------------------------- in the middle


async def test_scripts_that_the_server_forgot_are_sent_again(own: RedisServer, admin: redis.Redis) -> None:
    async with opened(own.url) as bench:
        lease = await bench.held()
        for text in "abc":
            admin.script_flush()
            lease = (await bench.buffer.append(lease, deltas(text))).lease
        assert await bench.texts(lease.run_id) == ["a", "b", "c"]


async def test_connections_that_died_while_idle_are_made_anew(own: RedisServer) -> None:
    async with proxy_to(own.port) as proxy, opened(_through(own, proxy)) as bench:
        lease = await bench.held()
        await bench.texts(lease.run_id)
        for text in "ab":
            proxy.cut()
            lease = (await bench.buffer.append(lease, deltas(text))).lease
            assert (await bench.buffer.read(lease.run_id)).last_seq == lease.head_seq
        assert await bench.texts(lease.run_id) == ["a", "b"]


async def test_a_server_that_was_restarted_goes_on_and_followers_hear_again(own: RedisServer) -> None:
    async with opened(own.url, timeout=30) as bench, opened(own.url, timeout=30) as theirs:
        lease = await bench.held()
        follower = await theirs.buffer.follow(lease.run_id)
        assert await follower.wait(10)
        await asyncio.to_thread(own.restart)
        lease = (await bench.buffer.append(lease, deltas("a"))).lease
        while await theirs.texts(lease.run_id) != ["a"]:
            await follower.wait(10)
        lease = (await bench.buffer.append(lease, deltas("b"))).lease
        while await theirs.texts(lease.run_id) != ["a", "b"]:
            await follower.wait(10)
        await follower.close()


async def test_a_server_that_is_away_is_unavailable_and_the_same_batch_goes_on_later(
    own: RedisServer,
) -> None:
    async with opened(own.url) as bench:
        lease = await bench.held()
        await asyncio.to_thread(own.stop)
        try:
            for call in (bench.buffer.append(lease, deltas("a")), bench.buffer.get(lease.run_id)):
                with pytest.raises(BufferUnavailable, match="cannot be reached"):
                    await call
        finally:
            await asyncio.to_thread(own.start)
        await bench.buffer.append(lease, deltas("a"))
        assert await bench.texts(lease.run_id) == ["a"]


async def test_a_server_that_stalls_is_unavailable_in_time(own: RedisServer) -> None:
    async with opened(own.url, timeout=0.3) as bench:
        lease = await bench.held()
        own.pause()
        try:
            with pytest.raises(BufferUnavailable, match=r"0\.3 s"):
                await bench.buffer.append(lease, deltas("a"))
        finally:
            own.resume()
        # It may have been written by now, or still be on its way: the same batch again is right in each case.
        while True:
            with contextlib.suppress(BufferUnavailable):
                await bench.buffer.append(lease, deltas("a"))
                break
        assert await bench.texts(lease.run_id) == ["a"]


async def test_a_script_of_somebody_else_that_does_not_end(own: RedisServer, admin: redis.Redis) -> None:
    admin.config_set("lua-time-limit", "10")

    def endless() -> None:
        with redis.Redis.from_url(own.url, socket_timeout=30) as other, contextlib.suppress(redis.RedisError):
            other.eval("while true do end", 0)

    async with opened(own.url) as bench:
        lease = await bench.held()
        thread = threading.Thread(target=endless)
        thread.start()
        try:
            refusal = ""
            while not refusal:
                try:
                    lease = await bench.buffer.renew(lease, 60.0)
                except BufferUnavailable as error:
                    refusal = str(error)
            assert "SCRIPT KILL" in refusal
        finally:
            while thread.is_alive():
                with contextlib.suppress(redis.RedisError):
                    admin.script_kill()
                thread.join(0.05)
            admin.config_set("lua-time-limit", "5000")
        await bench.buffer.append(lease, deltas("a"))


def test_what_a_server_says_while_it_loads_or_cannot_save_is_told_with_the_remedy() -> None:
    sayings = {
        redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"): "wait",
        redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"): "disk",
        redis.ResponseError("NOREPLICAS Not enough good replicas to write."): "replicas",
        redis.exceptions.ClusterDownError("CLUSTERDOWN The cluster is down"): "cluster is down",
        redis.exceptions.MovedError("42 127.0.0.1:1"): "RedisCluster",
        redis.exceptions.TryAgainError("Multiple keys request during rehashing of slot"): "wait",
        redis.ResponseError("WRONGTYPE Operation against a key"): "WRONGTYPE",
    }
    for said, remedy in sayings.items():
        error = translate(said, "here:1/0", "chat")
        assert isinstance(error, BufferUnavailable)
        assert remedy in str(error)


# -------------------------------------------------------------------------------------- answers that are lost


def _through(own: RedisServer, proxy: Proxy) -> str:
    return own.url.replace(str(own.port), str(proxy.port))


@contextlib.asynccontextmanager
async def lossy(own: RedisServer) -> AsyncIterator[tuple[Bench, Proxy]]:
    async with (
        proxy_to(own.port) as proxy,
        opened(_through(own, proxy), prefix=f"lossy{proxy.port}") as bench,
    ):
        yield bench, proxy


async def test_what_was_done_although_its_answer_was_lost_is_done_once(own: RedisServer) -> None:
    async with lossy(own) as (bench, proxy):
        buffer = bench.buffer
        run = bench.new_run()
        proxy.swallow = 1
        made = await buffer.create(run, [message(run)])
        assert (made.new, made.run.fence) == (True, 0)
        proxy.swallow = 1
        claim = await buffer.claim("w", 60.0)
        assert claim is not None
        assert (claim.run.run_id, claim.run.fence, claim.was) == (run.run_id, 1, "queued")
        proxy.swallow = 1
        renewed = await buffer.renew(claim.lease, 60.0)
        proxy.swallow = 1
        appended = await buffer.append(renewed, deltas("a"), messages=[message(run)])
        assert appended.recovered
        proxy.swallow = 1
        posted = await buffer.post(run.run_id, Input("approval", "c", {"approved": True}))
        assert posted.new
        assert not (await buffer.post(run.run_id, Input("approval", "c", {"approved": True}))).new
        (unread,) = await buffer.inputs(run.run_id)
        proxy.swallow = 1
        lease = (await buffer.append(appended.lease, (), consumed=[unread.input_id])).lease
        assert not lease.inputs
        proxy.swallow = 1
        await buffer.append(lease, ending(), then="over")
        page = await buffer.read(run.run_id)
        assert [event.type for event in page.events] == [
            "run_started",
            "text_delta",
            "message_completed",
            "finalized",
        ]
        assert len(await buffer.messages(run.conversation_id)) == 2
        assert proxy.swallow == 0


async def test_a_batch_whose_fate_is_unknown_is_sent_again_by_its_holder(own: RedisServer) -> None:
    async with lossy(own) as (bench, proxy):
        lease = await bench.held()
        proxy.swallow = 2
        with pytest.raises(BufferUnavailable):
            await bench.buffer.append(lease, deltas("a", "b"))
        appended = await bench.buffer.append(lease, deltas("a", "b"))
        assert appended.recovered
        assert await bench.texts(lease.run_id) == ["a", "b"]


async def test_a_batch_that_a_failover_lost_is_not_settled_by_a_refusal(
    own: RedisServer, tmp_path: Path
) -> None:
    async with lossy(own) as (bench, proxy):
        store = Redis(tmp_path, own.url)
        store.prefix = f"lossy{proxy.port}"
        lease = await bench.held()
        saved = store.save(bench.buffer)

        async def failover() -> None:
            proxy.meanwhile = None
            store.restore(bench.buffer, saved)
            async with opened(own.url, prefix=store.prefix) as theirs:
                await theirs.buffer.post(lease.run_id, Input("cancel"))

        proxy.swallow, proxy.meanwhile = 1, failover
        # The first try was written and may have been read; the second meets what the failover left.
        with pytest.raises(BufferUnavailable, match="unchanged"):
            await bench.buffer.append(lease, suspended(), then="suspend")
        with pytest.raises(InputsPending):
            await bench.buffer.append(lease, suspended(), then="suspend")


async def test_a_generation_that_a_failover_lost_is_not_given_again(own: RedisServer, tmp_path: Path) -> None:
    made = itertools.count(1)
    async with proxy_to(own.port) as proxy:
        url, prefix = _through(own, proxy), f"tokens{proxy.port}"
        store = Redis(tmp_path, own.url)
        store.prefix = prefix
        async with opened(url, prefix=prefix, token=lambda: f"{next(made):08x}") as bench:

            async def failover() -> None:
                proxy.meanwhile = None
                store.clear()
                async with opened(own.url, prefix=prefix) as theirs:
                    await theirs.created(conversation_id="c")

            proxy.swallow, proxy.meanwhile = 1, failover
            with pytest.raises(ConversationBusy):
                await bench.created(conversation_id="c")
            run = await bench.buffer.create(bench.new_run())
            assert run.run.generation == f"{3:08x}{4:08x}"
            with pytest.raises(ConversationBusy):
                await bench.created(conversation_id="c")
            run = await bench.buffer.create(bench.new_run())
            assert run.run.generation == f"{5:08x}{6:08x}"
        store.clear()


async def test_a_claim_whose_fate_is_unknown_is_given_back(own: RedisServer) -> None:
    async with lossy(own) as (bench, proxy):
        run = await bench.created()
        proxy.swallow = 2
        with pytest.raises(BufferUnavailable):
            await bench.buffer.claim("w-1", 1e6, run.run_id)
        while (claim := await bench.buffer.claim("w-2", 60.0, run.run_id)) is None:
            await asyncio.sleep(0.01)
        await bench.buffer.append(claim.lease, deltas("a"))


# ---------------------------------------------------------------------------------------------- a full server


async def test_a_full_server_refuses_whole_operations_and_lets_room_be_made(
    own: RedisServer, admin: redis.Redis
) -> None:
    async with opened(own.url, prefix="full") as bench:
        buffer: EventBuffer = bench.buffer
        notes: Any = buffer
        over, gone, waiting, held = [await bench.held() for _ in range(4)]
        over = (await buffer.append(over, deltas("a"))).lease
        await buffer.append(over, ending(), then="over")
        await buffer.append(waiting, (), then="suspend")
        home = (await buffer.get(gone.run_id)).conversation_id
        queued = await bench.created()
        new = bench.new_run(idempotency_key="k", digest="d")
        stays = (await buffer.get(held.run_id)).conversation_id
        row = message(bench.new_run(conversation_id=stays))
        await notes.write_notes([NewNote(held.run_id, "x", b"1")])
        (note,) = await notes.notes(held.run_id)
        refused: list[Callable[[], Awaitable[object]]] = [
            lambda: buffer.create(new, [message(new)], deltas("kept")),
            lambda: buffer.claim("w", 60.0),
            lambda: buffer.claim("w", 60.0, queued.run_id),
            lambda: buffer.renew(held, 60.0),
            lambda: buffer.append(held, deltas("a")),
            lambda: buffer.append(held, (), messages=[row]),
            lambda: buffer.append(held, deltas("a"), messages=[row], then="queue"),
            lambda: buffer.append(held, (), then="suspend", wake_at=1),
            lambda: buffer.append(held, ending(), then="over"),
            lambda: buffer.post(waiting.run_id, Input("approval", "c", {"approved": True})),
            lambda: notes.write_notes([NewNote(held.run_id, "x", b"2"), NewNote("other", "y", b"2")]),
        ]

        def stored() -> dict[bytes, bytes | None]:
            return {key: admin.dump(key) for key in admin.scan_iter(match="{full}:*", count=1000)}

        before = stored()
        admin.config_set("maxmemory", "1")
        try:
            for operation in refused:
                with pytest.raises(BufferUnavailable, match="memory is full"):
                    await operation()
                assert stored() == before
            assert await bench.texts(over.run_id) == ["a"]
            assert await buffer.trim(2**52) == 1
            assert (await buffer.read(over.run_id)).first_seq == 3
            assert await buffer.delete(conversation_id=home) == 1
            assert await buffer.delete(run_id=queued.run_id) == 1
            assert await notes.drop_notes([note]) == 1
        finally:
            admin.config_set("maxmemory", "0")
        with pytest.raises(LeaseLost):
            await buffer.append(gone, deltas("a"))
        await buffer.append(held, deltas("a"))
