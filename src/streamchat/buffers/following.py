"""Wakes the readers of a run within one process, from whatever thread the news comes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable

import anyio

from streamchat.concurrency import Deadline

__all__ = ["Followers", "LocalFollower"]


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class LocalFollower:
    """The `Follower` of buffers that learn of news in their own process; for one waiter."""

    __slots__ = ("_closed", "_event", "_followers", "_hinted", "_loop", "run_id")

    def __init__(self, followers: Followers, run_id: str) -> None:
        self.run_id = run_id
        self._followers = followers
        self._loop = _running_loop()  # None on trio, where all happens in one thread
        self._event = anyio.Event()
        self._hinted = False  # the event is set, or about to be
        self._closed = False

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for a hint, at most ``seconds``; see `Follower.wait`."""
        event = self._event
        if event.is_set() or self._closed:
            await anyio.lowlevel.checkpoint()
        else:
            self._followers.waiting(+1)
            try:
                async with Deadline(seconds):
                    await event.wait()
            finally:
                self._followers.waiting(-1)
        if self._closed or not event.is_set():
            return False
        self._event = anyio.Event()
        self._hinted = False
        return True

    async def close(self) -> None:
        """Stop following."""
        self._followers.remove(self)
        self.end()

    def hint(self) -> None:
        """Wake the waiter, or the next one. May be called from any thread."""
        if self._hinted:
            return  # its owner has yet to look, and will see this news as well
        self._hinted = True
        if self._loop is None or self._loop is _running_loop():
            self._event.set()
            return
        with contextlib.suppress(RuntimeError):  # its loop is closed, so nobody waits any more
            self._loop.call_soon_threadsafe(self._set)

    def end(self) -> None:
        """Make the waiter return False, now and always."""
        self._closed = True
        self.hint()

    def _set(self) -> None:
        self._event.set()


class Followers:
    """Who follows which run in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_run: dict[str, set[LocalFollower]] = {}
        self._waiting = 0

    def follow(self, run_id: str) -> LocalFollower:
        """Return a new follower of the run; call it on the loop that will wait."""
        follower = LocalFollower(self, run_id)
        with self._lock:
            self._by_run.setdefault(run_id, set()).add(follower)
        return follower

    def notify(self, run_ids: Iterable[str]) -> None:
        """Hint that there is news of these runs."""
        for run_id in run_ids:
            if run_id in self._by_run:
                with self._lock:
                    followers = tuple(self._by_run.get(run_id, ()))
                for follower in followers:
                    follower.hint()

    def followed(self) -> list[str]:
        """Return the runs that somebody follows."""
        with self._lock:
            return list(self._by_run)

    def waiting(self, change: int) -> None:
        """Count who waits at this moment; see `anybody_waits`."""
        with self._lock:
            self._waiting += change

    @property
    def anybody_waits(self) -> bool:
        """Whether news would wake somebody."""
        return self._waiting > 0

    def remove(self, follower: LocalFollower) -> None:
        """Forget a follower; idempotent."""
        with self._lock:
            followers = self._by_run.get(follower.run_id)
            if followers is not None:
                followers.discard(follower)
                if not followers:
                    del self._by_run[follower.run_id]

    def close(self) -> None:
        """Make everybody's `wait` return False."""
        with self._lock:
            everybody = [follower for followers in self._by_run.values() for follower in followers]
            self._by_run.clear()
        for follower in everybody:
            follower.end()
