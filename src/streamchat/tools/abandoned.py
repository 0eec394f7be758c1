"""Calls that did not end when told to: kept, counted against their tool, and watched until they do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from streamchat.concurrency import LoopHandle, OwnedTask
from streamchat.tools.slots import Slots

__all__ = ["AbandonedCall", "Ending", "abandon", "abandoned", "settle"]

logger = logging.getLogger("streamchat.tools")


class Ending:
    """When something that runs in a task, in a thread or in both has really ended. Used from any thread."""

    def __init__(self, *parts: str) -> None:
        self._lock = threading.Lock()
        self._parts = set(parts)
        self._then: list[Callable[[], None]] = []

    def begin(self, part: str) -> None:
        """Note that a part runs."""
        with self._lock:
            self._parts.add(part)

    def end(self, part: str) -> None:
        """Note that a part has ended; with the last one, what waited for the end is called."""
        with self._lock:
            self._parts.discard(part)
            then = [] if self._parts else self._then
            if then:
                self._then = []
        for callback in then:
            callback()

    def then(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when all has ended: now, if it has."""
        with self._lock:
            if self._parts:
                self._then.append(callback)
                return
        callback()


@dataclass(frozen=True, slots=True, eq=False)
class AbandonedCall:
    """A call that still runs though its run went on without it. ``since`` is `time.monotonic` seconds."""

    tool: str
    run_id: str
    call_id: str
    since: float
    in_thread: bool
    loop: LoopHandle
    work: OwnedTask


_lock = threading.Lock()
_calls: set[AbandonedCall] = set()


def abandon(call: AbandonedCall, ending: Ending, slots: Slots | None) -> None:
    """Take over a call that ignores its cancellation. It holds a slot of its tool until it really ends."""
    slot = None if slots is None else slots.hold(in_thread=call.in_thread)
    with _lock:
        _calls.add(call)
    logger.warning(
        "tool %s ignored its cancellation and was abandoned; it still runs %s (run %s, call %s)",
        call.tool, "in a thread" if call.in_thread else "as a task", call.run_id, call.call_id,
        extra={"run_id": call.run_id, "call_id": call.call_id, "tool": call.tool},
    )  # fmt: skip

    def ended() -> None:
        with _lock:
            _calls.discard(call)
        if slots is not None and slot is not None:
            slots.release(slot)
        logger.info(
            "tool %s ended %.1f s after it was abandoned (run %s, call %s)",
            call.tool, time.monotonic() - call.since, call.run_id, call.call_id,
            extra={"run_id": call.run_id, "call_id": call.call_id, "tool": call.tool},
        )  # fmt: skip

    ending.then(ended)


def abandoned() -> list[AbandonedCall]:
    """Return the calls of this process that were abandoned and still run, oldest first."""
    with _lock:
        for call in [call for call in _calls if not call.in_thread and not call.loop.alive]:
            _calls.discard(call)  # a task cannot outlive its loop
        return sorted(_calls, key=lambda call: call.since)


async def settle(seconds: float) -> bool:
    """Wait at most ``seconds`` for the abandoned calls of this loop to end; say whether they have.

    A server calls it when it shuts down. Cancelling it leaves the calls as they are.
    """
    here = LoopHandle()
    until = time.monotonic() + seconds
    waits = [
        await call.work.wait(max(0.0, until - time.monotonic())) for call in abandoned() if call.loop == here
    ]
    return all(waits)
