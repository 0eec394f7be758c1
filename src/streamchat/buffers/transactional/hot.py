"""What the inside of a transaction gives to those who append: `Transaction`, and its hot path.

What runs once per batch or page, `HotPath`, each kind of database brings itself, in as few statements as it
can; the rest of a `Transaction` is what may come along with a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from streamchat.buffers.base import Lease, MessageRecord, NewEvent, Then
from streamchat.buffers.codec import Payloads

__all__ = ["Batch", "EventRow", "Head", "HotPath", "Move", "PageRows", "Transaction"]


EventRow: TypeAlias = tuple[str, int, str, bytes, bytes | None, int]
"""An event as it is written: run_id, seq, type, data, private (both coded), at."""


class Head(NamedTuple):
    """Where a run's log is, and who holds it; ``unread`` counts inputs."""

    run_id: str
    generation: str
    head_seq: int
    owner: str | None
    unread: int
    conversation_id: str
    status: str


class Move(NamedTuple):
    """How an append changes its run: the new head, the seq at which its batch begins, the bytes that it
    adds."""

    run_id: str
    head_seq: int
    batch_seq: int
    size: int
    at: int


class PageRows(NamedTuple):
    """A page as it is stored; ``events`` are (seq, type, data, private, at), payload still coded."""

    first_seq: int
    head_seq: int
    segments: Sequence[tuple[str, int]]
    events: Sequence[tuple[int, str, bytes, bytes | None, int]]


class HotPath(Protocol):
    """What a dialect does once per batch or page, in as few statements as it can."""

    def heads(self, run_ids: Collection[str]) -> dict[str, Head]:
        """Read (and lock, where the dialect has row locks) the heads of some runs; unknown ones are left
        out."""
        ...

    def insert(self, rows: Sequence[EventRow]) -> None:
        """Write events."""
        ...

    def advance(self, moves: Sequence[Move]) -> None:
        """Move heads."""
        ...

    def page(self, run_id: str, after: int, limit: int) -> PageRows | None:
        """Read a page; None for an unknown run. May hold fewer events than ``limit`` where they are large."""
        ...


class Batch(NamedTuple):
    """What `EventBuffer.append` was given; ``status`` is the run's afterwards."""

    lease: Lease
    events: Sequence[NewEvent]
    messages: Sequence[MessageRecord]
    consumed: Sequence[str]
    then: Then
    wake_at: int | None
    keep_slot: bool
    status: str


class Transaction(Protocol):
    """A transaction under way; ``now`` is its time, milliseconds by the store's clock."""

    @property
    def hot(self) -> HotPath:
        """What is done once per batch or page."""
        ...

    @property
    def payloads(self) -> Payloads:
        """How payload is stored."""
        ...

    @property
    def now(self) -> int:
        """The transaction's time."""
        ...

    def consume(self, run_id: str, names: Sequence[str]) -> int:
        """Mark inputs (``kind:key``) as read, each once; return how many of them were not."""
        ...

    def give_up(self, head: Head, batch: Batch) -> None:
        """Write what becomes of a run whose holder lets go with this batch, and of its conversation."""
        ...

    def touch_conversation(
        self, conversation_id: str, free: str | None = None, take: str | None = None
    ) -> None:
        """Note a change of a conversation, and take the slot from the run ``free`` if that one has it: the
        oldest run that is enqueued gets it. The run ``take`` gets it if nobody has it."""
        ...

    def put_messages(self, records: Iterable[MessageRecord]) -> None:
        """Insert messages, or replace them where they stand; raises for an id of another conversation."""
        ...
