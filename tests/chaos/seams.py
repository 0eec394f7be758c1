"""Where a worker may be killed, and what it was told: seams around the buffer, the model and the tools.

A kill point is a name and a number: at the n-th time that the worker comes by, it ends itself with SIGKILL.
The names are in `POINTS`; ``append.before`` and ``append.after`` are followed by the kind of the batch, which
is the most important type of event in it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from streamchat.buffers.base import Appended, Claim, Created, EventBuffer, Lease, NewEvent
from streamchat.errors import LeaseLost
from streamchat.models.base import CallDelta, Model, ModelOutput, ModelRequest
from tests.chaos.ledger import Ledger, digest

__all__ = ["BATCHES", "POINTS", "KillPoints", "WatchedBuffer", "WatchedModel", "kind_of_batch"]

BATCHES = (
    "finalized",
    "suspended",
    "tool_started",
    "tool_result",
    "model_completed",
    "run_resumed",
    "tool_progress",
    "tool_call_delta",
    "text_delta",
)
"""The kinds of batches, the most important first; a batch of none of these is ``other``."""

POINTS = (
    "create.before",
    "create.after",
    "claim.before",
    "claim.commit",
    "claim.after",
    *(f"append.before:{kind}" for kind in BATCHES if kind != "suspended"),
    *(f"append.commit:{kind}" for kind in ("tool_started", "tool_result", "finalized")),
    *(f"append.after:{kind}" for kind in BATCHES if kind != "suspended"),
    "model.between_calls",
    "tool.before_effect",
    "tool.after_effect",
    "tool.before_return",
    "renew.before",
    "renew.after",
)
"""Where a worker can be told to die. ``commit`` is inside of the transaction, just before it is committed;
only some stores have that seam (see `tests.chaos.commits`)."""


class KillPoints:
    """Counts how often each point is passed; ``spec`` is ``name@n``, or None where nobody is to die."""

    def __init__(self, spec: str | None = None) -> None:
        name, _, number = (spec or "").partition("@")
        if name and name not in POINTS:
            raise ValueError(f"{name!r} is not a kill point: {', '.join(POINTS)}")
        self._name = name
        self._number = int(number or 1)
        self._passed: Counter[str] = Counter()

    def hit(self, name: str) -> None:
        """Come by; does not return where this is the place and the time."""
        if name == self._name:
            self._passed[name] += 1
            if self._passed[name] == self._number:
                os.kill(os.getpid(), signal.SIGKILL)


def kind_of_batch(events: Sequence[NewEvent]) -> str:
    """Return the kind of a batch, one of `BATCHES` or ``other``."""
    types = {event.type for event in events}
    return next((kind for kind in BATCHES if kind in types), "other")


class WatchedBuffer:
    """Passes all on to another buffer, and writes down what that acknowledged, after it did."""

    def __init__(self, inner: EventBuffer, acknowledged: Ledger, points: KillPoints) -> None:
        self._inner = inner
        self._acknowledged = acknowledged
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def open(self) -> WatchedBuffer:
        await self._inner.open()
        return self

    async def create(self, run: Any, *rest: Any, **more: Any) -> Created:
        self._points.hit("create.before")
        created = await self._inner.create(run, *rest, **more)
        self._points.hit("create.after")
        self._acknowledged.write("created", run=created.run.run_id, new=created.new)
        return created

    async def claim(self, worker: str, ttl: float, run_id: str | None = None, **more: Any) -> Claim | None:
        self._points.hit("claim.before")
        claim = await self._inner.claim(worker, ttl, run_id, **more)
        if claim is not None:
            self._points.hit("claim.after")
            lease = claim.lease
            self._acknowledged.write(
                "claimed",
                run=lease.run_id,
                generation=lease.generation,
                head=lease.head_seq,
                fence=lease.fence,
                was=claim.was,
            )
        return claim

    async def append(self, lease: Lease, events: Sequence[NewEvent], **more: Any) -> Appended:
        kind = kind_of_batch(events)
        self._points.hit(f"append.before:{kind}")
        try:
            appended = await self._inner.append(lease, events, **more)
        except LeaseLost:
            self._acknowledged.write(
                "refused", run=lease.run_id, generation=lease.generation, head=lease.head_seq
            )
            raise
        self._points.hit(f"append.after:{kind}")
        self._acknowledged.write(
            "appended",
            run=lease.run_id,
            generation=lease.generation,
            head=lease.head_seq,
            count=len(events),
            digest=digest((event.type, event.data) for event in events),
            recovered=appended.recovered,
            then=more.get("then", "hold"),
        )
        return appended

    async def renew(self, lease: Lease, ttl: float) -> Lease:
        self._points.hit("renew.before")
        try:
            renewed = await self._inner.renew(lease, ttl)
        except LeaseLost:
            self._acknowledged.write(
                "refused", run=lease.run_id, generation=lease.generation, head=lease.head_seq
            )
            raise
        self._points.hit("renew.after")
        return renewed


class WatchedModel:
    """Passes all on to another model, and comes by a kill point where a second call begins."""

    def __init__(self, inner: Model, points: KillPoints) -> None:
        self._inner = inner
        self._points = points

    @property
    def name(self) -> str:
        return self._inner.name

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        calls: set[int] = set()
        async with aclosing(self._inner.stream(request)) as batches:
            async for batch in batches:
                for output in batch:
                    if isinstance(output, CallDelta) and output.part not in calls:
                        calls.add(output.part)
                        if len(calls) == 2:
                            self._points.hit("model.between_calls")
                yield batch
