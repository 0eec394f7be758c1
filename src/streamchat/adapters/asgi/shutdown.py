"""Drains the service when the process is told to stop, before the server begins to wait for its open streams.

Servers wait for open responses and only then run the lifespan's shutdown, so a service that drains there is
asked too late. The handler that the server installed is called in any case, so the server stops as it always
does. Workers that are told otherwise than by a signal (hypercorn's, which are processes of their own) are not
reached: call `StreamChat.drain` by other means there.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from streamchat.service.chat import StreamChat

__all__ = ["drain_on_sigterm", "draining_on_sigterm"]

log = logging.getLogger("streamchat.http")


def drain_on_sigterm(chat: StreamChat) -> Callable[[], None]:
    """Drain ``chat`` at SIGTERM, and at SIGINT; returns what undoes it. Does nothing outside the main
    thread."""
    if threading.current_thread() is not threading.main_thread():
        log.warning("SIGTERM cannot be watched outside the main thread: streams may hold up the shutdown")
        return lambda: None
    loop = asyncio.get_running_loop()
    drains: set[asyncio.Task[None]] = set()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def drain() -> None:
        if not drains:
            drains.add(loop.create_task(chat.drain(), name="streamchat drain"))

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(drain)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)

    for number in before:
        signal.signal(number, handle)
    return restore


@contextmanager
def draining_on_sigterm(chat: StreamChat) -> Iterator[None]:
    """Drain ``chat`` at SIGTERM and SIGINT, for use in a lifespan of the application's own, inside of ``async
    with chat``.

    Without it some servers wait for open streams for ever. The server's own handlers are called as well. Does
    nothing outside the main thread.
    """
    restore = drain_on_sigterm(chat)
    try:
        yield
    finally:
        restore()
