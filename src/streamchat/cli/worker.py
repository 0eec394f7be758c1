"""``streamchat worker``: claims runs from the store and works on them, without HTTP."""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import Any

from streamchat import StreamChat, StreamChatError
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
    asked = asyncio.Semaphore(0)
    restore = _on_signals(asked.release)
    try:
        await chat.open(work=True, look_every=look_every)
        try:
            print(f"streamchat worker: {chat.worker} is at work (SIGTERM ends it)", flush=True)
            await asked.acquire()
            await _drain(chat, asked)
        finally:
            await chat.close()
    finally:
        restore()
    print("streamchat worker: ended", flush=True)


async def _drain(chat: StreamChat, asked: asyncio.Semaphore) -> None:
    """Let runs finish, until the time is over or somebody asks again."""
    seconds = chat.limits.drain_seconds
    print(f"streamchat worker: finishing what runs ({seconds:g} s at most)…", flush=True)
    draining = asyncio.ensure_future(chat.drain())
    again = asyncio.ensure_future(asked.acquire())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not draining.done():
        await chat.drain(0)
    await draining


def _on_signals(tell: Any) -> Any:
    """Call ``tell`` in the loop at SIGTERM and SIGINT; returns what undoes it."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: loop.call_soon_threadsafe(tell)) for number in numbers]

    def restore() -> None:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

    return restore
