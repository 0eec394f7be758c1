"""Who is connected to which run, in all processes, and what happens when nobody is any more.

Each process keeps one note per run that it has readers of (`streamchat.buffers.notes`), written in batches
and renewed while they are there. When the last reader here leaves, the note says so and is due after the
run's grace time; if then no other process has a note that stands, the run is cancelled. A note whose process
died with its readers becomes due by itself, and any other process settles it in the same way. What a process
notes before it looks cannot be missed by one that looks later, so the last one to leave always decides.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from streamchat.buffers.base import RunRecord
from streamchat.buffers.notes import NewNote, Note, NoteStore
from streamchat.errors import BufferUnavailable, InvalidInput, RunNotFound
from streamchat.events import dump_json
from streamchat.service.hub import Subscription

__all__ = ["NOTE", "OnDisconnect", "Presence", "PresenceKeeper", "Reader", "grace_of"]

log = logging.getLogger("streamchat.service")

NOTE = "presence"
"""What the names of these notes begin with, before a colon."""

OnDisconnect: TypeAlias = Literal["continue", "cancel"] | float

_GATHER = 1.0
_SOON = 0.1
_BATCH = 500
_LISTED = 200
# Clients come back after about the time they were told; this is for the way.
_ON_THE_WAY = 5.0


def grace_of(policy: OnDisconnect) -> float | None:
    """Return after how many seconds without readers a run is cancelled; None is never.

    Raises `InvalidInput` for what is no policy.
    """
    if policy == "continue":
        return None
    if policy == "cancel":
        return 0.0
    seconds: object = policy
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < float("inf"):
        return float(seconds)
    raise InvalidInput(
        f"on_disconnect={policy!r}: it is 'continue', 'cancel', or seconds of grace", field="on_disconnect"
    )


@dataclass(frozen=True, slots=True)
class Presence:
    """Somebody who is connected to a run.

    ``since`` is milliseconds since the epoch by the clock of the process that serves them, ``cursor`` the
    last id that they were sent (as of some seconds ago, where that is another process).
    """

    client_id: str | None
    principal_id: str | None
    since: int
    cursor: str


@dataclass(slots=True, eq=False)
class Reader:
    """A connection that this process serves."""

    subscription: Subscription
    client_id: str | None
    principal_id: str | None
    since: int

    def presence(self) -> Presence:
        """Return it as it is told to others."""
        return Presence(self.client_id, self.principal_id, self.since, self.subscription.cursor)


@dataclass(slots=True, eq=False)
class _Seats:
    """A run's readers in this process. ``wait`` is how long the last one may be away."""

    grace: float | None
    readers: set[Reader] = field(default_factory=set)
    wait: float | None = None
    noted: bool = False

    def encode(self) -> bytes:
        readers = sorted(self.readers, key=lambda reader: reader.since)[:_LISTED]
        listed = [[r.client_id, r.principal_id, r.since, r.subscription.cursor] for r in readers]
        return dump_json({"grace": self.grace, "readers": listed})


