"""The stand that a buffer is put on: `BufferSuite` runs behaviours, each on a `Bench` with a buffer of its
own."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, TypeAlias

import anyio

from streamchat.buffers.base import EventBuffer, Lease, MessageRecord, NewEvent, NewRun
from streamchat.errors import StreamChatError

__all__ = [
    "BEHAVIOURS",
    "Bench",
    "BufferSuite",
    "behaviour",
    "deltas",
    "ending",
    "message",
    "refused",
    "suspended",
]

MakeBuffer: TypeAlias = Callable[[], AbstractAsyncContextManager[EventBuffer]]
AnotherView: TypeAlias = Callable[[EventBuffer], AbstractAsyncContextManager[EventBuffer]]
Advance: TypeAlias = Callable[[EventBuffer, float], Awaitable[None]]
Behaviour: TypeAlias = "Callable[[Bench], Awaitable[None]]"

BEHAVIOURS: dict[str, Behaviour] = {}
"""Every behaviour by its name, which is a sentence."""


def behaviour(function: Behaviour) -> Behaviour:
    """Enter a behaviour under its function's name."""
    name = function.__name__
    if name in BEHAVIOURS:
        raise ValueError(f"two behaviours are called {name!r}")
    BEHAVIOURS[name] = function
    return function


class BufferSuite:
    """The behaviours, for one kind of buffer.

    ``make_buffer`` gives an opened buffer over an empty store, and closes it. ``another`` gives a second
    buffer over the same store as a first one, as another process would have it (None: there are no others).
    ``advance`` moves the store's clock by so many seconds; by default it sleeps, and leases of ``ttl``
    seconds are then chosen short.
    """

    def __init__(
        self,
        make_buffer: MakeBuffer,
        *,
        another: AnotherView | None = None,
        advance: Advance | None = None,
        ttl: float | None = None,
    ) -> None:
        self._make_buffer = make_buffer
        self._another = another
        self._advance = advance
        self._ttl = ttl if ttl is not None else (30.0 if advance is not None else 0.5)

    async def run(self, name: str) -> None:
        """Run one behaviour; raises AssertionError, or whatever the buffer raises, where it is not kept."""
        async with self._make_buffer() as buffer:
            await BEHAVIOURS[name](Bench(buffer, self._another, self._advance, self._ttl))

    async def run_all(self) -> None:
        """Run all behaviours; the first that fails ends it, with its name in a note."""
        for name in BEHAVIOURS:
            try:
                await self.run(name)
            except Exception as error:
                error.add_note(f"behaviour: {name}")
                raise


class Bench:
    """What a behaviour is given: a ``buffer`` over an empty store, a clock, and runs to work with.

    ``ttl`` is a lease's time in seconds that is long enough to work in, and short enough to wait for.
    """

    def __init__(
        self, buffer: EventBuffer, another: AnotherView | None, advance: Advance | None, ttl: float
    ) -> None:
        self.buffer = buffer
        self.ttl = ttl
        self._another = another
        self._advance = advance

    async def advance(self, seconds: float) -> None:
        """Let time pass in the store."""
        if self._advance is None:
            await anyio.sleep(seconds)
        else:
            await self._advance(self.buffer, seconds)

    @contextlib.asynccontextmanager
    async def another(self) -> AsyncIterator[EventBuffer]:
        """Give another process's view of the store; the same buffer where it is the only one that there can
        be."""
        if self._another is None:
            yield self.buffer
        else:
            async with self._another(self.buffer) as buffer:
                yield buffer

    def new_run(self, **changes: Any) -> NewRun:
        """Return a run that is not stored yet, with new ids where ``changes`` names none."""
        token = secrets.token_hex(6)
        run_id = changes.get("run_id", f"run-{token}")
        started = json.dumps({"type": "run_started", "run_id": run_id}).encode()
        run = NewRun(run_id, f"conversation-{token}", f"message-{token}", NewEvent("run_started", started))
        return replace(run, **changes)

    async def created(self, **changes: Any) -> NewRun:
        """Create a run."""
        run = self.new_run(**changes)
        made = await self.buffer.create(run)
        assert made.new, f"a new run {run.run_id} was taken for a known one"
        return run

    async def held(self, worker: str = "worker-1", **changes: Any) -> Lease:
        """Create a run and claim it."""
        run = await self.created(**changes)
        return await self.claimed(run.run_id, worker)

    async def claimed(self, run_id: str, worker: str = "worker-1") -> Lease:
        """Claim a run that is to be had."""
        claim = await self.buffer.claim(worker, self.ttl, run_id)
        assert claim is not None, f"run {run_id} cannot be claimed: {await self.buffer.get(run_id)}"
        return claim.lease

    async def texts(self, run_id: str, after: int = 0) -> list[str]:
        """Return the texts of all deltas behind ``after``."""
        page = await self.buffer.read(run_id, after)
        return [json.loads(event.data)["text"] for event in page.events if event.type == "text_delta"]


def deltas(*texts: str) -> list[NewEvent]:
    """Return a ``text_delta`` for each text."""
    return [_event("text_delta", step=1, part=0, text=text) for text in texts]


def suspended() -> list[NewEvent]:
    """Return the event before a run is suspended."""
    return [_event("suspended", waits=[{"kind": "approval", "call_id": "call-1"}])]


def ending(status: str = "success") -> list[NewEvent]:
    """Return the events that end a run."""
    return [_event("message_completed", content=[]), _event("finalized", status=status)]


def message(run: NewRun, **changes: Any) -> MessageRecord:
    """Return a user's message in the run's conversation."""
    token = secrets.token_hex(6)
    record = MessageRecord(f"message-{token}", run.conversation_id, "user", "complete", b'[{"type":"text"}]')
    return replace(record, **changes)


def _event(event_type: str, **fields: Any) -> NewEvent:
    return NewEvent(event_type, json.dumps({"type": event_type, **fields}).encode())


class Refusal:
    """What `refused` gives: the ``error``, once it was raised."""

    error: StreamChatError


@contextlib.contextmanager
def refused(*kinds: type[StreamChatError]) -> Iterator[Refusal]:
    """Expect the block to raise one of these errors."""
    refusal = Refusal()
    try:
        yield refusal
    except kinds as error:
        refusal.error = error
    else:
        raise AssertionError(f"nothing was refused; expected {', '.join(kind.__name__ for kind in kinds)}")
