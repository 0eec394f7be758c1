"""``streamchat worker``: claims runs from the store and works on them, without HTTP."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from streamchat import StreamChatError
from streamchat.adapters.commands import work_until_told
from streamchat.cli.loading import load_chat

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "worker",
        help="work on runs that other processes start",
        description="Claims runs from the store of a StreamChat and works on them, without HTTP. The "
        "processes that serve may be made with StreamChat(work=False). SIGTERM lets runs finish for the "
        "limits' drain_seconds and hands over the rest; a second one hands over at once.",
    )
    command.add_argument(
        "chat",
        metavar="MODULE:NAME",
        help="a StreamChat, or a function that makes one, as in myapp.chat:chat",
    )
    command.add_argument(
        "--look-every",
        metavar="SECONDS",
        type=float,
        default=0.5,
        help="how often to look for runs that wait in the store (default: %(default)s)",
    )
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.look_every > 0:
        raise StreamChatError(f"--look-every {arguments.look_every:g}: it must be above 0 seconds")
    asyncio.run(_work(arguments.chat, arguments.look_every))
    return 0


async def _work(name: str, look_every: float) -> None:
    chat = await load_chat(name)
    await work_until_told(chat, look_every, lambda text: print(f"streamchat worker: {text}", flush=True))
