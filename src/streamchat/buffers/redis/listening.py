"""Wake-ups: one subscribed connection per process for all runs that somebody here waits for.

A run has a channel of its own, so that a process hears of nothing else. A hint may be missed (a connection
that broke, a subscription that came too late), so whoever begins to wait is woken once when his subscription
stands, and while there is no connection, or no right to subscribe, the runs' heads are looked at instead.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from redis import exceptions as wrong
from redis.asyncio.connection import AbstractConnection

from streamchat.buffers.following import Followers, LocalFollower
from streamchat.buffers.redis.connecting import Server
from streamchat.buffers.redis.lanes import Call, Lane
from streamchat.buffers.redis.records import raw, text
from streamchat.buffers.redis.scripts import HEADS
from streamchat.concurrency import Deadline, OwnedTask, Wakeup, spawn
from streamchat.errors import StreamChatError

__all__ = ["Listener", "RedisFollower"]

_LOOK = 0.2
"""Seconds between two looks at the heads while nothing is subscribed."""

_SOONEST, _LATEST, _DENIED = 0.05, 2.0, 30.0
"""Seconds until the next attempt to subscribe; the last where the server refuses it."""

_PING = 15.0
"""Seconds of silence after which the connection is asked whether it is there; as many again, and it is
not."""

_TOGETHER = 500

_log = logging.getLogger("streamchat.buffers")


class RedisFollower:
    """The `Follower` of one waiter; it subscribes when it first waits, so a run that is only written here
    costs nothing."""

    def __init__(self, listener: Listener, local: LocalFollower) -> None:
        self._listener = listener
        self._local = local
        self._wants = False
        self._closed = False

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for a hint, at most ``seconds``; see `Follower.wait`."""
        if not self._wants and not self._closed:
            self._wants = True
            self._listener.want(self._local.run_id)
        return await self._local.wait(seconds)

    async def close(self) -> None:
        """Stop following."""
        self._closed = True
        if self._wants:
            self._wants = False
            self._listener.leave(self._local.run_id)
        await self._local.close()


class Listener:
    """Knows who waits for which run, and hints at what other processes wrote."""

    def __init__(self, server: Server, lane: Lane, followers: Followers, prefix: str, timeout: float) -> None:
        self._server = server
        self._lane = lane
        self._followers = followers
        self._channels = f"{{{prefix}}}:news:".encode()
        self._timeout = timeout
        self._wanted: dict[str, int] = {}
        self._changed = Wakeup()
        self._task: OwnedTask | None = None
        self._heard = 0.0

    def want(self, run_id: str) -> None:
        """Somebody waits for this run."""
        self._wanted[run_id] = self._wanted.get(run_id, 0) + 1
        if self._task is None:
            self._task = spawn(self._live, "streamchat-redis-listener")
        self._changed.set()

    def leave(self, run_id: str) -> None:
        """Somebody does not wait for it any more."""
        left = self._wanted.get(run_id, 0) - 1
        if left > 0:
            self._wanted[run_id] = left
        elif self._wanted.pop(run_id, None) is not None:
            self._changed.set()

    async def stop(self) -> None:
        """End the task and its connection; a cancellation waits for that."""
        task, self._task = self._task, None
        cancelled: asyncio.CancelledError | None = None
        while task is not None and not task.done:
            task.cancel()
            try:
                await task.wait()
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    # -------------------------------------------------------------------------------------------- in the task

    async def _live(self) -> None:
        pause = _SOONEST
        while True:
            begun = time.monotonic()
            try:
                await self._listen()
            except (StreamChatError, wrong.RedisError, OSError) as error:
                denied = isinstance(error, wrong.ResponseError)
                if time.monotonic() - begun > _PING:
                    pause = _SOONEST
                level = logging.WARNING if pause == _SOONEST else logging.DEBUG
                _log.log(level, "not subscribed to news, looking for them instead: %s", error)
                await self._look(_DENIED if denied else pause)
                pause = min(pause * 2, _LATEST)

    async def _listen(self) -> None:
        """Subscribe to what is wanted, and pass on what is heard; ends by raising what broke the
        connection."""
        connection = await self._server.connection()
        try:
            async with Deadline(self._timeout) as deadline:
                await connection.connect()  # type: ignore[no-untyped-call]
            if deadline.expired:
                raise wrong.TimeoutError(f"no connection in {self._timeout:g} s")
            self._heard = time.monotonic()
            # Whichever of the two ends first, ends by an error; the other is of no use without it.
            tasks = {
                asyncio.ensure_future(self._hear(connection)),
                asyncio.ensure_future(self._subscribe(connection)),
            }
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()
        finally:
            await connection.disconnect(nowait=True)

    async def _hear(self, connection: AbstractConnection) -> None:
        while True:
            message: Any = await connection.read_response()
            self._heard = time.monotonic()
            if message[0] in (b"message", b"subscribe"):
                run_id = text(message[1][len(self._channels) :])
                self._followers.notify((run_id,))

    async def _subscribe(self, connection: AbstractConnection) -> None:
        asked: set[str] = set()
        while True:
            for word, runs in (
                ("SUBSCRIBE", [run_id for run_id in self._wanted if run_id not in asked]),
                ("UNSUBSCRIBE", [run_id for run_id in asked if run_id not in self._wanted]),
            ):
                for start in range(0, len(runs), _TOGETHER):
                    some = runs[start : start + _TOGETHER]
                    channels = [self._channels + raw(run_id) for run_id in some]
                    await connection.send_command(word, *channels, check_health=False)
                asked.symmetric_difference_update(runs)
            async with Deadline(_PING) as deadline:
                await self._changed.wait()
            silence = time.monotonic() - self._heard
            if silence > 2 * _PING:
                raise wrong.ConnectionError(f"nothing was heard for {silence:.0f} s")
            if deadline.expired or silence > _PING:
                await connection.send_command("PING", check_health=False)

    async def _look(self, seconds: float) -> None:
        """Look at the heads for some seconds, and hint at what has changed."""
        until = time.monotonic() + seconds
        known: dict[str, bytes] = {}
        while time.monotonic() < until:
            wanted = list(self._wanted)
            if wanted and self._followers.anybody_waits:
                try:
                    heads = await self._lane.do(Call(HEADS, [b"", *map(raw, wanted)]))
                except StreamChatError as error:
                    _log.debug("looking at the heads failed: %s", error)
                else:
                    now = dict(zip(wanted, heads, strict=True))
                    # What was not known counts as changed.
                    self._followers.notify([run_id for run_id in wanted if known.get(run_id) != now[run_id]])
                    known = now
            await asyncio.sleep(_LOOK)
