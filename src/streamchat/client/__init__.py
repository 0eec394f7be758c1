"""The Python client: asks a streamchat server, and comes back by itself when a connection drops."""

from __future__ import annotations

from streamchat.errors import MissingDependency

try:
    import httpx2 as _httpx2  # noqa: F401
except ImportError as error:
    raise MissingDependency("streamchat.client", "client", "httpx2") from error

from streamchat.client.blocking import BlockingStreamChatClient
from streamchat.client.client import Approve, ClientTool, StreamChatClient
from streamchat.client.errors import ClientError, ServerUnreachable
from streamchat.client.following import Reset

__all__ = [
    "Approve",
    "BlockingStreamChatClient",
    "ClientError",
    "ClientTool",
    "Reset",
    "ServerUnreachable",
    "StreamChatClient",
]
