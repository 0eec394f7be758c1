"""The decisions that the model asks for: the library's functions, each of which a mutation can replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from streamchat.core.append_rule import (
    Decision,
    Entrance,
    Reception,
    SlotMove,
    Then,
    blocked_by_inputs,
    claimable_since,
    decide_entrance,
    decide_post,
    final_status,
    is_enqueued,
    judge_append,
    ready_at,
    slot_after,
    status_after_append,
    status_after_post,
    wakes,
)
from streamchat.core.cursor import Cursor, Position, Reset, next_generation, resolve
from streamchat.core.lifecycle import BARRIERS
from streamchat.core.next_move import Move, next_move
from streamchat.events import encode_event
from tests.protocol.script import real
from tests.protocol.state import Batch, Ev, Row, Sent

__all__ = ["Rules", "by_generation_and_head", "enqueued", "payload"]


@dataclass(frozen=True, slots=True)
class _Payload:
    type: str
    data: bytes
    private: bytes | None


@cache
def payload(kind: str, says: str) -> _Payload:
    """The bytes of an event, as a buffer gets them."""
    data, private = encode_event(real(kind, says))
    return _Payload(kind, data, private)


def by_generation_and_head(row: Row, sent: Sent) -> Decision:
    """The rule on appending, asked as a store asks it."""
    batch = sent.batch
    return judge_append(
        stored_generation=row.generation,
        stored_head=len(row.log),
        stored_held=row.held,
        lease_generation=sent.generation,
        lease_head=sent.head,
        events=[payload(*event) for event in batch.events] if batch.events else (),
        keeps=batch.then == "hold",
        written=lambda: [payload(entry.type, entry.says) for entry in row.log[sent.head :]],
    )


@cache
def _status_after(batch: Batch) -> str:
    types = [event.type for event in batch.events]
    return status_after_append(batch.then, types) or final_status(payload(*batch.events[-1]).data)


def _last_batch(row: Row) -> int:
    return row.batch_seq


def _free(slot: int | None, run: int) -> int | None:
    return None if slot == run else slot


def enqueued(row: Row) -> bool:
    """Whether a run stands behind others of its conversation."""
    return is_enqueued(row.status, queued_at=row.ready)


def _oldest_enqueued(rows: Sequence[Row]) -> int | None:
    return next((run for run, row in enumerate(rows) if enqueued(row)), None)


@dataclass(frozen=True)
class Rules:
    """What decides. The functions are the library's; the flags are what its transactions and holders do."""

    judge: Callable[[Row, Sent], Decision] = by_generation_and_head
    status_after: Callable[[Batch], str] = _status_after
    blocked: Callable[[Then, int], bool] = blocked_by_inputs
    ready_at: Callable[..., int | None] = ready_at
    slot_after: Callable[..., SlotMove | None] = slot_after
    free: Callable[[int | None, int], int | None] = _free
    enter: Callable[..., Entrance] = decide_entrance
    following: Callable[[Sequence[Row]], int | None] = _oldest_enqueued
    wakes: Callable[..., bool] = wakes
    claimable: Callable[..., int | None] = claimable_since
    next_generation: Callable[[str, str, str], str] = lambda first, newest, token: next_generation(
        first, token
    )
    receive: Callable[..., Reception] = decide_post
    status_after_post: Callable[[str], str] = status_after_post
    resolve: Callable[[Cursor | None, Sequence[tuple[str, int]], int, int], Position | Reset] = resolve
    barriers: frozenset[str] = BARRIERS
    next_move: Callable[..., Move] = next_move
    trims_to: Callable[[Row], int] = _last_batch
    resent: Callable[[Batch], Batch] = field(default=lambda batch: batch)
    """What is sent where the fate of a batch is unknown."""

    a_refusal_settles_all: bool = False
    claims_begin_a_segment: bool = True
    segments_are_kept: bool = True
    posts_in_one_transaction: bool = True
    consumes_in_one_transaction: bool = True
    trims_are_recorded: bool = True


def changed(batch: Batch) -> Batch:
    """The batch with another text, as a model that is asked again gives it."""
    return batch._replace(
        events=tuple(Ev(e.type, e.says + "'") if e.type == "text_delta" else e for e in batch.events)
    )
