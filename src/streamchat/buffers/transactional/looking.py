"""Notices what other processes wrote by looking: one query for all followed runs, while somebody waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from streamchat.buffers.following import Followers

__all__ = ["Looker"]

_SOONEST, _LATEST, _RARELY = 0.05, 0.2, 5.0
_log = logging.getLogger("streamchat.buffers")


class Looker:
    """A task that hints to followers when a run's head or number of inputs has changed.

    ``heads`` gives (head_seq, posted) of those runs that are stored. It is asked every 50 to 200 ms, and
    every 5 seconds while news is `heard` of otherwise: for what may have been missed.
    """

    def __init__(
        self,
        heads: Callable[[Sequence[str]], Awaitable[Mapping[str, tuple[int, int]]]],
        followers: Followers,
        where: str,
        name: str,
    ) -> None:
        self._heads = heads
        self._followers = followers
        self._where = where
        self._name = name
        self._known: dict[str, tuple[int, int]] = {}
        self._heard = False
        self._stopping = False
        self._look_now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def ensure(self) -> None:
        """Start, if that is not so yet."""
        if self._task is None and not self._stopping:
            self._task = asyncio.create_task(self._live(), name=self._name)

    def heard(self, heard: bool) -> None:
        """Note that news is heard of otherwise, or no longer; what may have been missed is looked for at
        once."""
        self._heard = heard
        self._look_now.set()

    async def stop(self) -> None:
        """End the task; takes as long as one look."""
        self._stopping = True
        self._look_now.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _live(self) -> None:
        pause = _SOONEST
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RARELY if self._heard else pause):
                    await self._look_now.wait()
            self._look_now.clear()
            if self._stopping:
                return
            if not self._followers.anybody_waits:
                pause = _LATEST
                continue
            try:
                changed = await self._look()
            except Exception as error:
                _log.warning("%s: looking for news failed, trying on: %s", self._where, error)
                changed = False
            pause = _SOONEST if changed else min(pause * 1.5, _LATEST)

    async def _look(self) -> bool:
        """Hint at the followed runs that have changed since the last look; say whether there were any."""
        followed = self._followers.followed()
        heads = await self._heads(followed)
        # A run that is gone, or that was not followed at the last look, counts as changed.
        changed = [run_id for run_id in followed if self._known.get(run_id) != heads.get(run_id, (-1, 0))]
        self._known = {run_id: heads.get(run_id, (-1, 0)) for run_id in followed}
        self._followers.notify(changed)
        return bool(changed)
