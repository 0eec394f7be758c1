"""What must hold in every state: the promises that can be seen without knowing how it came about."""

from __future__ import annotations

from streamchat.errors import IllegalEvent
from tests.protocol.model import Model
from tests.protocol.rules import enqueued
from tests.protocol.script import amounts_to, concluded, is_legal
from tests.protocol.state import ENDED, LATER, NOW, Batch, Row, Sent, State, Store, Violation

__all__ = ["PROMISES", "Invariants"]

PROMISES = (
    ("a holder writes nothing after another has claimed", "at each append"),
    ("one id (generation and seq) never stands for two events", "at each append, over failovers"),
    ("what was acknowledged is stored, and stays", "at each acknowledgement; the log only grows"),
    ("a reader that goes on holds a prefix of the log", "at each read"),
    ("a reader is reset only when something that it has, or needs, is gone", "at each read"),
    ("the message of a run that is over can be shown, also after a trim", "at each read"),
    ("nobody claims a run under another's unexpired lease", "at each claim"),
    ("a tool that is not idempotent runs at most once", "at each run of it, barring a lossy failover"),
    ("a run that ended stays ended, with one `finalized`, last", "at each transaction, and in each state"),
    ("each log is one that the table of orders allows", "in each state"),
    ("no run sleeps while an input of its is unread", "in each state"),
    ("an answer that was consumed stands in the log", "in each state"),
    ("a run that is not over holds the conversation's slot, unless it gave it up or waits for it; one that "
     "is over does not", "in each state"),
    ("nobody waits for a slot that is free, or that a later one has; who waits and is cancelled is ended",
     "in each state"),
    ("each run that is not over can be claimed in the end, and concluded", "in each state"),
)  # fmt: skip
"""What is checked, and when."""

_SAYS = {"approval": "approval_resolved", "job_result": "job_result", "cancel": "cancelled"}


class Invariants:
    """Checks states of one model. What hangs on a run alone is checked once for each row."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._good: set[Row] = set()

    def check(self, state: State) -> None:
        """Raise `Violation` where a promise does not hold."""
        store = state.store
        for run, row in enumerate(store.rows):
            if self._model.world.enqueues and enqueued(row):
                self._check_turn(store, run)
            elif not row.over and not row.gave_slot and store.slot != run:
                raise Violation("a run that is not over has lost the conversation's slot")
            if row.over and store.slot == run:
                raise Violation("a run that is over holds the conversation's slot")
            if row not in self._good:
                self._check(row, run)
                self._good.add(row)

    def _check_turn(self, store: Store, run: int) -> None:
        if store.slot is None:
            raise Violation("a run waits for a slot that is free")
        if store.slot > run:
            raise Violation("a later run has the slot for which an earlier one waits")
        if any(given.kind == "cancel" and not given.consumed for given in store.rows[run].inputs):
            raise Violation("a run that was cancelled waits on")

    def _check(self, row: Row, run: int) -> None:
        try:
            is_legal(row.log)
        except IllegalEvent as error:
            raise Violation("events stand in an order that the table forbids") from error
        ends = [entry.type for entry in row.log].count("finalized")
        if ends != int(row.over) or (ends and row.log[-1].type != "finalized"):
            raise Violation("a run is over if and only if its log ends with one `finalized`")
        unread = any(not given.consumed for given in row.inputs)
        if row.status == "suspended" and unread and row.ready is None:
            raise Violation("a run sleeps for ever, though its answer is there")
        waits = self._model.world.enqueues and enqueued(row)
        if row.ready is None and row.status == "queued" and not waits:
            raise Violation("a run is queued, and nobody will find it")
        said = {entry.type for entry in row.log}
        for given in row.inputs:
            if given.consumed and _SAYS[given.kind] not in said and "cancelled" not in said:
                raise Violation(f"an answer was consumed and is lost: {given.kind}")
        if not row.over and not waits:
            self._check_that_it_can_end(row, run)

    def _check_that_it_can_end(self, row: Row, run: int) -> None:
        """Let all die, all times run out, all answers come: then somebody must be able to end the run."""
        store = self._model.store
        row = row._replace(lease=None if row.lease is None else NOW, ready=None if row.ready is None else NOW)
        if not store.claimable(row):
            waits = {wait.kind for wait in amounts_to(row.log).waits}
            for kind in sorted("job_result" if wait == "job" else wait for wait in waits):
                body = "ok" if kind == "job_result" else "yes"
                row, _ = store.post(row, kind, body)
        if not store.claimable(row):
            raise Violation(f"a run that is {row.status} can never be claimed again")
        row, held = store.claim(row, run, LATER + 1_000_000)
        names = tuple(given.kind for given in row.inputs if not given.consumed)
        batch = Batch(concluded(row.log, "w", False), "over", consumed=names)
        sent = Sent(held.number, 0, held.generation, held.fence, held.head, batch)
        after, answer = store.append(Store((row,), 0), sent)
        if answer != "written" or after.rows[0].status not in ENDED:
            raise Violation(f"a run that was claimed cannot be ended ({answer})")
