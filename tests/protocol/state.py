"""The words of the protocol model: what is stored, who holds it, who reads it, as hashable tuples.

Time has two values. A lease, or a wait, ends either at `LATER` or at `NOW`, and the store's clock always
says `NOW`; an action lets it run out.
"""

from __future__ import annotations

from typing import NamedTuple

from streamchat.core.append_rule import Then

__all__ = [
    "ENDED",
    "LATER",
    "NOW",
    "Batch",
    "Entry",
    "Ev",
    "Given",
    "Held",
    "Left",
    "Lost",
    "Reader",
    "Row",
    "Sent",
    "State",
    "Store",
    "Violation",
]

NOW, LATER = 0, 1
ENDED = frozenset({"success", "error", "cancelled"})


class Ev(NamedTuple):
    """An event: its type, and what it says, in a word."""

    type: str
    says: str = ""


class Entry(NamedTuple):
    """An event in the log, under the generation that wrote it; its seq is its place."""

    generation: str
    type: str
    says: str


class Batch(NamedTuple):
    """What one append carries."""

    events: tuple[Ev, ...]
    then: Then = "hold"
    consumed: tuple[str, ...] = ()
    keep_slot: bool = True
    wakes: bool = False


class Given(NamedTuple):
    """An input in a run's inbox."""

    kind: str
    body: str
    consumed: bool = False


class Row(NamedTuple):
    """A run as stored. ``by`` (the number of the newest claim) only serves the invariants."""

    key: int
    status: str
    generation: str
    fence: int
    held: bool
    lease: int | None
    ready: int | None
    log: tuple[Entry, ...]
    first_seq: int
    batch_seq: int
    segments: tuple[tuple[str, int], ...]
    inputs: tuple[Given, ...] = ()
    gave_slot: bool = False
    by: int = 0

    @property
    def over(self) -> bool:
        return self.status in ENDED


class Store(NamedTuple):
    """All that a transaction may touch, and that a failover sets back: runs, and the conversation's slot."""

    rows: tuple[Row, ...]
    slot: int | None = None


class Held(NamedTuple):
    """A worker with a lease, as it knows itself.

    ``frozen`` is the batch that it has sent and knows nothing of; ``unsure`` says that one try of it may have
    been written. ``task`` is a tool call at work in this process: ``due`` to begin, or ``done``.
    """

    number: int
    run: int
    generation: str
    fence: int
    head: int
    view: tuple[Entry, ...]
    claimed_at: int = 0
    frozen: Batch | None = None
    unsure: bool = False
    must_let_go: bool = False
    task: str = ""


class Sent(NamedTuple):
    """An append on its way: by whom, under which lease, and what."""

    number: int
    run: int
    generation: str
    fence: int
    head: int
    batch: Batch


class Lost(NamedTuple):
    """An event that a failover took away, and that somebody may have read."""

    seq: int
    entry: Entry


class Reader(NamedTuple):
    """A client: what it has, in order; all that it needs to go on is the last one's id."""

    run: int
    kept: tuple[Entry, ...] = ()


class Left(NamedTuple):
    """How often each thing that goes wrong may still happen, and each thing that would never end."""

    claims: int = 0
    unacknowledged: int = 0
    late: int = 0
    renewals: int = 0
    releases: int = 0
    failovers: int = 0
    trims: int = 0


class State(NamedTuple):
    """Everything at one moment. ``effects`` counts what tools did outside the store, by run."""

    store: Store
    left: Left
    holders: tuple[Held, ...] = ()
    readers: tuple[Reader, ...] = ()
    late: tuple[Sent, ...] = ()
    replica: Store | None = None
    lost: frozenset[Lost] = frozenset()
    effects: tuple[int, ...] = ()
    posting: tuple[tuple[int, str, str, str], ...] = ()
    tokens: int = 0


class Violation(AssertionError):
    """A promise that does not hold; ``words`` say what was done when it broke."""

    words: tuple[object, ...] = ()
