"""What Redis refuses, as the errors that callers see: what happened, and the remedy."""

from __future__ import annotations

from redis import exceptions as wrong

from streamchat.errors import BufferUnavailable, InvalidInput, StreamChatError

__all__ = ["BROKEN", "translate"]

BROKEN = (wrong.ConnectionError, wrong.TimeoutError, OSError, EOFError)
"""Errors after which a connection is of no use, and nobody knows what became of what was sent."""

_ACL = "its ACL does not let this user do that: grant ~{{{prefix}}}:* &{{{prefix}}}:* +@all -@dangerous +info"

# Scripts wrap the server's words in words of their own, so it is by these that an error is known.
_REMEDIES = (
    ("'maxmemory'", "its memory is full: give it more (maxmemory), or trim; nothing was written"),
    ("READONLY", "it is a replica, or has become one: the URL must lead to the primary"),
    ("read only replica", "it is a replica, or has become one: the URL must lead to the primary"),
    ("NOPERM", _ACL),
    ("can't run", _ACL),
    ("can't access", _ACL),
    ("MISCONF", "it cannot save to its disk and takes no writes until it can: see its log"),
    ("NOREPLICAS", "it has too few replicas (min-replicas-to-write) and takes no writes"),
    ("BUSY", "another script runs in it for too long: see SCRIPT KILL"),
    ("LOADING", "it is loading its data: wait"),
    ("loading the dataset", "it is loading its data: wait"),
    ("MOVED", "it is one node of a cluster: give a RedisCluster client, or the cluster's URL"),
    ("TRYAGAIN", "the prefix's slot is being moved to another node: wait"),
    ("CLUSTERDOWN", "the cluster is down"),
)

# Of these, redis-py takes the code away.
_CODES = (
    (wrong.AskError, "MOVED"),
    (wrong.TryAgainError, "TRYAGAIN"),
    (wrong.ClusterDownError, "CLUSTERDOWN"),
    (wrong.NoPermissionError, "NOPERM"),
    (wrong.ReadOnlyError, "READONLY"),
    (wrong.BusyLoadingError, "LOADING"),
)


def translate(error: BaseException, where: str, prefix: str) -> StreamChatError:
    """Return the error for callers; ``where`` names the server without its password."""
    if isinstance(error, StreamChatError):
        return type(error)(*error.args)
    text = str(error)
    if isinstance(error, wrong.AuthenticationError | wrong.AuthenticationWrongNumberOfArgsError):
        return BufferUnavailable(
            f"Redis at {where} refused the user name or password ({text or 'wrong'}): check both in the URL"
        )
    if "DB index" in text or "Invalid Database" in text:
        return InvalidInput(
            f"Redis at {where} has no such database ({text}): take another number", field="url"
        )
    for kind, code in _CODES:
        if isinstance(error, kind):
            text = f"{code} {text}"
            break
    for words, remedy in _REMEDIES:
        if words in text:
            return BufferUnavailable(f"Redis at {where}: {remedy.format(prefix=prefix)} ({text})")
    if isinstance(error, BROKEN):
        return BufferUnavailable(
            f"Redis at {where} cannot be reached, or went away ({text or type(error).__name__}): check that "
            f"the server runs, that host and port are right, and the way to it"
        )
    return BufferUnavailable(
        f"Redis at {where} refused ({text or type(error).__name__}): see the server's log"
    )
