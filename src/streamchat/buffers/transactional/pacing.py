"""Whether a transaction waits some milliseconds for the batches of other runs to come with it.

A transaction, with the way to its thread and back, costs some sixty microseconds, a further batch in it a
third of that. With many live streams, each a batch every 20 ms, commits as fast as they can be would carry
one batch each. So while several runs are being written, batches of deltas keep a little distance. Nothing
waits when it is alone, when it must last (a barrier, a claim), or when enough has come together already.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["DISTANCE", "ENOUGH", "Pace"]

DISTANCE = 0.01
"""Seconds between the beginnings of two transactions of deltas, while several runs are being written."""

ENOUGH = 16
"""So many jobs do not wait for more."""

_COMPANY = 2


class Pace:
    """Remembers which runs were written just now. ``now`` is in seconds, from any clock that never goes
    back."""

    def __init__(self, distance: float = DISTANCE) -> None:
        self._distance = distance
        self._begun = float("-inf")
        self._recent: dict[str, float] = {}

    def begun(self, run_ids: Collection[str], now: float) -> None:
        """Note that a transaction with these runs begins."""
        self._begun = now
        since = now - self._distance
        self._recent = {run_id: at for run_id, at in self._recent.items() if at > since}
        for run_id in run_ids:
            self._recent[run_id] = now

    def pause(self, run_ids: Collection[str], *, durable: bool, now: float) -> float:
        """Return for how many seconds the next transaction, with these runs so far, should wait for
        others."""
        if durable or len(run_ids) >= ENOUGH:
            return 0.0
        left = self._begun + self._distance - now
        if left <= 0.0:
            return 0.0
        since = now - self._distance
        company = sum(at > since and run_id not in run_ids for run_id, at in self._recent.items())
        return left if company >= _COMPANY else 0.0
