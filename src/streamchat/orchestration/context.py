"""What a run is about, and the handle by which others stop it and answer it: `RunContext`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from typing_extensions import TypeVar

from streamchat.core.answers import Answer
from streamchat.events import ResumeReason
from streamchat.principal import Principal

__all__ = ["RunContext"]

DepsT = TypeVar("DepsT", default=Any)


def _run_id() -> str:
    return uuid.uuid4().hex


def _now() -> int:
    return int(time.time() * 1000)


@dataclass(slots=True)
class RunContext(Generic[DepsT]):
    """One run as `orchestrate()` is told of it, in this process.

    ``deps`` is handed to tools as it is. ``resumed`` is the reason that stands in ``run_resumed`` when there
    is a history, unless the run was suspended and something woke it; None is for a holder that goes on with
    its own log, and leaves the event out where it may. ``age`` is how many seconds the run had existed when
    this context was made, and counts for its deadline. ``fence`` is that of the lease, for tools that pass it
    on.

    ``inputs`` are answers that the run has not taken yet. The generator removes one when it yields the event
    that takes it in (`streamchat.core.answers.used_by` says which those are), and those that came too late.
    After ``suspended``, all that were put in and are not there any more are done with. ``clock`` gives
    milliseconds since the epoch, by the clock that ``expires_at`` is compared with.
    """

    run_id: str = field(default_factory=_run_id)
    conversation_id: str | None = None
    message_id: str | None = None
    parent_run_id: str | None = None
    principal: Principal | None = None
    deps: DepsT = None  # type: ignore[assignment]
    fence: int = 0
    worker: str | None = None
    resumed: ResumeReason | None = "takeover"
    age: float = 0.0
    inputs: list[Answer] = field(default_factory=list)
    clock: Callable[[], int] = _now
    more: bool = False
    """True while further events follow the one just yielded without anything having been done in between.

    The generator sets it before each yield. Whoever makes events durable may then ask for the next one first,
    and write them together; whoever does not look at it is merely slower. A batch that holds a barrier
    (`streamchat.core.lifecycle.BARRIERS`) ends with one.
    """
    previous_runs: Sequence[str] | None = None
    """The runs whose answers come before this one in its conversation, oldest first; None: not known."""
    stopping: bool = field(default=False, init=False)
    stop_reason: str | None = field(default=None, init=False)
    stopped_by: str | None = field(default=None, init=False)
    interrupt: Callable[[], None] | None = field(default=None, init=False, repr=False)
    """Ends the generator's current await; set by the generator while it may be ended."""
    wake: Callable[[], None] | None = field(default=None, init=False, repr=False)
    """Makes the generator look at its inputs; set by the generator while tools are at work."""

    def answer(self, answer: Answer) -> None:
        """Give the run an answer that it waits for; it is taken as soon as the run looks.

        Call it from the event loop's own thread.
        """
        self.inputs.append(answer)
        if self.wake is not None:
            self.wake()

    def stop(self, reason: str | None = None, by: str | None = None) -> None:
        """Ask the run to end cleanly: it closes the provider's response, cancels its tools and yields the
        ending.

        Idempotent; the first reason stands. Call it from the event loop's own thread.
        """
        if self.stopping:
            return
        self.stopping, self.stop_reason, self.stopped_by = True, reason, by
        if self.interrupt is not None:
            self.interrupt()
