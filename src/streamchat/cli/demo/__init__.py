"""``streamchat demo``: a chat page on loopback, with tools, over a real provider or a scripted one."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from streamchat.cli.demo.address import listen
from streamchat.cli.demo.provider import DEFAULT_MODEL, chosen_provider
from streamchat.errors import MissingDependency, StreamChatError

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    demo = commands.add_parser(
        "demo",
        help="a chat page on loopback; needs no key",
        description="Serves a chat page. With OPENAI_API_KEY or --base-url it talks to that server; without, "
        "to a scripted provider of its own, over real HTTP.",
    )
    demo.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    demo.add_argument(
        "--port", type=int, default=8000, help="port to listen on, 0 for any (default: %(default)s)"
    )
    demo.add_argument(
        "--db",
        metavar="URL",
        default="sqlite:///streamchat-demo.db",
        help="where runs are kept: sqlite:///FILE, memory:, or a server's URL (default: %(default)s)",
    )
    demo.add_argument(
        "--base-url", metavar="URL", help="an OpenAI-compatible server to talk to; it may do without a key"
    )
    demo.add_argument(
        "--model", metavar="NAME", help=f"the model to ask a real server for (default: {DEFAULT_MODEL})"
    )
    demo.add_argument("--api", choices=("chat", "responses"), default="chat", help="default: %(default)s")
    demo.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if not 0 <= arguments.port <= 65535:
        raise StreamChatError(f"--port {arguments.port}: a port is a number from 0 to 65535")
    try:
        from streamchat.cli.demo.serve import serve
    except ModuleNotFoundError as error:
        if error.name != "uvicorn":
            raise
        raise MissingDependency("streamchat demo", "demo", "uvicorn") from None
    provider = chosen_provider(arguments.base_url, arguments.model)
    with listen(arguments.host, arguments.port) as listening:
        asyncio.run(serve(listening, provider, api=arguments.api, db=arguments.db, host=arguments.host))
    return 0
