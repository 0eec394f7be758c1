"""Drives one run for one lease: takes events from the orchestrator, makes them durable, then lets it go on.

Two tasks do the work. The *puller* asks the orchestrator for events and runs ahead of the store, within a
byte bound, but never past a barrier that is not durable. The *writer* appends whatever has gathered while the
append before it was under way: natural group commit, no timer. A store that can append without waiting is not
worth the way to a task: there the puller writes itself, when the orchestrator has nothing more to give. A
third task, the *keeper*, renews the lease and looks for inputs. What the log says when the driver is gone is
true at any moment: a crash between two lines loses at most what nobody was told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from streamchat.buffers.at_once import append_now_of
from streamchat.buffers.base import (
    Appended,
    Claim,
    EventBuffer,
    Lease,
    NewEvent,
    Then,
)
from streamchat.concurrency import Wakeup
from streamchat.core.conclude import conclude
from streamchat.core.lifecycle import BARRIERS
from streamchat.errors import BufferUnavailable, InputsPending, LeaseLost, RunNotFound
from streamchat.events import StoredEvent, StreamEvent
from streamchat.orchestration.context import RunContext
from streamchat.service.companions import Companions, WithEvents
from streamchat.service.inbox import Inbox
from streamchat.service.log import read_log
from streamchat.service.pending import Pending
from streamchat.service.summary import RunSummary, SummaryBuilder
from streamchat.service.waiting import when_it_waits

__all__ = ["Driver", "DriverOptions", "NotNow"]

log = logging.getLogger("streamchat.run")

T = TypeVar("T")
Outcome: TypeAlias = Literal["over", "suspended", "handed_over", "lost"]


_OUTCOMES: dict[Then, Outcome] = {"over": "over", "suspend": "suspended", "queue": "handed_over"}

_FIRST_WAIT = 0.05
_LONGEST_WAIT = 1.0
"""Seconds between tries while the store is away."""


class NotNow(Exception):
    """Raised by ``make_events`` where the run is to be handed over as it is."""


@dataclass(frozen=True, slots=True)
class DriverOptions:
    """``lease_ttl`` and ``input_poll`` are seconds, ``max_unsaved`` is bytes.

    A run that is quiet for ``input_poll`` looks whether another process posted something. The orchestrator
    may run ``max_unsaved`` ahead of the store, also while the store is away.
    """

    lease_ttl: float = 15.0
    input_poll: float = 1.0
    max_unsaved: int = 1024 * 1024


class Driver:
    """One claimed run. ``publish`` is told of every batch after it is durable.

    ``make_events`` is given the log so far and returns the orchestrator's generator for it.
    ``user_message_id`` is the message that the run answers.
    """

    def __init__(
        self,
        claim: Claim,
        buffer: EventBuffer,
        context: RunContext,
        make_events: Callable[[Sequence[StoredEvent]], Awaitable[AsyncGenerator[StreamEvent, None]]],
        publish: Callable[[str, Sequence[StoredEvent]], None],
        options: DriverOptions,
        summary: SummaryBuilder,
        *,
        user_message_id: str | None = None,
    ) -> None:
        self.run = claim.run
        self._lease: Lease = claim.lease
        self._buffer = buffer
        self._append_now = append_now_of(buffer)
        self._context = context
        self._make_events = make_events
        self._publish = publish
        self._options = options
        self._summary = summary
        self._pending = Pending()
        self._refused: Sequence[StreamEvent] = ()  # what could not be appended now, and goes first
        self._work = Wakeup()
        self._writing = False  # the writer is at work, or about to be
        self._saved = asyncio.Event()
        self._saved.set()
        self._poked = asyncio.Event()
        self._let_go = asyncio.Event()
        self._closing = False
        self._renew_due = False
        self._inbox = Inbox(buffer, claim.run.run_id, context)
        self._companions = Companions(claim.run, user_message_id, self._inbox)
        self._stays_awake = False  # it was about to be suspended when something came
        self._outcome: Outcome | None = None
        self._unsure = False
        """Whether a try of the batch that is being sent may have been written."""
        self._appended_at = self._held_at = time.monotonic()
        self._leaving = False

    @property
    def late(self) -> bool:
        """Whether the lease should have been renewed twice by now, and was not: the process, or the store, is
        too busy."""
        return not self._leaving and time.monotonic() - self._held_at > self._options.lease_ttl * 2 / 3

    def poke(self) -> None:
        """Look for inputs now: something was posted in this process."""
        self._poked.set()

    async def conclude(self, so_far: Iterable[StoredEvent], events: Sequence[StreamEvent]) -> None:
        """Append to the log ``so_far`` the end of a run in which there is no work; raises `LeaseLost`,
        `BufferUnavailable`."""
        for stored in so_far:
            self._companions.note(stored.event)
        await self._inbox.look()
        await self._append(events)

    async def drive(self) -> RunSummary:
        """Drive the run until it is over, suspended or lost; cancelled, it hands the run over to whoever
        claims next.

        Never raises for anything that happens to the run; a cancellation is re-raised after the handing over,
        however often it comes meanwhile.
        """
        driving = asyncio.create_task(self._drive(), name=f"streamchat drive {self.run.run_id}")
        cancelled: asyncio.CancelledError | None = None
        while not driving.done():
            try:
                await asyncio.wait({driving})
            except asyncio.CancelledError as error:
                # Half of a handing over would leave a run that is held and not worked on: it goes on.
                cancelled = error
                self._let_go.set()
        if cancelled is not None:
            raise cancelled
        return driving.result()

    async def _drive(self) -> RunSummary:
        puller = asyncio.create_task(self._pull(), name=f"streamchat pull {self.run.run_id}")
        writer = asyncio.create_task(self._write(), name=f"streamchat write {self.run.run_id}")
        keeper = asyncio.create_task(self._keep(), name=f"streamchat keep {self.run.run_id}")
        told = asyncio.create_task(self._wait_to_let_go(), name=f"streamchat let go {self.run.run_id}")
        await asyncio.wait({puller, writer, keeper, told}, return_when=asyncio.FIRST_COMPLETED)
        self._leaving = True
        # From here on nothing new is asked for. Closing the generator ends its tools, within the grace time.
        for task in (told, puller):
            task.cancel()
        await asyncio.wait({told, puller})
        keeper.cancel()
        await asyncio.wait({keeper})
        self._closing = True
        self._work.set()
        await asyncio.wait({writer})
        outcome = await self._leave(_failure_of(puller), _failure_of(writer) or _failure_of(keeper))
        return self._summary.build(
            self.run.run_id,
            self.run.conversation_id,
            (self._summary.status if outcome == "over" else None) or outcome,
            self._lease.worker,
        )

    async def _wait_to_let_go(self) -> None:
        await self._let_go.wait()

    # Taking events from the orchestrator.

    async def _pull(self) -> None:
        while True:
            # A cancel, or an answer, may have come while nobody looked.
            await self._patiently(self._inbox.look)
            history = await self._patiently(lambda: read_log(self._buffer, self.run.run_id))
            for stored in history:
                self._companions.note(stored.event)
            await self._pull_from(history)
            if not self._stays_awake:
                return
            self._stays_awake = False
            self._context.resumed = None  # the log it goes on with is its own

    async def _pull_from(self, history: Sequence[StoredEvent]) -> None:
        pending, context, options = self._pending, self._context, self._options
        async with aclosing(await self._make_events(history)) as events:
            while True:
                try:
                    event = await when_it_waits(anext(events), self._write_what_waits)
                except StopAsyncIteration:
                    self._write_what_waits()
                    return
                more = context.more
                pending.add(event, more=more)
                if not more and (event.type in BARRIERS or pending.size > options.max_unsaved):
                    self._write_what_waits()
                    if self._writing:
                        self._saved.clear()
                        # The writer may be busy with the batch before; it takes all that waits, so once is
                        # enough.
                        await self._saved.wait()

    # Making them durable.

    def _write_what_waits(self) -> None:
        """Append what has gathered, now if the store can and else as soon as the writer can."""
        if self._writing or not self._pending.whole:
            return
        if self._append_now is not None:
            events = self._pending.take()
            try:
                appended = None
                if not self._companions.of(events):
                    appended = self._append_now(self._lease, [NewEvent.of(event) for event in events])
                if appended is not None:
                    self._note_appended(appended)
                    return
            except Exception as error:
                # The writer sends the same batch again: what is wrong with it is then told there.
                log.debug("run %s: appended by the writer instead: %r", self.run.run_id, error)
            self._refused = events
        self._writing = True
        self._work.set()

    async def _write(self) -> None:
        while True:
            await self._work.wait()
            self._writing = True
            while self._refused or self._pending or self._renew_due:
                if self._renew_due:
                    # In turn with the appends: the lease that a renewal names is then never out of date.
                    await self._renew()
                    self._renew_due = False
                if self._refused or self._pending:
                    await self._append(self._refused or self._pending.take())
                    self._refused = ()
            self._writing = False
            self._saved.set()
            if self._closing or self._outcome is not None:
                return

    async def _renew(self) -> None:
        ttl = self._options.lease_ttl
        self._hold(await self._patiently(lambda: self._buffer.renew(self._lease, ttl)))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the store, again and again while it is away, for as long as the lease lasts."""
        wait = _FIRST_WAIT
        while True:
            try:
                return await ask()
            except BufferUnavailable as error:
                wait = await self._wait_for_store(wait, error)

    def _hold(self, lease: Lease) -> None:
        self._lease = lease
        self._held_at = time.monotonic()
        if lease.inputs:
            self._poked.set()

    async def _append(self, events: Sequence[StreamEvent]) -> None:
        """Write one batch, with what belongs into the same transaction, and tell those who watch.

        It is tried again, unchanged, while the store is away, for as long as the lease lasts. A suspension is
        left out when something came meanwhile that the run has not read; if its fate was unknown before that,
        the run is let go.
        """
        with_it = self._companions.of(events)
        if self._companions.with_state(with_it):
            so_far = await self._patiently(lambda: read_log(self._buffer, self.run.run_id))
            with_it["messages"] = self._companions.rows_at_end(so_far, events)
        if with_it.get("then") != "suspend":
            await self._send(events, with_it)
            return
        so_far = await self._patiently(lambda: read_log(self._buffer, self.run.run_id))
        with_it["messages"] = [self._companions.row_so_far([*so_far, *events])]
        try:
            await self._send(events, with_it)
        except InputsPending:
            if self._unsure:
                # A try may have been written, read, and lost by the store: nothing else may have its ids.
                await self._send([], {"then": "queue"})
                return
            self._stays_awake = True
            before = [event for event in events if event.type != "suspended"]
            if before:
                await self._send(before, self._companions.of(before))

    async def _send(self, events: Sequence[StreamEvent], with_it: WithEvents) -> None:
        batch = [NewEvent.of(event) for event in events]
        wait = _FIRST_WAIT
        appended: Appended | None = None
        while appended is None:
            try:
                appended = await self._buffer.append(self._lease, batch, **with_it)
            except BufferUnavailable as error:
                self._unsure = True
                wait = await self._wait_for_store(wait, error)
        self._unsure = False
        self._note_appended(appended)
        self._inbox.forget(with_it.get("consumed", ()))
        then = with_it.get("then", "hold")
        if then != "hold":
            self._outcome = _OUTCOMES[then]

    def _note_appended(self, appended: Appended) -> None:
        """Tell those who watch of a batch that is durable now."""
        self._summary.add(appended.events)
        self._publish(self.run.run_id, appended.events)
        self._hold(appended.lease)
        self._appended_at = self._held_at

    async def _wait_for_store(self, seconds: float, error: BufferUnavailable) -> float:
        """Wait before the next try; returns how long to wait before the one after it."""
        # Our own clock will do: it only decides when to give up, never whether an append is right.
        if time.monotonic() - self._held_at > self._options.lease_ttl:
            log.error("run %s: let go, the store is away: %s", self.run.run_id, error)
            raise error
        log.warning("run %s: the store is asked again in %.2f s: %s", self.run.run_id, seconds, error)
        await asyncio.sleep(seconds)
        return min(seconds * 2, _LONGEST_WAIT)

    # Holding on to the lease, and hearing what was posted.

    async def _keep(self) -> None:
        third = self._options.lease_ttl / 3
        poll = min(self._options.input_poll, third)
        renew_at = time.monotonic() + third
        while True:
            try:
                async with asyncio.timeout(poll):
                    await self._poked.wait()
            except TimeoutError:
                pass
            now = time.monotonic()
            quiet = now - self._appended_at > self._options.input_poll
            if self._poked.is_set() or quiet:
                self._poked.clear()
                try:
                    await self._inbox.look()
                except BufferUnavailable as error:
                    log.warning("run %s: inputs cannot be read: %s", self.run.run_id, error)
            if now >= renew_at:
                renew_at = now + third
                self._renew_due = True
                self._work.set()

    # Letting go.

    async def _leave(self, failure: BaseException | None, lost: BaseException | None) -> Outcome:
        if self._outcome is not None:
            return self._outcome
        run_id = self.run.run_id
        if lost is not None:
            if isinstance(lost, _GONE):
                log.warning("run %s: let go: %s", run_id, lost)
            else:
                log.error("run %s: the driver failed", run_id, exc_info=lost)
            return "lost"
        try:
            if failure is not None and not isinstance(failure, (*_GONE, NotNow)):
                log.error("run %s: the orchestrator failed", run_id, exc_info=failure)
                await self._append(await self._conclusion())
                return "over"
            # What the store itself interrupted is nobody's fault: the run is handed over.
            await self._buffer.append(self._lease, [], then="queue")
        except _GONE as error:
            log.warning("run %s: let go: %s", run_id, error)
            return "lost"
        return "handed_over"

    async def _conclusion(self) -> list[StreamEvent]:
        events = await read_log(self._buffer, self.run.run_id)
        nothing_yet = self._lease.head_seq == self.run.head_seq
        return conclude(
            events,
            "internal_error",
            resumed=self._context.resumed if nothing_yet else None,
            worker=self._lease.worker,
        )


def _failure_of(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


_GONE = (LeaseLost, RunNotFound, BufferUnavailable)
"""What the store says when a run can no longer be worked on from here."""
