"""Clusters: all keys of a prefix are on one node, which is found through any other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot

from streamchat.buffers.redis import RedisEventBuffer
from streamchat.errors import BufferUnavailable
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending, message
from tests.services.fixtures import require
from tests.services.process import Unavailable
from tests.services.redis import RedisServer, start_redis

pytestmark = pytest.mark.anyio

SETTINGS = {"cluster-enabled": "yes", "cluster-node-timeout": "15000"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    """Two nodes: the first holds the lower half of the slots, the second the upper."""
    with contextlib.ExitStack() as stack:
        try:
            servers = [stack.enter_context(start_redis(flavour="valkey", settings=SETTINGS)) for _ in "ab"]
        except Unavailable as unavailable:
            require(unavailable)
            raise
        with redis.Redis.from_url(servers[1].url) as client:
            client.config_set("requirepass", servers[0].password)
        servers[1].password = servers[0].password
        clients = [stack.enter_context(redis.Redis.from_url(server.url)) for server in servers]
        for client, (first, last) in zip(clients, [(0, 8191), (8192, 16383)], strict=True):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", str(servers[1].port))
        while any(client.cluster("INFO")["cluster_state"] != "ok" for client in clients):
            pass
        while any(len(client.cluster("SLOTS")) < 2 for client in clients):
            pass
        yield servers


async def works(buffer: RedisEventBuffer) -> None:
    """Go once through a run's life."""
    bench = Bench(buffer, None, None, 60.0)
    run = bench.new_run()
    await buffer.create(run, [message(run)])
    lease = await bench.claimed(run.run_id)
    follower = await buffer.follow(run.run_id)
    assert await follower.wait(10)
    lease = (await buffer.append(lease, deltas("a"), messages=[message(run)])).lease
    await buffer.append(lease, ending(), then="over")
    assert await bench.texts(run.run_id) == ["a"]
    assert len(await buffer.messages(run.conversation_id)) == 2
    assert await buffer.trim(2**52) == 1
    await follower.close()
    assert await buffer.delete(conversation_id=run.conversation_id) == 1


@pytest.mark.parametrize("prefix", ["chat", "demo"])  # of these, each node holds one
async def test_a_url_of_any_node_leads_to_the_one_that_holds_the_prefix(
    nodes: list[RedisServer], prefix: str
) -> None:
    buffer = await RedisEventBuffer(nodes[0].url, prefix=prefix).open()
    await works(buffer)
    await buffer.close()


async def test_a_cluster_client_stays_the_callers(nodes: list[RedisServer]) -> None:
    async with redis.asyncio.RedisCluster.from_url(nodes[0].url) as client:
        buffer = await RedisEventBuffer(client, prefix="chat").open()
        await works(buffer)
        await buffer.close()
        assert await client.set("a", "1")


async def test_a_client_of_one_node_is_told_that_it_is_one(nodes: list[RedisServer]) -> None:
    # "chat" is in the upper half.
    async with redis.asyncio.Redis.from_url(nodes[0].url) as client:
        with pytest.raises(BufferUnavailable, match="RedisCluster"):
            await RedisEventBuffer(client, prefix="chat").open()


async def test_a_prefix_whose_slot_moved_is_found_again(nodes: list[RedisServer]) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(redis.Redis.from_url(node.url)) for node in nodes]
        slot = key_slot(b"{moves}:")
        ids = [client.execute_command("CLUSTER", "MYID") for client in clients]
        buffer = await RedisEventBuffer(nodes[0].url, prefix="moves").open()
        await works(buffer)
        holder = 0 if slot < 8192 else 1
        for target in (1 - holder, holder):
            # Empty slots move at once; those with keys are the operator's to move, with the workers stopped.
            for client in clients:
                keys: Any = client.execute_command("CLUSTER", "GETKEYSINSLOT", str(slot), "1000")
                for key in keys:
                    client.delete(key)
            for client in clients:
                client.execute_command("CLUSTER", "SETSLOT", str(slot), "NODE", ids[target])
            await works(buffer)
        await buffer.close()
