"""Where the service lives when there is no loop for it: under WSGI, on a thread of its own.

A WSGI server calls from many threads, each request in none or in a loop of its own that ends with it; the
service's tasks need one that stays.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from streamchat.service.chat import StreamChat

__all__ = ["Host"]

R = TypeVar("R")


class Host:
    """A loop on a daemon thread, begun at the first call; the service is closed when the process ends."""

    def __init__(self, chat: StreamChat) -> None:
        self._chat = chat
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Do ``work`` on the loop, for a caller in another one.

        The caller's loop goes on meanwhile: what ``work`` asks of the project's synchronous code (a user's
        session) is done in the thread of the request, which is where its database connection is.
        """
        return await asyncio.wrap_future(self._begin(work))

    def _begin(self, work: Coroutine[Any, Any, R]) -> Future[R]:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="streamchat", daemon=True).start()
                atexit.register(self._close)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _close(self) -> None:
        assert self._loop is not None
        try:
            self._begin(self._chat.close()).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
