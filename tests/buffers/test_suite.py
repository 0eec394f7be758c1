"""The shipped suite itself: it works without pytest, and a buffer that breaks a promise is found out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from streamchat.buffers.base import Appended, Claim, Input, Lease, NewEvent, Page, Posted
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.core.append_rule import Decision
from streamchat.errors import InputsPending
from streamchat.testing.buffers import BEHAVIOURS, BufferSuite
from streamchat.testing.buffers.with_pytest import conformance_test
from tests.buffers.backends import Memory

test_the_pytest_layer = conformance_test(lambda: Memory(Path()).suite())


def test_the_suite_runs_without_pytest() -> None:
    code = (
        "import sys, asyncio, contextlib; sys.modules['pytest'] = None\n"
        "from streamchat.testing.buffers import BufferSuite, BEHAVIOURS\n"
        "from streamchat.buffers.memory import MemoryEventBuffer\n"
        "@contextlib.asynccontextmanager\n"
        "async def make():\n    yield MemoryEventBuffer()\n"
        "suite = BufferSuite(make)\n"
        "asyncio.run(suite.run('a_batch_whose_acknowledgement_was_lost_is_recovered'))\n"
        "print(len(BEHAVIOURS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(BEHAVIOURS) > 60


# -------------------------------------------------------------------------------------- broken on purpose


class NoFence(MemoryEventBuffer):
    """Any holder may write, at the head."""

    async def append(self, lease: Lease, events: Sequence[NewEvent], **rest: Any) -> Appended:
        run = self._state.runs[lease.run_id]
        held = Lease(lease.run_id, lease.worker, run.generation, run.fence, run.head_seq, lease.expires_at)
        return await super().append(held, events, **rest)


class Amnesia(MemoryEventBuffer):
    """A batch that is sent again is a lost lease."""

    def _judge(self, *given: Any, **rest: Any) -> Decision:
        decision = super()._judge(*given, **rest)
        return "write" if decision == "write" else "lost"


class Gullible(MemoryEventBuffer):
    """A batch of the right length is the one that was written."""

    def _judge(self, run: Any, lease: Lease, events: Any, *, keeps: bool) -> Decision:
        if run.generation != lease.generation:
            return "lost"
        if run.head_seq == lease.head_seq and run.owner is not None:
            return "write"
        return "recovered" if run.head_seq in (lease.head_seq, lease.head_seq + len(events)) else "lost"


class Deaf(MemoryEventBuffer):
    """A post leaves a suspended run asleep."""

    async def post(self, run_id: str, posted: Input) -> Posted:
        run = self._run(run_id)
        before = run.status
        result = await super().post(run_id, posted)
        run.status = before
        return result


class Hasty(MemoryEventBuffer):
    """Suspends whatever is unread."""

    async def append(self, lease: Lease, events: Sequence[NewEvent], **rest: Any) -> Appended:
        try:
            return await super().append(lease, events, **rest)
        except InputsPending:
            run = self._state.runs[lease.run_id]
            unread, run.unread = run.unread, {}
            try:
                return await super().append(lease, events, **rest)
            finally:
                run.unread = unread


class Silent(MemoryEventBuffer):
    """Nobody is told of news."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._followers.notify = lambda run_ids: None  # type: ignore[method-assign]


class Generous(MemoryEventBuffer):
    """Every claim of a run that is not over is granted."""

    async def claim(self, worker: str, ttl: float, run_id: str | None = None, **rest: Any) -> Claim | None:
        run = self._state.runs.get(run_id or "")
        if run is not None and run.ended_at is None:
            run.status, run.queued_at = "queued", 0
        return await super().claim(worker, ttl, run_id, **rest)


class Gaps(MemoryEventBuffer):
    """Hides that a page begins behind what was asked for."""

    async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        page = await super().read(run_id, after, limit)
        return Page(page.events[1:] if after else page.events, page.segments, 1, page.last_seq)


class Unrelated(MemoryEventBuffer):
    """Generations of one run have nothing in common."""

    async def claim(self, *given: Any, **rest: Any) -> Claim | None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("streamchat.buffers.memory.next_generation", lambda first, token: token + first)
            return await super().claim(*given, **rest)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("broken", "behaviour"),
    [
        (NoFence, "a_stale_holder_is_refused"),
        (NoFence, "a_holder_who_names_another_head_is_refused"),
        (Amnesia, "a_batch_whose_acknowledgement_was_lost_is_recovered"),
        (Amnesia, "a_lost_acknowledgement_of_every_ending_is_recovered"),
        (Gullible, "only_the_very_same_batch_is_taken_for_one_that_was_lost"),
        (Gullible, "a_lease_that_was_given_up_is_gone"),
        (Deaf, "a_post_wakes_a_suspended_run"),
        (Deaf, "a_post_that_races_with_suspend_is_never_left_lying"),
        (Hasty, "a_run_with_unread_inputs_is_not_suspended"),
        (Silent, "a_follower_is_told_that_its_run_is_gone"),
        (Generous, "what_is_held_or_unknown_or_over_is_not_to_be_had"),
        (Generous, "of_many_claims_of_one_run_one_wins"),
        (Gaps, "pages_are_contiguous_wherever_they_begin"),
        (Gaps, "a_trimmed_log_keeps_its_last_batch_and_says_what_is_gone"),
        (Unrelated, "generations_are_cursors_and_those_of_one_run_begin_alike"),
    ],
)
async def test_a_broken_buffer_is_found_out(
    broken: Callable[..., MemoryEventBuffer], behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamchat.testing.buffers.reading.SOON", 0.05)
    monkeypatch.setattr("streamchat.testing.buffers.deleting.SOON", 0.05)

    class Broken(Memory):
        def make(self) -> MemoryEventBuffer:
            return broken(retention=None, clock=self.clock)

    backend = Broken(Path())
    suite = BufferSuite(backend.open, advance=backend.advance)
    caught: BaseException | None = None
    try:
        await suite.run(behaviour)
    except Exception as error:
        caught = error
    assert caught is not None, f"{broken.__doc__} Nobody noticed."
