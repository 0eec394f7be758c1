"""Where the connections come from: a URL, or a client of the application, single server or cluster.

The buffer's connections are its own, also where a client was given: none is ever shared with other tasks, so
that no cancellation can leave an answer behind for somebody else, and nothing but the buffer decides what is
sent twice.
"""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from streamchat.errors import InvalidInput

__all__ = ["ClusterServer", "Server", "SingleServer", "server_for"]

_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}


class Server(Protocol):
    """Whom to connect to."""

    @property
    def where(self) -> str:
        """The address, without user and password, for messages."""
        ...

    async def connection(self) -> AbstractConnection:
        """Return a new connection that is not connected yet."""
        ...

    async def moved(self) -> bool:
        """Look for who holds the keys, because this server does not; say whether there is a way to."""
        ...

    async def refresh(self) -> None:
        """Look again who holds the keys, because a server went away."""
        ...

    async def close(self) -> None:
        """Let go of what was made here."""
        ...


def _ours(kind: type[AbstractConnection], options: dict[str, Any]) -> AbstractConnection:
    kept = {key: value for key, value in options.items() if not key.startswith(("maint", "orig_", "oss_"))}
    # Time limits and second tries are `Link`'s; protocol 2 needs no handshake for what other clients may
    # want.
    kept |= {
        "decode_responses": False,
        "protocol": 2,
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "retry_on_timeout": False,
        "health_check_interval": 0,
    }
    kept["socket_connect_timeout"] = options.get("socket_connect_timeout") or 5
    return kind(**kept)


class SingleServer:
    """One server (or whom a Sentinel names), as a pool describes it; ``url`` is where a cluster may be looked
    for."""

    def __init__(self, pool: ConnectionPool, key: str, url: str | None = None) -> None:
        self._pool = pool
        self._key = key
        self._url = url
        self._cluster: ClusterServer | None = None
        options = pool.connection_kwargs
        address = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        if isinstance(pool, SentinelConnectionPool):
            address = f"the primary of {pool.service_name!r}"
        self._where = f"{address}/{options.get('db') or 0}"

    @property
    def where(self) -> str:
        """The address."""
        return self._where if self._cluster is None else self._cluster.where

    async def connection(self) -> AbstractConnection:
        """Return a new connection that is not connected yet."""
        if self._cluster is not None:
            return await self._cluster.connection()
        return _ours(self._pool.connection_class, self._pool.connection_kwargs)

    async def moved(self) -> bool:
        """Go to the cluster that the URL's server turned out to be a node of."""
        if self._cluster is None and self._url is not None:
            client = RedisCluster.from_url(self._url, protocol=2)
            self._cluster = ClusterServer(client, self._key, owned=True)
            return True
        return self._cluster is not None and await self._cluster.moved()

    async def refresh(self) -> None:
        """Look again, in a cluster; a single server is where it is."""
        if self._cluster is not None:
            await self._cluster.refresh()

    async def close(self) -> None:
        """Close what was opened to find a cluster."""
        if self._cluster is not None:
            await self._cluster.close()


class ClusterServer:
    """The node of a cluster that holds the keys of one prefix."""

    def __init__(self, client: RedisCluster, key: str, *, owned: bool) -> None:
        self._client = client
        self._key = key
        self._owned = owned
        self._where = "the cluster"

    @property
    def where(self) -> str:
        """The address of the node that holds the keys."""
        return self._where

    async def connection(self) -> AbstractConnection:
        """Return a new connection to the node that holds the keys now."""
        client = await self._client.initialize()
        node = client.get_node_from_key(self._key)
        assert node is not None
        self._where = f"{node.host}:{node.port}"
        return _ours(node.connection_class, node.connection_kwargs)

    async def moved(self) -> bool:
        """Ask the cluster again who holds which keys."""
        await self.refresh()
        return True

    async def refresh(self) -> None:
        """Ask the cluster again who holds which keys."""
        client = await self._client.initialize()
        await client.nodes_manager.initialize()

    async def close(self) -> None:
        """Close the client, if it was made here."""
        if self._owned:
            await self._client.aclose()


def server_for(given: object, key: str) -> Server:
    """Return the server that a URL or a client leads to; raises `InvalidInput` for anything else."""
    if isinstance(given, str):
        url = _normal(given)
        return SingleServer(_pool_for(url), key, None if url.startswith("unix") else url)
    if isinstance(given, Redis):
        return SingleServer(given.connection_pool, key)
    if isinstance(given, RedisCluster):
        return ClusterServer(given, key, owned=False)
    raise InvalidInput(
        f"RedisEventBuffer was given a {type(given).__module__}.{type(given).__name__}: it needs a URL, or a "
        f"client from redis.asyncio (Redis or RedisCluster)",
        field="url",
    )


def _normal(url: str) -> str:
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in _SCHEMES:
        shown = scheme if colon else "none"
        raise InvalidInput(
            f"the URL's scheme is {shown!r}: it must be redis://, rediss://, valkey://, valkeys:// or unix://",
            field="url",
        )
    return f"{_SCHEMES[scheme]}://{rest}"


def _pool_for(url: str) -> ConnectionPool:
    try:
        parsed = urlsplit(url)
        database = parsed.path.strip("/") if parsed.scheme != "unix" else ""
        if database and not (database.isascii() and database.isdigit()):
            # redis-py would quietly take database 0.
            raise InvalidInput(f"the URL's database is {database!r}: it must be a number", field="url")
        return ConnectionPool.from_url(url)
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"the URL is none that Redis has: {error}", field="url") from error
