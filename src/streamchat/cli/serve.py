"""``streamchat serve``: the endpoints of a StreamChat, or an ASGI application, on uvicorn."""

from __future__ import annotations

import argparse
import asyncio
import inspect
import socket
from collections.abc import Collection
from typing import Any

from streamchat import StreamChat
from streamchat.cli.demo.address import allowed_names, listen
from streamchat.cli.loading import load_name, made
from streamchat.errors import MissingDependency, StreamChatError

__all__ = ["add_to"]

_PREFIX = "/chat"


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "serve",
        help="serve the endpoints of a StreamChat",
        description="Serves the endpoints of a StreamChat over HTTP, in one process. At SIGTERM or Ctrl+C it "
        "takes no more runs, lets those at work finish, sends readers away to come back elsewhere, and ends; "
        "at a second one it hands over what is at work at once. An ASGI application can be named as well, "
        "and is served as it is.",
    )
    command.add_argument(
        "app",
        metavar="MODULE:NAME",
        help="a StreamChat, an ASGI application, or a function that makes one, as in myapp.chat:chat",
    )
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.add_argument(
        "--port", type=int, default=8000, help="port to listen on, 0 for any (default: %(default)s)"
    )
    command.add_argument(
        "--prefix", metavar="PATH", help=f"what a StreamChat's endpoints stand below (default: {_PREFIX})"
    )
    command.add_argument(
        "--principal",
        metavar="MODULE:NAME",
        help="a function that is given a request's ASGI scope and returns who asks, a Principal or None",
    )
    command.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a name in the Host header to answer to, * for all; for a StreamChat that needs no --principal "
        "and listens on loopback, which other sites' pages could otherwise ask by a name of their own",
    )
    command.add_argument(
        "--shutdown",
        metavar="SECONDS",
        type=float,
        help="how long runs may take to finish at the end (default: the StreamChat's drain_seconds; "
        "for an ASGI application, how long its responses may take: 10)",
    )
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if not 0 <= arguments.port <= 65535:
        raise StreamChatError(f"--port {arguments.port}: a port is a number from 0 to 65535")
    if arguments.shutdown is not None and not 0 <= arguments.shutdown < 1e6:
        raise StreamChatError(f"--shutdown {arguments.shutdown:g}: it must be 0 seconds or more")
    try:
        import uvicorn as _uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingDependency("streamchat serve", "serve", "uvicorn") from error
    asyncio.run(_serve(arguments))
    return 0


async def _serve(arguments: argparse.Namespace) -> None:
    from streamchat.adapters.asgi import ASGIApp
    from streamchat.cli.serve_uvicorn import serve_app, serve_endpoints

    prefix, seconds = _prefix(arguments.prefix), arguments.shutdown
    named = load_name(arguments.app)
    if not isinstance(named, StreamChat) and callable(named) and not _is_asgi(named):
        named = await made(named)
    app = _application(named, arguments)
    with listen(arguments.host, arguments.port) as listening:
        if isinstance(app, ASGIApp):
            names = _names(named, listening, arguments)
            await serve_endpoints(listening, app, prefix, seconds, names)
        else:
            await serve_app(listening, app, 10.0 if seconds is None else seconds)


def _application(named: Any, arguments: argparse.Namespace) -> Any:
    """The application to serve: the endpoints of a StreamChat, or what is one already."""
    from streamchat.adapters.asgi import ASGIApp, asgi_app

    name = arguments.app
    if isinstance(named, StreamChat):
        if arguments.principal is None and not named.allow_anonymous:
            raise StreamChatError(
                f"{name} lets nobody in without a name: give --principal MODULE:NAME, a function that is "
                "given a request's ASGI scope and returns who asks"
            )
        principal = None if arguments.principal is None else load_name(arguments.principal)
        if arguments.principal is not None and not callable(principal):
            raise StreamChatError(
                f"--principal {arguments.principal} is of type {type(principal).__name__}: it must be a "
                "function that is given a request's ASGI scope and returns a Principal, or None for nobody"
            )
        function: Any = principal
        return asgi_app(named, principal=function)
    if not _is_asgi(named):
        raise StreamChatError(
            f"{name} is of type {type(named).__name__}: it must be a StreamChat or an ASGI application, "
            "or make one"
        )
    if arguments.principal is not None:
        raise StreamChatError(f"--principal is for a StreamChat: {name} asks by itself who is there")
    if arguments.prefix is not None and not isinstance(named, ASGIApp):
        raise StreamChatError(f"--prefix is for a StreamChat: {name} is served at the paths that it has")
    return named


def _names(named: Any, listening: socket.socket, arguments: argparse.Namespace) -> Collection[str] | None:
    """The names in a Host header that are answered; None for all. Where who asks needs no name, on loopback,
    it is the user of this machine, and not whatever page is open in a browser."""
    if not isinstance(named, StreamChat) or arguments.principal is not None or "*" in arguments.allow_host:
        return None
    names = allowed_names(listening, arguments.host)
    return None if names is None else names | {name.lower() for name in arguments.allow_host}


def _prefix(given: str | None) -> str:
    prefix = (_PREFIX if given is None else given).rstrip("/")
    if prefix and not prefix.startswith("/"):
        raise StreamChatError(f"--prefix {given!r}: a path begins with a slash, as in {_PREFIX}")
    return prefix


def _is_asgi(found: Any) -> bool:
    """Whether it can be called with a scope, receive and send."""
    try:
        inspect.signature(found).bind({}, None, None)
    except (TypeError, ValueError):
        return False
    return not inspect.isclass(found)
