"""Notices what other processes wrote to a server database, while somebody here waits for it.

Where the server announces news (`ServerDialect.listen`), one connection hears it. That connection is pinged:
a pooler between here and there may have swallowed the order to listen, or the way may be dead without anyone
having said so. While nothing is known to be heard, and everywhere else, one query every 50 to 200 ms looks at
all followed runs; while it is, one every 5 seconds, for what may have been missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from streamchat.buffers.following import Followers
from streamchat.buffers.sql.dialect import ServerDialect

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Watcher"]

_SOONEST, _LATEST, _RARELY = 0.05, 0.2, 5.0
_PING_EVERY, _PING_TAKES = 10.0, 2.0
_LONGEST_BACKOFF = 60.0
_log = logging.getLogger("streamchat.buffers")


class Watcher:
    """Two tasks, from the first follower on: one looks, one listens where that is possible."""

    def __init__(
        self,
        dialect: ServerDialect,
        engine: AsyncEngine,
        followers: Followers,
        look: Callable[[Sequence[str]], Awaitable[dict[str, tuple[int, int]]]],
        where: str,
    ) -> None:
        self._dialect = dialect
        self._engine = engine
        self._followers = followers
        self._look_at = look
        self._where = where
        self._known: dict[str, tuple[int, int]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._hears = False
        self._turned = asyncio.Event()
        """Set when hearing began or ended."""
        self._complained = False

    @property
    def hears(self) -> bool:
        """Whether announcements are known to arrive."""
        return self._hears

    def ensure(self) -> None:
        """Start, if that is not so yet."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._keep_looking(), name="streamchat-sql-poller"),
                asyncio.create_task(self._keep_listening(), name="streamchat-sql-listener"),
            ]

    async def stop(self) -> None:
        """End the tasks and the connection."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # ----------------------------------------------------------------------------------------------- looking

    async def _keep_looking(self) -> None:
        pause = _SOONEST
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RARELY if self._hears else pause):
                    await self._turned.wait()
            self._turned.clear()
            if not self._followers.anybody_waits:
                pause = _LATEST
                continue
            try:
                changed = await self._look()
            except Exception as error:
                _log.warning("%s: looking for news failed, trying on: %s", self._where, error)
                changed = False
            pause = _SOONEST if changed else min(pause * 1.5, _LATEST)

    async def _look(self) -> bool:
        """Hint at the followed runs that have changed since the last look; say whether there were any."""
        followed = self._followers.followed()
        heads = await self._look_at(followed)
        # A run that is gone, or that was not followed at the last look, counts as changed.
        changed = [run_id for run_id in followed if self._known.get(run_id) != heads.get(run_id, (-1, 0))]
        self._known = {run_id: heads.get(run_id, (-1, 0)) for run_id in followed}
        self._followers.notify(changed)
        return bool(changed)

    # --------------------------------------------------------------------------------------------- listening

    async def _keep_listening(self) -> None:
        backoff = 0.1
        while True:
            try:
                if not await self._listen():
                    return
            except Exception as error:
                if self._hears:
                    backoff = 0.1
                self._complain(str(error) or type(error).__name__)
            self._turn(False)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF)

    async def _listen(self) -> bool:
        """Hear until the connection is lost, which raises; return False where nothing is ever announced."""
        answers: asyncio.Queue[str] = asyncio.Queue()
        listening = self._dialect.listen(self._engine, self._followers.notify, answers.put_nowait)
        if listening is None:
            return False
        async with listening as ear:
            while True:
                word = secrets.token_hex(4)
                try:
                    async with asyncio.timeout(_PING_TAKES):
                        await ear.ping(word)
                        while await answers.get() != word:
                            pass
                except TimeoutError:
                    raise ConnectionError(
                        "a notification to itself did not arrive: is there a connection pooler in between "
                        "that pools by transaction?"
                    ) from None
                self._turn(True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PING_EVERY):
                        await ear.lost()
                        raise ConnectionError("the connection that listens was lost")

    def _turn(self, hears: bool) -> None:
        if hears and self._complained:
            _log.info("%s: news of other processes is heard again", self._where)
            self._complained = False
        if hears is not self._hears:
            self._hears = hears
            self._turned.set()

    def _complain(self, why: str) -> None:
        """Say once that news is looked for, not heard."""
        if not self._complained:
            self._complained = True
            _log.warning(
                "%s: news of other processes is not heard, looking for it instead: %s", self._where, why
            )
