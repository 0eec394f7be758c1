"""Group commit: calls that wait go to the server together, in one pipeline on a connection of the lane's own.

While one round trip is under way, the next one's calls gather; when nothing is under way a call goes at once.
Each call is a script, a transaction by itself, and is refused alone. A caller that is cancelled leaves its
call to the lane, which reads the answer: no connection is ever left in the middle of one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions as wrong
from redis.asyncio.connection import AbstractConnection

from streamchat.buffers.redis.connecting import Server
from streamchat.buffers.redis.failures import BROKEN, translate
from streamchat.buffers.redis.scripts import Script
from streamchat.concurrency import Deadline, OwnedTask, Wakeup, spawn
from streamchat.errors import BufferUnavailable, StreamChatError

__all__ = ["Argument", "Call", "Lane", "Link"]

Argument = str | bytes | int
_TOGETHER_BYTES = 1024 * 1024
_BIG_CALL = 256 * 1024
"""A call with more bytes than this does not share its round trip."""

_log = logging.getLogger("streamchat.buffers")


class Call:
    """A command on its way, and who waits for its answer.

    ``script`` is None for a plain command, which is then all of ``args``. ``undo`` is called where there is
    nobody to take an answer that was given, or might have been. ``again`` says that the answer is that to a
    second try, after a first whose fate is unknown.
    """

    __slots__ = ("again", "args", "future", "script", "size", "undo")

    def __init__(
        self,
        script: Script | None,
        args: Sequence[Argument],
        size: int = 0,
        undo: Callable[[], None] | None = None,
    ) -> None:
        self.script = script
        self.args = args
        self.size = size
        self.undo = undo
        self.again = False
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def command(self, key: bytes, *, known: bool) -> Sequence[Argument]:
        """Return what to send; ``known`` says that the server should have the script."""
        if self.script is None:
            return self.args
        if known:
            return ("EVALSHA", self.script.sha, 1, key, *self.args)
        return ("EVAL", self.script.source, 1, key, *self.args)


class Link:
    """One connection, used by one task; connects when it is needed. ``timeout`` (seconds) bounds each round
    trip."""

    def __init__(self, server: Server, timeout: float) -> None:
        self.server = server
        self._timeout = timeout
        self._connection: AbstractConnection | None = None

    async def exchange(self, commands: Sequence[Sequence[Argument]]) -> tuple[list[Any], bool]:
        """Send commands and return their answers; an error that the server answered with stands in its place.

        Raises what broke the connection, which then is closed. Nobody knows whether anything of it was done;
        only where a connection that was there before turns out to be dead it is sent a second time, and True
        is returned beside the answers.
        """
        fresh = self._connection is None
        try:
            return await self._attempt(commands), False
        except BROKEN as error:
            if fresh or isinstance(error, wrong.TimeoutError | TimeoutError):
                await self._look_elsewhere()
                raise
        return await self._attempt(commands), True

    async def _attempt(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        deadline = Deadline(self._timeout)
        answers: list[Any] = []
        try:
            async with deadline:
                if self._connection is None:
                    connection = await self.server.connection()
                    self._connection = connection
                    await connection.connect()  # type: ignore[no-untyped-call]
                connection = self._connection
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                for _ in commands:
                    try:
                        answers.append(await connection.read_response())
                    except wrong.ResponseError as error:
                        answers.append(error)
        except BaseException:
            await self.drop()
            raise
        if deadline.expired:
            await self.drop()
            raise wrong.TimeoutError(f"no answer in {self._timeout:g} s")
        return answers

    async def moved(self) -> bool:
        """The keys are elsewhere: look for them; say whether there is a way to."""
        await self.drop()
        return await self.server.moved()

    async def _look_elsewhere(self) -> None:
        try:
            async with Deadline(self._timeout):
                await self.server.refresh()
        except Exception as error:
            _log.info("asking the cluster for its nodes failed: %s", error)

    async def drop(self) -> None:
        """Close the connection, without waiting for the other side."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Close the connection in order."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                async with Deadline(self._timeout):
                    await connection.disconnect()
            except (wrong.RedisError, OSError) as error:
                _log.info("closing a connection failed: %s", error)


