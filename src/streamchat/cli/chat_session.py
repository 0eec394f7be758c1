"""One sitting of ``streamchat chat``: messages in, answers out, and what Ctrl+C does meanwhile.

The user is asked outside of the loop, which only runs while something is read or sent: a person who thinks
about an approval holds no connection open.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from streamchat.cli.chat_view import Screen, label
from streamchat.client import ClientError, Reset, StreamChatClient
from streamchat.errors import StreamChatError
from streamchat.events import ApprovalRequested, Finalized, Suspended

__all__ = ["Session"]

R = TypeVar("R")

_TICK_SECONDS = 0.1
_INTERRUPTED = 130


class Session:
    """Reads messages and shows what they bring. ``approve`` is what is said to calls that wait for somebody;
    None asks the user."""

    def __init__(
        self,
        url: str,
        screen: Screen,
        *,
        headers: Mapping[str, str],
        patience: float,
        conversation_id: str | None,
        approve: bool | None,
    ) -> None:
        self._url = url
        self._screen = screen
        self._client = StreamChatClient(url, headers=headers, patience=patience)
        self._conversation_id = conversation_id
        self._approve = approve
        self._run_id: str | None = None
        self._status = "success"
        self._at_interrupt: Callable[[], object] | None = None

    def run(self, message: str | None, *, run_id: str | None) -> int:
        """Show a run, ask one message, or one after the other to the end of the input; the exit status."""
        before = signal.signal(signal.SIGINT, self._interrupted)
        with asyncio.Runner() as runner:
            self._runner = runner
            try:
                if run_id is not None:
                    self._show(run_id)
                if message is not None:
                    self._ask(message)
                elif run_id is None or sys.stdin.isatty():
                    self._converse()
            except (KeyboardInterrupt, asyncio.CancelledError):
                self._tell_how_to_go_on()
                return _INTERRUPTED
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                try:
                    runner.run(self._client.close())
                finally:
                    signal.signal(signal.SIGINT, before)
        return 0 if self._status == "success" else 1

    def _converse(self) -> None:
        while True:
            try:
                message = self._screen.ask("> ")
            except EOFError:
                break
            if message.strip():
                try:
                    self._ask(message)
                except ClientError as error:
                    self._screen.notice(str(error), bad=True)
                    self._status = "refused"
        if self._conversation_id is not None and sys.stdin.isatty():
            self._screen.notice(
                f"to go on: streamchat chat {self._url} --conversation {self._conversation_id}"
            )

    def _ask(self, message: str) -> None:
        self._run_id = None
        started = self._do(self._client.start(message, conversation_id=self._conversation_id))
        self._conversation_id = started.conversation_id
        self._follow(started.run_id)

    def _show(self, run_id: str) -> None:
        self._conversation_id = self._do(self._client.status(run_id))["conversation_id"]
        self._follow(run_id)

    def _follow(self, run_id: str) -> None:
        """Show a run to its end, or to where nobody is here who could answer."""
        self._run_id, self._status = run_id, "running"
        self._screen.begin()
        reading = _Reading(self._client, self._screen, run_id)
        while waits := self._do(reading.read(), reading.interrupt):
            for call_id in waits:
                try:
                    verdict = self._decide(call_id)
                except KeyboardInterrupt:
                    reading.interrupt()
                    break
                if verdict is None:
                    self._status = "suspended"
                    self._screen.notice(
                        f"the run waits for somebody to decide: streamchat chat {self._url} --run {run_id}"
                    )
                    return
                self._do(self._answer(run_id, call_id, verdict))
        self._status = reading.status

    def _decide(self, call_id: str) -> bool | None:
        """Whether the call may run; None where nobody can be asked."""
        asked = self._screen.asked.get(call_id) or ApprovalRequested(step=0, approval_id="", call_id=call_id)
        what = label(asked.name or call_id, asked.arguments)
        if self._approve is not None:
            return self._approve
        self._screen.notice(f"{asked.message or 'May this run?'}  {what}")
        while True:
            try:
                said = self._screen.ask("yes or no? ").strip().lower()
            except EOFError:
                return None
            if said in ("y", "yes", "n", "no"):
                return said.startswith("y")

    async def _answer(self, run_id: str, call_id: str, approved: bool) -> None:
        try:
            await self._client.resolve_approval(run_id, call_id, approved)
        except ClientError as error:
            if error.status not in (404, 409):
                raise
            self._screen.notice("somebody else has decided")

    # Ctrl+C.

    def _do(self, work: Coroutine[Any, Any, R], at_interrupt: Callable[[], bool] | None = None) -> R:
        """Run ``work``; Ctrl+C calls ``at_interrupt``, and cancels the work where that is None or says no."""

        async def main() -> R:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None

            def interrupted() -> None:
                if at_interrupt is None or not at_interrupt():
                    task.cancel()

            self._at_interrupt = partial(loop.call_soon_threadsafe, interrupted)
            try:
                return await work
            finally:
                self._at_interrupt = None

        return self._runner.run(main())

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self._at_interrupt is None:
            raise KeyboardInterrupt
        self._at_interrupt()

    def _tell_how_to_go_on(self) -> None:
        if self._run_id is not None and self._status == "running":
            self._screen.notice(f"the run goes on: streamchat chat {self._url} --run {self._run_id}")


class _Reading:
    """One run as it is read, over as many connections and pauses as it takes."""

    def __init__(self, client: StreamChatClient, screen: Screen, run_id: str) -> None:
        self._client = client
        self._screen = screen
        self._run_id = run_id
        self._cursor: str | None = None
        self._stop = asyncio.Event()
        self.status = "running"

    def interrupt(self) -> bool:
        """Cancel the run; False where that was asked for before."""
        if self._stop.is_set():
            return False
        self._stop.set()
        return True

    async def read(self) -> list[str]:
        """Show the run to its end, or to where it waits; the ids of the calls that somebody must allow."""
        others = [asyncio.create_task(self._tick()), asyncio.create_task(self._cancel())]
        try:
            with self._screen:
                return await self._read()
        finally:
            for task in others:
                task.cancel()
            await asyncio.wait(others)

    async def _read(self) -> list[str]:
        async with aclosing(self._client.stream(self._run_id, self._cursor)) as events:
            async for item in events:
                self._cursor = item.id
                self._screen.show(item)
                if isinstance(item, Reset):
                    self.status = item.state.status
                    waits = item.state.status == "suspended"
                else:
                    waits = isinstance(item.event, Suspended)
                    if isinstance(item.event, Finalized):
                        self.status = item.event.status
                if waits and (calls := await self._approvals()):
                    return calls
        if self.status not in ("success", "error", "cancelled"):
            # (its end was not in what was read: a cursor behind the last event)
            self.status = (await self._client.status(self._run_id))["status"]
        return []

    async def _approvals(self) -> list[str]:
        """The calls that wait for somebody now: what is read may be long past."""
        status = await self._client.status(self._run_id)
        return [wait["call_id"] for wait in status["waits"] if wait["kind"] == "approval"]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._screen.tick()

    async def _cancel(self) -> None:
        await self._stop.wait()
        self._screen.notice("cancelling… (Ctrl+C again leaves)")
        with suppress(StreamChatError):
            await self._client.cancel(self._run_id, "Ctrl+C")
