"""A primary that dies, and a replica that Sentinel puts in its place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import pytest
import redis
from redis.asyncio.sentinel import Sentinel

from streamchat.buffers.redis import RedisEventBuffer
from streamchat.errors import BufferUnavailable
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas
from tests.services.fixtures import require
from tests.services.process import Unavailable
from tests.services.redis import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class SentinelServer(RedisServer):
    """Watches over one primary, called ``chat``, and is enough to decide that it is dead."""

    def __init__(self, primary: RedisServer) -> None:
        self.primary = primary
        super().__init__(flavour="valkey")

    def initialise(self) -> None:
        (self.data / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.data}\nrequirepass {self.password}\n"
            f"sentinel monitor chat 127.0.0.1 {self.primary.port} 1\n"
            f"sentinel auth-pass chat {self.primary.password}\n"
            f"sentinel down-after-milliseconds chat 300\nsentinel failover-timeout chat 3000\n"
        )

    def command(self) -> Sequence[str]:
        return [str(self.binary), str(self.data / "sentinel.conf"), "--sentinel"]


@pytest.fixture
def watched() -> Iterator[tuple[RedisServer, SentinelServer]]:
    """A primary with a replica that has all, and who watches over them."""
    with contextlib.ExitStack() as stack:
        try:
            primary = RedisServer(flavour="valkey", settings={"repl-diskless-sync-delay": "0"})
        except Unavailable as unavailable:
            require(unavailable)
            raise
        stack.enter_context(primary.start())
        copies = {"replicaof": f"127.0.0.1 {primary.port}", "masterauth": primary.password}
        replica = stack.enter_context(RedisServer(flavour="valkey", settings=copies).start())
        for server in (primary, replica):
            # Either may be the other's primary one day.
            with redis.Redis.from_url(server.url) as admin:
                admin.config_set("requirepass", primary.password)
                admin.config_set("masterauth", primary.password)
        replica.password = primary.password
        sentinel = stack.enter_context(SentinelServer(primary).start())
        with redis.Redis(port=sentinel.port, password=sentinel.password) as watcher:
            while not watcher.sentinel_slaves("chat"):
                pass
        yield primary, sentinel


def copied(primary: RedisServer) -> bool:
    """Say whether the replica has all that the primary has."""
    with redis.Redis.from_url(primary.url) as admin:
        said = admin.info("replication")
        replica = said.get("slave0", {})
        return replica.get("state") == "online" and replica["offset"] == said["master_repl_offset"]


async def test_a_holder_goes_on_at_the_replica_that_took_over(
    watched: tuple[RedisServer, SentinelServer],
) -> None:
    primary, watcher = watched
    sentinel = Sentinel([("127.0.0.1", watcher.port)], sentinel_kwargs={"password": watcher.password})
    client = sentinel.master_for("chat", password=primary.password)
    buffer = await RedisEventBuffer(client, prefix="chat").open()
    try:
        bench = Bench(buffer, None, None, 60.0)
        lease = await bench.held()
        lease = (await buffer.append(lease, deltas("a"))).lease
        while not copied(primary):
            await asyncio.sleep(0.01)
        primary.kill()
        with pytest.raises(BufferUnavailable, match="the primary of 'chat'"):
            await buffer.append(lease, deltas("b"))
        while True:
            with contextlib.suppress(BufferUnavailable):
                lease = (await buffer.append(lease, deltas("b"))).lease
                break
            await asyncio.sleep(0.05)
        assert await bench.texts(lease.run_id) == ["a", "b"]
    finally:
        await buffer.close()
        await client.aclose()
        for one in sentinel.sentinels:
            await one.aclose()
