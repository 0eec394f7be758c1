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

from streamchat.buffers.following import Followers
from streamchat.buffers.sql.dialect import ServerDialect
from streamchat.buffers.sql.sessions import Sessions
from streamchat.buffers.transactional.looking import Looker

__all__ = ["Watcher"]

_SOONEST = 0.05
_PING_EVERY, _PING_TAKES = 10.0, 2.0
_LONGEST_BACKOFF = 60.0
_log = logging.getLogger("streamchat.buffers")


class Watcher:
    """Two tasks, from the first follower on: one looks, one listens where that is possible."""

    def __init__(self, sessions: Sessions, dialect: ServerDialect, followers: Followers, where: str) -> None:
        self._sessions = sessions
        self._dialect = dialect
        self._followers = followers
        self._where = where
        self._looker = Looker(sessions.heads, followers, where, "streamchat-sql-poller")
        self._listening: asyncio.Task[None] | None = None
        self._hears = False
        self._stopping = False
        self._stir = asyncio.Event()
        """Set when the connection that listens is lost, and at the end."""
        self._complained = False

    @property
    def hears(self) -> bool:
        """Whether announcements are known to arrive."""
        return self._hears

    def ensure(self) -> None:
        """Start, if that is not so yet."""
        self._looker.ensure()
        if self._dialect.announces and self._listening is None and not self._stopping:
            self._listening = asyncio.create_task(self._keep_listening(), name="streamchat-sql-listener")

    async def stop(self) -> None:
        """End the tasks and their connection; takes as long as what they are at."""
        self._stopping = True
        self._stir.set()
        await self._looker.stop()
        if self._listening is not None:
            await asyncio.wait([self._listening])

    # --------------------------------------------------------------------------------------------- listening

    async def _keep_listening(self) -> None:
        backoff = _SOONEST
        while not self._stopping:
            try:
                await self._listen()
            except Exception as error:
                if self._hears:
                    backoff = _SOONEST
                self._complain(str(error) or type(error).__name__)
            self._turn(False)
            await _set_within(self._stir, backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF)

    async def _listen(self) -> None:
        """Hear until the end, or until the connection is lost, which raises."""
        answers: asyncio.Queue[str] = asyncio.Queue()
        async with self._sessions.own() as raw:
            self._stir.clear()
            async with asyncio.timeout(_PING_TAKES):
                await self._dialect.listen(raw, self._followers.notify, answers.put_nowait, self._stir.set)
            while not self._stopping:
                await self._hear_oneself(answers)
                self._turn(True)
                await _set_within(self._stir, _PING_EVERY)
                if self._dialect.closed(raw):
                    raise ConnectionError("the connection that listens was lost")

    async def _hear_oneself(self, answers: asyncio.Queue[str]) -> None:
        word = secrets.token_hex(4)
        try:
            async with asyncio.timeout(_PING_TAKES):
                await self._sessions.ping(word)
                while await answers.get() != word:
                    pass
        except TimeoutError:
            raise ConnectionError(
                "a notification to itself did not arrive: is there a connection pooler in between that pools "
                "by transaction?"
            ) from None

    def _turn(self, hears: bool) -> None:
        if hears and self._complained:
            _log.info("%s: news of other processes is heard again", self._where)
            self._complained = False
        if hears is not self._hears:
            self._hears = hears
            self._looker.heard(hears)

    def _complain(self, why: str) -> None:
        """Say once that news is looked for, not heard."""
        if not self._complained:
            self._complained = True
            _log.warning(
                "%s: news of other processes is not heard, looking for it instead: %s", self._where, why
            )


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
