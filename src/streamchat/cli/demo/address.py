"""Where a command listens, and by which names the demo may be asked for there."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Collection, MutableMapping
from typing import Any

from streamchat.errors import StreamChatError

__all__ = ["allowed_names", "asks_for", "listen", "name_of", "url_of"]

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST_HEADER = re.compile(r"(\[[0-9a-f:.%]+\]|[^:\[\]]+)(?::[0-9]*)?")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises `StreamChatError`, which names the option to change."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise StreamChatError(f"--host {host!r} is no address of this machine: {reason}") from error
    try:
        # Listening, not only bound: two processes may bind one address, and only one of them listen there.
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StreamChatError(
                f"--port {port} is in use on {host}: name another one, or --port 0 for any that is free"
            ) from error
        option = f"--port {port}" if error.errno == errno.EACCES else f"--host {host}"
        raise StreamChatError(
            f"{option}: this process cannot listen there: {os.strerror(error.errno or 0)}"
        ) from error


def url_of(listening: socket.socket) -> str:
    """The URL of the page, without a slash at its end."""
    host, port = listening.getsockname()[:2]
    return f"http://{_bracketed(host)}:{port}"


def allowed_names(listening: socket.socket, host: str) -> frozenset[str] | None:
    """The names in a Host header that are answered; None for all.

    On loopback nobody but this machine is served, and a browser here must not be made to ask for others: a
    site's name that was made to point to loopback (DNS rebinding) would read what is said.
    """
    if not ipaddress.ip_address(listening.getsockname()[0]).is_loopback:
        return None
    return (_LOOPBACK_NAMES | {_bracketed(host.lower())}) - {""}


def asks_for(scope: MutableMapping[str, Any], names: Collection[str]) -> bool:
    """Whether all Host headers of a request name one of ``names``."""
    # (a browser always sends the header; HTTP/1.0 may go without)
    return all(name_of(value.decode("latin-1")) in names for key, value in scope["headers"] if key == b"host")


def name_of(host_header: str) -> str:
    """The name in a Host header, without the port, in lower case; empty for what is none."""
    found = _HOST_HEADER.fullmatch(host_header.strip().lower())
    return found[1] if found else ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
