"""What commands share, whoever starts them (``streamchat``, ``manage.py``): working until told to stop,
trimming, and an age in words."""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
from collections.abc import Callable

from streamchat.buffers.base import EventBuffer
from streamchat.service.chat import StreamChat

__all__ = ["age", "positive_number", "trim_all", "work_until_told"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def age(text: str) -> int:
    """Return the seconds of ``30d`` and the like; raises ``ArgumentTypeError``."""
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: a number and s, m, h, d or w, as in 30d")
    return int(found[1]) * _SECONDS[found[2]]


def positive_number(text: str) -> int:
    """Return a number from 1 to 10000; raises ``ArgumentTypeError``."""
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 10000")
    return int(text)


async def trim_all(buffer: EventBuffer, before: int, batch: int) -> int:
    """Open a buffer, trim all runs that ended ``before`` (ms), ``batch`` of them in a transaction, and close
    it; return how many."""
    await buffer.open()
    try:
        trimmed = 0
        # Each call is a transaction of its own; between them, others get their turn.
        while count := await buffer.trim(before, batch):
            trimmed += count
        return trimmed
    finally:
        await buffer.close()


async def work_until_told(chat: StreamChat, look_every: float, say: Callable[[str], None]) -> None:
    """Work on runs that wait in the store until SIGTERM or SIGINT, which lets them finish for the limits'
    ``drain_seconds``; a second one hands over at once. ``say`` is given what people may want to know."""
    asked = asyncio.Semaphore(0)
    restore = _on_signals(asked.release)
    try:
        await chat.open(work=True, look_every=look_every)
        try:
            say(f"{chat.worker} is at work (SIGTERM ends it)")
            await asked.acquire()
            await _drain(chat, asked, say)
        finally:
            await chat.close()
    finally:
        restore()
    say("ended")


async def _drain(chat: StreamChat, asked: asyncio.Semaphore, say: Callable[[str], None]) -> None:
    """Let runs finish, until the time is over or somebody asks again."""
    say(f"finishing what runs ({chat.limits.drain_seconds:g} s at most)…")
    draining = asyncio.ensure_future(chat.drain())
    again = asyncio.ensure_future(asked.acquire())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not draining.done():
        await chat.drain(0)
    await draining


def _on_signals(tell: Callable[[], None]) -> Callable[[], None]:
    """Call ``tell`` in the loop at SIGTERM and SIGINT; returns what undoes it."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: loop.call_soon_threadsafe(tell)) for number in numbers]

    def restore() -> None:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

    return restore