class Lane:
    """A queue of calls and the tasks that carry them out, each on a link of its own."""

    def __init__(
        self, server: Server, prefix: str, *, links: int, timeout: float, name: str, together: int = 256
    ) -> None:
        """``together`` is how many calls may share a round trip."""
        self._key = f"{{{prefix}}}:".encode()
        self._prefix = prefix
        self._links = [Link(server, timeout) for _ in range(links)]
        self._name = name
        self._together = together
        self._waiting: deque[Call] = deque()
        self._idle: list[Wakeup] = []
        self._tasks: list[OwnedTask] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = False

    def start(self) -> None:
        """Start the tasks; nothing is connected yet."""
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._tasks = [
            spawn(lambda link=link: self._work(link), f"{self._name}-{number}")  # type: ignore[misc]
            for number, link in enumerate(self._links)
        ]

    async def stop(self) -> None:
        """Do what is waiting, then end the tasks and close their connections; a cancellation waits for
        that."""
        self._open = False
        self._wake(len(self._idle))
        cancelled: asyncio.CancelledError | None = None
        for task in self._tasks:
            while not task.done:
                try:
                    await task.wait()
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            raise cancelled

    async def do(self, call: Call) -> Any:
        """Carry out a call and return the answer.

        Raises `BufferUnavailable` where the server refuses, or nobody knows whether it was done. A call whose
        caller is cancelled before it was sent is not done; from then on it may be.
        """
        self.send(call)
        try:
            return await call.future
        except asyncio.CancelledError:
            done = call.future.done() and not call.future.cancelled() and call.future.exception() is None
            if call.undo is not None and done:
                # Its caller was cancelled before it could take the answer.
                call.undo()
            raise

    def send(self, call: Call, *, late: bool = False) -> None:
        """Queue a call; a ``late`` one also while the lane is about to end, if it has not ended yet."""
        if not self._open and not (late and not all(task.done for task in self._tasks)):
            raise BufferUnavailable("the buffer is not open: await its open() first")
        if call.future.get_loop() is not self._loop:
            raise StreamChatError("the buffer was opened on another event loop: open one for each loop")
        self._waiting.append(call)
        self._wake(1)

    def _wake(self, count: int) -> None:
        for _ in range(min(count, len(self._idle))):
            self._idle.pop().set()

    # ------------------------------------------------------------------------------------------- in the tasks

    async def _work(self, link: Link) -> None:
        wakeup = Wakeup()
        try:
            while self._open or self._waiting:
                calls = self._take()
                if calls:
                    await self._carry_out(link, calls)
                elif self._open:
                    self._idle.append(wakeup)
                    await wakeup.wait()
        finally:
            await link.close()

    def _take(self) -> list[Call]:
        """Take the calls of the next round trip: first come, first served; a big one goes alone."""
        calls: list[Call] = []
        size = 0
        waiting = self._waiting
        while waiting and len(calls) < self._together and size < _TOGETHER_BYTES:
            if waiting[0].future.cancelled():
                waiting.popleft()
                continue
            if waiting[0].size > _BIG_CALL:
                if not calls:
                    calls.append(waiting.popleft())
                break
            calls.append(waiting.popleft())
            size += calls[-1].size
        return calls

    async def _carry_out(self, link: Link, calls: Sequence[Call]) -> None:
        try:
            again = await self._round(link, calls, known=True)
            moved = [
                call for call, error in again if isinstance(error, wrong.AskError | wrong.ClusterDownError)
            ]
            if moved and not await link.moved():
                for call, error in again:
                    if call in moved:
                        self._fail(call, error)
                moved = []
            unknown = [call for call, error in again if isinstance(error, wrong.NoScriptError)]
            for call, error in await self._round(link, [*moved, *unknown], known=False):
                self._fail(call, error)
        except Exception as error:
            for call in calls:
                self._fail(call, error)

    async def _round(self, link: Link, calls: Sequence[Call], *, known: bool) -> list[tuple[Call, Exception]]:
        """Do calls and settle them; return those that the server did not begin, for they can be sent
        otherwise."""
        if not calls:
            return []
        answers, second = await link.exchange([call.command(self._key, known=known) for call in calls])
        again: list[tuple[Call, Exception]] = []
        for call, answer in zip(calls, answers, strict=True):
            call.again = call.again or second
            if isinstance(answer, wrong.NoScriptError | wrong.AskError | wrong.ClusterDownError):
                again.append((call, answer))
            elif isinstance(answer, Exception):
                self._fail(call, answer)
            elif call.future.cancelled():
                if call.undo is not None:
                    call.undo()
            elif not call.future.done():
                call.future.set_result(answer)
        return again

    def _fail(self, call: Call, error: Exception) -> None:
        if not call.future.done():
            refusal = translate(error, self._links[0].server.where, self._prefix)
            refusal.__cause__ = error
            call.future.set_exception(refusal)
            # Who waits is told; a call without anybody who waits is nobody's failure.
            call.future.exception()
        elif not call.future.cancelled():
            return
        if call.undo is not None and isinstance(error, BROKEN):
            call.undo()
