"""The protocol of the design's section 8 as a state machine: what may happen next.

Each action is one transaction of a store, one step of a holder, or one thing that goes wrong. A worker that
is killed, or stopped for long, is one that takes no further step, which any worker may do at any time; so a
state in which it comes back is always there as well. What must never
come of it is checked on the way and in `tests.protocol.invariants`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from tests.protocol.rules import Rules
from tests.protocol.script import next_batches
from tests.protocol.state import (
    LATER,
    NOW,
    Batch,
    Entry,
    Given,
    Held,
    Left,
    Lost,
    Reader,
    Sent,
    State,
    Store,
    Violation,
)
from tests.protocol.store import Transactions, consumed, put

__all__ = ["Model", "Step", "Words", "World"]

Words: TypeAlias = tuple[object, ...]


class Step(NamedTuple):
    """What was done, in words and values, and the state after it.

    ``call`` is what was asked of the store (an operation's name and what it was given), and ``answer`` what
    it said, so that a real store can be asked the same (`tests.protocol.replay`).
    """

    words: Words
    state: State
    call: tuple[Any, ...] = ()
    answer: str = ""


LET_GO = Batch((), "queue")


@dataclass(frozen=True)
class World:
    """The bounds of one exploration: what is tried, by how many, how often it may go wrong.

    ``script``: what an answer consists of (``text``, a tool's name, or ``job``); ``texts`` how many deltas it
    has at most. ``expires``: waits wake the run after some time.
    ``piecewise``: readers may take one event at a time. ``posts`` (run, kind, body) and ``creates``
    (keys) are what clients send, each once or again; with ``enqueues`` a run may wait for its turn.
    """

    name: str
    about: str
    script: str = "text"
    texts: int = 1
    approve: bool = False
    expires: bool = False
    idempotent: bool = False
    readers: int = 0
    piecewise: bool = False
    posts: tuple[tuple[int, str, str], ...] = ()
    creates: tuple[int, ...] = ()
    enqueues: bool = False
    left: Left = field(default_factory=Left)


class Model:
    """One world under one set of rules."""

    def __init__(self, world: World, rules: Rules | None = None) -> None:
        self.world = world
        self.rules = rules or Rules()
        self.store = Transactions(self.rules)

    def start(self) -> State:
        """Before anything has happened: one run that waits, or none where clients create them."""
        world = self.world
        store = Store(()) if world.creates else self.store.create(Store(()), 0, "0")
        assert store is not None
        readers = (Reader(0),) * world.readers
        return State(store, world.left, readers=readers, effects=(0,) * max(1, len(world.creates)), tokens=1)

    def steps(self, state: State) -> Iterator[Step]:
        """Yield all that may happen next; raises `Violation` where that breaks a promise on the way."""
        yield from self._clients(state)
        yield from self._claims(state)
        for held in state.holders:
            yield from self._holder(state, held)
        yield from self._time(state)
        yield from self._readers(state)
        yield from self._trouble(state)

    def lossy(self, state: State) -> bool:
        """Whether a failover has lost something: some promises are given but for that."""
        return state.left.failovers < self.world.left.failovers

    # ------------------------------------------------------------------------------------------- clients

    def _clients(self, state: State) -> Iterator[Step]:
        store = state.store
        for key in self.world.creates:
            made = self.store.create(store, key, str(state.tokens), enqueue=self.world.enqueues)
            if made is not None:
                after = state._replace(store=made, tokens=state.tokens + 1)
                run = len(store.rows)
                yield Step(("a client creates run", run), after, ("create", run, made.rows[run].generation))
        for run, kind, body in self.world.posts:
            if run < len(store.rows) and _asked(state, run, kind):
                yield from self._post(state, run, kind, body)
        for run, kind, body, looked in state.posting:
            row = store.rows[run]
            row = self.store.woken(row, kind) if looked == "suspended" else row
            row = row._replace(inputs=(*row.inputs, Given(kind, body)))
            did = ("the post of", kind, "is stored, by what it saw before")
            yield Step(did, state._replace(store=put(store, run, row), posting=()))

    def _post(self, state: State, run: int, kind: str, body: str) -> Iterator[Step]:
        row = state.store.rows[run]
        after, heard = self.store.post(row, kind, body)
        if heard != "new":
            return
        if self.rules.posts_in_one_transaction:
            store = put(state.store, run, after)
            call = ("post", run, kind, body)
            yield Step(("a client posts", kind, body), state._replace(store=store), call, heard)
        elif not state.posting:
            did = ("a post of", kind, body, "begins: the run is", row.status)
            yield Step(did, state._replace(posting=((run, kind, body, row.status),)))

    # -------------------------------------------------------------------------------------------- claims

    def _claims(self, state: State) -> Iterator[Step]:
        if not state.left.claims:
            return
        for run, row in enumerate(state.store.rows):
            if not self.store.claimable(row):
                continue
            number = state.tokens
            did = (*_worker(number), f"claims run {run}, whose head is", len(row.log))
            with done(did):
                after, held = self.store.claim(row, run, number)
                if row.held and row.lease == LATER:
                    raise Violation("a run is claimed while another's lease on it has not run out")
            claimed = state._replace(
                store=put(state.store, run, after),
                holders=(*state.holders, held),
                tokens=number + 1,
                left=state.left._replace(claims=state.left.claims - 1),
            )
            yield Step(did, claimed, ("claim", run, number, held.generation))

    # ------------------------------------------------------------------------------------------- holders

    def _holder(self, state: State, held: Held) -> Iterator[Step]:
        who = _worker(held.number)
        if held.frozen is not None:
            again = self.rules.resent(held.frozen)
            yield from self._send(state, held, again, (*who, "sends again", said(again)))
            if held.frozen != LET_GO:
                yield from self._release(state, held, who)
        elif held.must_let_go:
            yield from self._send(state, held, LET_GO, (*who, "lets go"))
        else:
            yield from self._go_on(state, held, who)
        if held.task == "due":
            did = (*who, "runs the tool")
            ran = tuple(n + (run == held.run) for run, n in enumerate(state.effects))
            with done(did):
                if not self.world.idempotent and ran[held.run] > 1 and not self.lossy(state):
                    raise Violation("a tool that is not idempotent has run twice")
            yield Step(did, _holds(state._replace(effects=ran), held, held._replace(task="done")))

    def _go_on(self, state: State, held: Held, who: Words) -> Iterator[Step]:
        rows = state.store.rows
        inputs = rows[held.run].inputs if held.run < len(rows) else ()
        unread = tuple((given.kind, given.body) for given in inputs if not given.consumed)
        batches = dict.fromkeys(self._next(held, ()))
        if unread:
            batches |= dict.fromkeys(self._next(held, unread))
        for batch in batches:
            if batch.consumed and not self.rules.consumes_in_one_transaction:
                yield self._consumes_apart(state, held, batch, who)
            else:
                yield from self._send(state, held, batch, (*who, "sends", said(batch)))
        yield from self._release(state, held, who)
        if state.left.renewals:
            left = state.left._replace(renewals=state.left.renewals - 1)
            yield self._renew(state._replace(left=left), held, who)

    def _release(self, state: State, held: Held, who: Words) -> Iterator[Step]:
        """As at a shutdown, whatever became of the batch that was sent last."""
        if state.left.releases:
            left = state.left._replace(releases=state.left.releases - 1)
            yield from self._send(state._replace(left=left), held, LET_GO, (*who, "lets go"))

    def _next(self, held: Held, unread: tuple[tuple[str, str], ...]) -> list[Batch]:
        world, rules = self.world, self.rules
        return next_batches(
            held.view,
            began=len(held.view) > held.claimed_at,
            worker=f"w{held.number}",
            unread=unread,
            task=held.task,
            script=world.script,
            texts=world.texts,
            approve=world.approve,
            expires=world.expires,
            again=lambda started: rules.next_move(
                started=started, known=True, fits=True, idempotent=world.idempotent
            ),
        )

    def _consumes_apart(self, state: State, held: Held, batch: Batch, who: Words) -> Step:
        """Only under a mutation: the inputs are marked first, what they said is written by another append."""
        store = state.store
        row = consumed(store.rows[held.run], batch.consumed)
        after = held._replace(frozen=batch._replace(consumed=()))
        did = (*who, "marks as read:", " ".join(batch.consumed))
        return Step(did, _holds(state._replace(store=put(store, held.run, row)), held, after))

    def _renew(self, state: State, held: Held, who: Words) -> Step:
        sent = _sent(held, Batch(()))
        rows = state.store.rows
        if held.run >= len(rows) or self.rules.judge(rows[held.run], sent) != "write":
            did = (*who, "renews its lease (lease lost)")
            return Step(did, _holds(state, held, None), ("renew", sent), "lease lost")
        store = put(state.store, held.run, rows[held.run]._replace(lease=LATER))
        return Step((*who, "renews its lease"), state._replace(store=store), ("renew", sent), "written")

    # ------------------------------------------------------------------------------------------- appends

    def _send(self, state: State, held: Held, batch: Batch, did: Words) -> Iterator[Step]:
        """The fates of an append: answered; done, but its answer is lost; for long on its way."""
        sent, left = _sent(held, batch), state.left
        unknown = held._replace(frozen=batch, unsure=True)
        if _starts(batch) and "tool_started" not in self.rules.barriers and not held.task:
            # Nothing holds the tool back while its start is on its way.
            ahead = unknown._replace(task="due")
            yield Step((*did, "and does not wait for it"), _holds(state, held, ahead))
        with done(did):
            store, answer = self.store.append(state.store, sent, state.lost)
            after = self._answered(state._replace(store=store), held, batch, answer)
        call = ("append", sent)
        yield Step((*did, f"({answer})"), after, call, answer)
        if left.unacknowledged:
            fewer = left._replace(unacknowledged=left.unacknowledged - 1)
            after = _holds(state._replace(store=store, left=fewer), held, unknown)
            yield Step((*did, f"({answer}, but the answer is lost)"), after, call, answer)
        if left.late:
            late = state._replace(left=left._replace(late=left.late - 1), late=(*state.late, sent))
            yield Step((*did, "(it hangs on the way)"), _holds(late, held, unknown))

    def _answered(self, state: State, held: Held, batch: Batch, answer: str) -> State:
        """What a holder makes of the answer."""
        if answer == "lease lost":
            return _holds(state, held, None)
        if answer == "inputs pending":
            lets_go = held.unsure and not self.rules.a_refusal_settles_all
            return _holds(state, held, held._replace(frozen=None, unsure=False, must_let_go=lets_go))
        head = held.head + len(batch.events)
        entries = tuple(Entry(held.generation, *event) for event in batch.events)
        if state.store.rows[held.run].log[held.head : head] != entries:
            raise Violation("what was acknowledged is not what is stored")
        if batch.then != "hold":
            return _holds(state, held, None)
        task = held.task
        if _starts(batch) and not task:
            task = "due"
        elif any(entry.type == "tool_result" for entry in entries):
            task = ""
        view = held.view + entries
        return _holds(state, held, held._replace(head=head, view=view, frozen=None, unsure=False, task=task))

    # ---------------------------------------------------------------------------------------------- time

    def _time(self, state: State) -> Iterator[Step]:
        store = state.store
        for run, row in enumerate(store.rows):
            if row.lease == LATER:
                after = put(store, run, row._replace(lease=NOW))
                did = ("the lease on run", run, "runs out")
                yield Step(did, state._replace(store=after), ("time",))
            if row.status == "suspended" and row.ready == LATER:
                after = put(store, run, row._replace(ready=NOW))
                did = ("the wait of run", run, "runs out")
                yield Step(did, state._replace(store=after), ("time",))
            if row.over and state.left.trims and row.first_seq < self.rules.trims_to(row):
                first = self.rules.trims_to(row)
                left = state.left._replace(trims=state.left.trims - 1)
                after = put(store, run, row._replace(first_seq=first))
                words = ("run", run, "is trimmed: it begins at seq", first)
                yield Step(words, state._replace(store=after, left=left), ("trim",))

    # ------------------------------------------------------------------------------------------- readers

    def _readers(self, state: State) -> Iterator[Step]:
        rows = state.store.rows
        for reader in dict.fromkeys(state.readers):
            if reader.run >= len(rows):
                continue
            row = rows[reader.run]
            for limit in {1, len(row.log)} if self.world.piecewise else (len(row.log),):
                who = ("a reader with", f"cursor {_cursor(reader)}" if reader.kept else "no cursor")
                with done((*who, "reads")):
                    came_to, after = self.store.read(row, reader, limit)
                if after != reader:
                    readers = list(state.readers)
                    readers[readers.index(reader)] = after
                    reached = state._replace(readers=tuple(sorted(readers)))
                    yield Step((*who, came_to), reached, ("read", reader, limit), came_to)

    # ------------------------------------------------------------------------------------------- trouble

    def _trouble(self, state: State) -> Iterator[Step]:
        for sent in state.late:
            did = ("what", *_worker(sent.number), "sent arrives after all")
            with done(did):
                store, answer = self.store.append(state.store, sent, state.lost)
            reached = state._replace(store=store, late=())
            yield Step((*did, f"({answer})"), reached, ("append", sent), answer)
        if state.left.failovers:
            if state.replica is None:
                yield Step(("a replica has got this far",), state._replace(replica=state.store), ("save",))
            elif state.replica != state.store:
                did = ("the store is lost, the replica takes its place",)
                yield Step(did, self._fail_over(state), ("fail over",))

    def _fail_over(self, state: State) -> State:
        store = state.replica
        assert store is not None
        lost = set(state.lost)
        for run, row in enumerate(state.store.rows):
            kept = store.rows[run].log if run < len(store.rows) else ()
            lost |= {
                Lost(seq, entry) for seq, entry in enumerate(row.log, 1) if kept[seq - 1 : seq] != (entry,)
            }
        if not self.rules.segments_are_kept:
            rows = tuple(row._replace(segments=((row.generation, 1),)) for row in store.rows)
            store = store._replace(rows=rows)
        left = state.left._replace(failovers=state.left.failovers - 1)
        return state._replace(store=store, replica=None, lost=frozenset(lost), left=left)


@contextmanager
def done(words: Words) -> Iterator[None]:
    """Tell a violation what was done when it came about."""
    try:
        yield
    except Violation as violation:
        violation.words = words
        raise


@cache
def said(batch: Batch) -> str:
    """A batch in words."""
    words = " + ".join(f"{e.type} {e.says}".strip() for e in batch.events)
    return f"[{words or 'nothing'}]" + ("" if batch.then == "hold" else f" then {batch.then}")


def _asked(state: State, run: int, kind: str) -> bool:
    """Whether a client may know of what it answers: it is in the log, or was before a failover."""
    asks = {"approval": "approval_requested", "job_result": "tool_started"}.get(kind, "run_started")
    return any(entry.type == asks for entry in state.store.rows[run].log) or any(
        gone.entry.type == asks for gone in state.lost
    )


def _cursor(reader: Reader) -> str:
    return f"{reader.kept[-1].generation[8:]}.{len(reader.kept)}"


def _worker(number: int) -> Words:
    return ("worker", number)


def _starts(batch: Batch) -> bool:
    return bool(batch.events) and batch.events[-1].type == "tool_started"


def _sent(held: Held, batch: Batch) -> Sent:
    return Sent(held.number, held.run, held.generation, held.fence, held.head, batch)


def _holds(state: State, before: Held, after: Held | None) -> State:
    """The state with another holder in the place of one, or with none."""
    changed = (after if held is before else held for held in state.holders)
    return state._replace(holders=tuple(held for held in changed if held is not None))
