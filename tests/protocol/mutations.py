"""Each rule of the protocol taken away, one at a time: what then goes wrong, and where it is looked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamchat.core.append_rule import (
    Decision,
    SlotMove,
    Then,
    claimable_since,
    decide_append,
    slot_after,
)
from streamchat.core.cursor import Cursor, Position, next_generation
from streamchat.core.lifecycle import BARRIERS
from tests.protocol.model import World
from tests.protocol.rules import Rules, by_generation_and_head, changed, enqueued
from tests.protocol.state import NOW, Left, Row, Sent
from tests.protocol.worlds import SMALL

__all__ = ["MUTATIONS", "SECOND_LINES", "Mutation"]


@dataclass(frozen=True)
class Mutation:
    """A rule that is taken away: its name, what stands in its place, in which world that is explored."""

    name: str
    instead: str
    world: World
    rules: Rules


def _fence_only(row: Row, sent: Sent) -> Decision:
    """The usual fencing token, by one who knows a batch that came before when they see it."""
    events = [entry[1:] for entry in row.log[max(len(row.log) - len(sent.batch.events), 0) :]]
    if row.fence != sent.fence:
        return "lost"
    if events == list(sent.batch.events) and row.held == (sent.batch.then == "hold"):
        return "recovered"
    return "write" if row.held else "lost"


def _fence_and_head(row: Row, sent: Sent) -> Decision:
    if row.fence != sent.fence:
        return "lost"
    return by_generation_and_head(row, sent._replace(generation=row.generation))


def _no_head(row: Row, sent: Sent) -> Decision:
    return "write" if row.held and row.generation == sent.generation else "lost"


def _no_comparison(row: Row, sent: Sent) -> Decision:
    return decide_append(
        stored_generation=row.generation,
        stored_head=len(row.log),
        stored_held=row.held,
        lease_generation=sent.generation,
        lease_head=sent.head,
        batch=len(sent.batch.events),
        keeps=sent.batch.then == "hold",
    )


def _newest_enqueued(rows: Sequence[Row]) -> int | None:
    return max((run for run, row in enumerate(rows) if enqueued(row)), default=None)


def _kept_at_the_end(then: Then, *, keep_slot: bool) -> SlotMove | None:
    return None if then == "over" else slot_after(then, keep_slot=keep_slot)


def _any_queued(status: str, *, now: int, **times: int | None) -> int | None:
    return now if status == "queued" else claimable_since(status, now=now, **times)  # type: ignore[arg-type]


def _never_recovered(row: Row, sent: Sent) -> Decision:
    decision = _no_comparison(row, sent)
    return "write" if decision == "write" else "lost"


def _held_or_not(row: Row, sent: Sent) -> Decision:
    return by_generation_and_head(row._replace(held=True), sent)


def _same_generation(first: str, newest: str, token: str) -> str:
    return newest or next_generation(first, token)


def _by_seq(cursor: Cursor | None, segments: object, first_seq: int, last_seq: int) -> Position:
    return Position(min(cursor.seq, last_seq) if cursor else 0)


def _any_running(status: str, *, lease_until: int | None, **times: int | None) -> int | None:
    until = NOW if status == "running" else lease_until
    return claimable_since(status, lease_until=until, **times)  # type: ignore[arg-type]


_LOG, _FAILOVER, _TOOL = SMALL["log"], SMALL["failover"], SMALL["tool"]
_APPROVAL, _CONVERSATION = SMALL["approval"], SMALL["conversation"]
_NO_TRIM = replace(_LOG, piecewise=False, left=Left(claims=2, unacknowledged=1))
_FEW = replace(_FAILOVER, texts=1, left=Left(claims=1, unacknowledged=1, failovers=1))

MUTATIONS = (
    Mutation(
        "an append names generation and head",
        "the fence number alone is compared",
        _FAILOVER,
        Rules(judge=_fence_only),
    ),
    Mutation(
        "an append names the generation",
        "the fence number and the head are compared",
        _FAILOVER,
        Rules(judge=_fence_and_head),
    ),
    Mutation(
        "an append names the head",
        "the generation alone is compared",
        _LOG,
        Rules(judge=_no_head),
    ),
    Mutation(
        "a batch that was sent is frozen",
        "another text is sent in its place",
        _FAILOVER,
        Rules(resent=changed),
    ),
    Mutation(
        "what is recovered is compared",
        "the head alone tells, and holders do not freeze their batch",
        _NO_TRIM,
        Rules(judge=_no_comparison, resent=changed),
    ),
    Mutation(
        "a refusal settles only what was never sent before",
        "after `InputsPending` for a batch of unknown fate another is sent",
        SMALL["approval, failover"],
        Rules(a_refusal_settles_all=True),
    ),
    Mutation(
        "a claim makes a new generation",
        "the generation stays",
        _LOG,
        Rules(next_generation=_same_generation),
    ),
    Mutation(
        "a lease lasts until it has run out",
        "what runs may be claimed at any time",
        _LOG,
        Rules(claimable=_any_running),
    ),
    Mutation(
        "a run that is let go is there to be taken at once",
        "nobody notes since when it waits",
        _LOG,
        Rules(ready_at=lambda then, *, now, wake_at: wake_at),
    ),
    Mutation(
        "a cursor names the generation",
        "its seq alone is looked at",
        _FAILOVER,
        Rules(resolve=_by_seq),
    ),
    Mutation(
        "segments are kept for ever",
        "a failover forgets those before the newest",
        _FAILOVER,
        Rules(segments_are_kept=False),
    ),
    Mutation(
        "a claim begins a segment",
        "only the generation changes",
        _LOG,
        Rules(claims_begin_a_segment=False),
    ),
    Mutation(
        "a trim keeps the last batch",
        "all events go",
        _LOG,
        Rules(trims_to=lambda row: len(row.log) + 1),
    ),
    Mutation(
        "a trim is recorded",
        "events go, and the log still says that it begins at 1",
        _LOG,
        Rules(trims_are_recorded=False),
    ),
    Mutation(
        "no tool runs before its start is durable",
        "`tool_started` is no barrier",
        _TOOL,
        Rules(barriers=BARRIERS - {"tool_started"}),
    ),
    Mutation(
        "what was cut off runs again only if it is idempotent",
        "whoever takes over starts it again",
        _TOOL,
        Rules(next_move=lambda **call: "start"),
    ),
    Mutation(
        "a post queues the run in its own transaction",
        "it looks at the status first, and stores the input after",
        _APPROVAL,
        Rules(posts_in_one_transaction=False),
    ),
    Mutation(
        "a post wakes who sleeps",
        "it stores the input, and no more",
        _APPROVAL,
        Rules(wakes=lambda kind, *, status, enqueued: False),
    ),
    Mutation(
        "nobody is suspended over unread inputs",
        "`suspend` does not look",
        _APPROVAL,
        Rules(blocked=lambda then, unread: False),
    ),
    Mutation(
        "an input is consumed with its event",
        "it is marked as read first",
        _APPROVAL,
        Rules(consumes_in_one_transaction=False),
    ),
    Mutation(
        "the end frees the slot",
        "it is kept",
        _LOG,
        Rules(slot_after=_kept_at_the_end),
    ),
    Mutation(
        "an end frees only its own slot",
        "it frees the conversation's, whoever has it",
        _CONVERSATION,
        Rules(free=lambda slot, run: None),
    ),
    Mutation(
        "who frees the slot gives it on",
        "it is left free, for the next who comes",
        SMALL["line"],
        Rules(following=lambda rows: None),
    ),
    Mutation(
        "the slot goes to the oldest",
        "it goes to the newest",
        SMALL["line"],
        Rules(following=_newest_enqueued),
    ),
    Mutation(
        "what is enqueued is not to be had",
        "any queued run may be claimed",
        SMALL["line"],
        Rules(claimable=_any_queued),
    ),
    Mutation(
        "a cancel takes a run out of the line",
        "it waits on until it is its turn",
        SMALL["line"],
        Rules(wakes=lambda kind, *, status, enqueued: status == "suspended"),
    ),
)
"""What the rule says, and what stands in its place: each of these breaks a promise."""

SECOND_LINES = (
    Mutation(
        "what is recovered is compared",
        "the head alone tells; it stands behind the rule that a batch is frozen, and alone nothing needs it",
        _FEW,
        Rules(judge=_no_comparison),
    ),
    Mutation(
        "a batch that was sent is frozen",
        "another text is sent; as long as the store loses nothing, the comparison refuses it",
        _NO_TRIM,
        Rules(resent=changed),
    ),
    Mutation(
        "a lost acknowledgement is recovered",
        "it is a lost lease; then only time is lost, until the run is taken over",
        _NO_TRIM,
        Rules(judge=_never_recovered),
    ),
    Mutation(
        "who has let go writes no more",
        "it is not looked at; it stands behind the rule that a holder who let go sends nothing new",
        _APPROVAL,
        Rules(judge=_held_or_not),
    ),
)
"""Rules that break no promise when they alone are taken away."""