class PresenceKeeper:
    """One process's part in presence.

    ``cancel(run_id)`` ends a run that everybody has left. ``ttl`` is how long a note stands without being
    renewed, in seconds.
    """

    def __init__(
        self,
        store: NoteStore,
        get: Callable[[str], Awaitable[RunRecord]],
        cancel: Callable[[str], Awaitable[None]],
        *,
        ttl: float,
    ) -> None:
        self._store = store
        self._get = get
        self._cancel = cancel
        self._ttl = ttl
        self._name = f"{NOTE}:{uuid.uuid4().hex}"
        self._here: dict[str, _Seats] = {}
        self._dirty: set[str] = set()
        self._saved: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._lazy: asyncio.TimerHandle | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._refresh_at = 0.0

    # Its own life.

    def start(self) -> None:
        """Begin to write notes."""
        self._refresh_at = asyncio.get_running_loop().time() + self._ttl / 3
        self._task = asyncio.create_task(self._keep(), name="streamchat presence")

    async def stop(self) -> None:
        """Note that all who are still connected here are about to come back elsewhere; idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        for timer in (*self._timers.values(), *([self._lazy] if self._lazy is not None else [])):
            timer.cancel()
        self._timers.clear()
        self._lazy = None
        # Between two of its writes: what was begun is finished.
        self._wake.set()
        await asyncio.wait({task})
        for run_id, seats in self._here.items():
            if seats.readers:
                seats.readers.clear()
                seats.wait = None if seats.grace is None else max(seats.grace, _ON_THE_WAY)
                self._dirty.add(run_id)
        await self._flush()
        self._here.clear()

    # Coming and going.

    async def enter(self, run: RunRecord, grace: float | None, reader: Reader) -> None:
        """Count a connection until its subscription is closed.

        Where leaving has a consequence, it is durable before this returns; `BufferUnavailable` otherwise.
        """
        if self._task is None:
            return  # being closed: everybody is sent away
        run_id = run.run_id
        seats = self._here.get(run_id)
        if seats is None:
            seats = self._here[run_id] = _Seats(grace)
        seats.readers.add(reader)
        self._forget_timer(run_id)
        reader.subscription.on_close = lambda subscription: self._leave(run_id, reader)
        if grace is None:
            self._note(run_id, soon=False)
            return
        saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._saved.append(saved)
        self._note(run_id, soon=True)
        try:
            await saved
        except Exception:
            self._refuse(run_id, reader)
            raise

    def _refuse(self, run_id: str, reader: Reader) -> None:
        """Forget one who was never let in: that is no leaving."""
        reader.subscription.on_close = None
        seats = self._here.get(run_id)
        if seats is not None:
            seats.readers.discard(reader)
            if not seats.readers and not seats.noted:
                del self._here[run_id]

    def _leave(self, run_id: str, reader: Reader) -> None:
        seats = self._here.get(run_id)
        if seats is None or reader not in seats.readers:
            return
        seats.readers.discard(reader)
        if seats.readers:
            self._note(run_id, soon=False)
            return
        subscription = reader.subscription
        if subscription.finished or seats.grace is None:
            seats.wait = None
        elif subscription.returning is not None:
            # It was this side that ended the connection.
            seats.wait = max(seats.grace, 1.5 * subscription.returning + _ON_THE_WAY)
        else:
            seats.wait = seats.grace
        self._note(run_id, soon=seats.wait is not None)

    async def of(self, run_id: str) -> list[Presence]:
        """Return who is connected to the run, in whichever process, longest first."""
        seats = self._here.get(run_id)
        found = [reader.presence() for reader in seats.readers] if seats is not None else []
        for note in await self._notes(run_id):
            if not note.expired and note.name != self._name:
                found += [Presence(*entry) for entry in _content(note)["readers"]]
        return sorted(found, key=lambda presence: (presence.since, presence.client_id or ""))

    # Deciding.

    async def settle(self, run_id: str) -> None:
        """Look whether a run was left by all, and cancel it if its policy says so.

        Raises `BufferUnavailable`; what is due stays due then.
        """
        notes = await self._notes(run_id)
        expired = [note for note in notes if note.expired]
        seats = self._here.get(run_id)
        if seats is not None:
            # Somebody is here, or it is noted shortly that nobody is.
            self._note(run_id, soon=False)
            if seats.noted:
                await self._store.drop_notes([note for note in expired if note.name != self._name])
            return
        if len(expired) < len(notes):
            # For whoever holds a note that stands it is to decide.
            await self._store.drop_notes(expired)
            if any(note.name == self._name for note in notes if not note.expired):
                self._settle_later(run_id, _SOON)
            return
        contents = [_content(note) for note in expired]
        grace = next((content["grace"] for content in contents if content["grace"] is not None), None)
        if grace and any(content["readers"] for content in contents):
            # Their process died with them; they have the same time to come back as any other.
            await self._inherit(run_id, grace)
        elif expired and grace is not None and await self._goes_on(run_id):
            log.info("run %s: all readers have left, it is cancelled", run_id)
            await self._cancel(run_id)
        await self._store.drop_notes(expired)

    async def _inherit(self, run_id: str, grace: float) -> None:
        if self._task is None:
            raise BufferUnavailable(f"run {run_id}: this process shuts down, another one settles who left")
        if run_id not in self._here:
            self._here[run_id] = _Seats(grace, wait=grace)
        saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._saved.append(saved)
        self._note(run_id, soon=True)
        await saved

    async def _goes_on(self, run_id: str) -> bool:
        """Whether there is something to cancel: a suspended run costs nothing, and waits for somebody."""
        try:
            run = await self._get(run_id)
        except RunNotFound:
            return False
        return not run.over and run.status != "suspended"

    async def _notes(self, run_id: str) -> list[Note]:
        return [note for note in await self._store.notes(run_id) if note.name.startswith(NOTE + ":")]

    def _settle_later(self, run_id: str, seconds: float) -> None:
        self._forget_timer(run_id)
        if self._task is not None:
            loop = asyncio.get_running_loop()
            self._timers[run_id] = loop.call_later(seconds, self._settle_now, run_id)

    def _settle_now(self, run_id: str) -> None:
        self._timers.pop(run_id, None)
        task = asyncio.create_task(self._settle_quietly(run_id), name=f"streamchat settle {run_id}")
        self._settling.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        self._wake.set()

    async def _settle_quietly(self, run_id: str) -> None:
        try:
            await self.settle(run_id)
        except BufferUnavailable as error:
            log.warning("run %s: whether it was left cannot be told yet: %s", run_id, error)
            self._settle_later(run_id, self._ttl / 3)
        except Exception:
            log.exception("run %s: settling who left it failed", run_id)

    def _forget_timer(self, run_id: str) -> None:
        timer = self._timers.pop(run_id, None)
        if timer is not None:
            timer.cancel()

    # Writing.

    def _note(self, run_id: str, *, soon: bool) -> None:
        self._dirty.add(run_id)
        if soon:
            self._wake.set()
        elif self._lazy is None:
            self._lazy = asyncio.get_running_loop().call_later(_GATHER, self._wake.set)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while self._task is not None or self._settling or self._saved:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._refresh_at):
                    await self._wake.wait()
            self._wake.clear()
            lazy, self._lazy = self._lazy, None
            if lazy is not None:
                lazy.cancel()
            if loop.time() >= self._refresh_at:
                self._refresh_at = loop.time() + self._ttl / 3
                self._dirty.update(self._here)
            await self._flush()

    async def _flush(self) -> None:
        """Write what has changed, all in one go; what cannot be written stays to be written."""
        dirty, self._dirty = self._dirty, set()
        saved, self._saved = self._saved, []
        written = [
            (run_id, seats) for run_id in sorted(dirty) if (seats := self._here.get(run_id)) is not None
        ]
        notes = [(run_id, seats, self._note_of(run_id, seats)) for run_id, seats in written]
        left = {run_id for run_id, seats in written if not seats.readers}
        error: BaseException | None = None
        try:
            for start in range(0, len(notes), _BATCH):
                await self._store.write_notes([note for _, _, note in notes[start : start + _BATCH] if note])
        except Exception as failed:
            error = failed
            self._not_written(dirty, failed)
        except BaseException as failed:
            error = failed
            raise
        finally:
            _resolve(saved, error)
        if error is None:
            self._written(written, left)

    def _note_of(self, run_id: str, seats: _Seats) -> NewNote | None:
        if seats.readers:
            return NewNote(run_id, self._name, seats.encode(), self._ttl)
        if seats.wait is None:
            return NewNote(run_id, self._name, None) if seats.noted else None
        return NewNote(run_id, self._name, seats.encode(), seats.wait)

    def _written(self, written: Iterable[tuple[str, _Seats]], left: set[str]) -> None:
        for run_id, seats in written:
            seats.noted = True
            # Who came while it was being written is written next.
            if run_id in left and not seats.readers:
                del self._here[run_id]
                if seats.wait is not None:
                    self._settle_later(run_id, seats.wait + _SOON / 2 if seats.wait else 0.0)

    def _not_written(self, dirty: set[str], error: Exception) -> None:
        if isinstance(error, BufferUnavailable):
            log.warning("who is connected cannot be noted at the moment: %s", error)
        else:
            log.error("noting who is connected failed", exc_info=error)
        if self._task is not None:
            for run_id in dirty:
                self._note(run_id, soon=False)


def _resolve(saved: Iterable[asyncio.Future[None]], error: BaseException | None) -> None:
    for future in saved:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        elif isinstance(error, Exception):
            future.set_exception(error)
        else:
            future.cancel()


def _content(note: Note) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(note.body)
    return content
