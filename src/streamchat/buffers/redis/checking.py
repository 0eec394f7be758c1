"""What is looked at when a buffer is opened: whether this server is one that runs can be entrusted to."""

from __future__ import annotations

import logging
import re
import warnings

from streamchat.errors import BufferUnavailable

__all__ = ["OLDEST", "RedisEvictionWarning", "check_server"]

OLDEST = (6, 2)
"""The oldest version that has all commands (XTRIM MINID); Valkey says which Redis it is compatible with."""

_log = logging.getLogger("streamchat.buffers")


class RedisEvictionWarning(UserWarning):
    """The server may throw runs away when its memory is full (``maxmemory-policy allkeys-…``)."""


def check_server(info: str, where: str) -> None:
    """Judge a server by its ``INFO``; what is not in it (an ACL may hide it) is taken to be right.

    Raises `BufferUnavailable` for one that is too old or a replica; warns (`RedisEvictionWarning`) of one
    that evicts.
    """
    said: dict[str, str] = {}
    for line in info.splitlines():
        name, _, value = line.partition(":")
        said[name] = value
    version = tuple(int(number) for number in re.findall(r"\d+", said.get("redis_version", ""))[:2])
    if version and version < OLDEST:
        raise BufferUnavailable(
            f"Redis at {where} has version {said['redis_version']}: streamchat needs 6.2 or later, or Valkey"
        )
    if said.get("role") == "slave":
        raise BufferUnavailable(f"Redis at {where} is a replica: the URL must lead to the primary")
    policy = said.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        warnings.warn(
            f"Redis at {where} has maxmemory-policy {policy}, so it throws runs away when its memory "
            f"is full: set it to noeviction",
            RedisEvictionWarning,
            stacklevel=4,
        )
    if said.get("aof_enabled") == "0":
        _log.info(
            "Redis at %s has no append-only file: a restart loses what came after its last snapshot", where
        )
