from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from streamchat.tools import RunPermits, Tool
from streamchat.tools.slots import Slots
from tests.tools.support import make, on_both_loops

pytestmark = [pytest.mark.anyio, on_both_loops]


def tool(**options: Any) -> Tool:
    def work() -> None: ...

    return make(work, **options)


async def idle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


class Queue:
    """Calls that take a permit, say so, and hold it until they are let go."""

    def __init__(self, permits: RunPermits, group: anyio.abc.TaskGroup) -> None:
        self.permits = permits
        self.group = group
        self.running: list[str] = []
        self.gates: dict[str, anyio.Event] = {}
        self.scopes: dict[str, anyio.CancelScope] = {}

    async def start(self, name: str, wanted: Tool) -> None:
        self.group.start_soon(self._call, name, wanted)
        await idle()

    async def _call(self, name: str, wanted: Tool) -> None:
        self.gates[name], self.scopes[name] = anyio.Event(), anyio.CancelScope()
        with self.scopes[name]:
            await self.permits.acquire(wanted)
            self.running.append(name)
            try:
                await self.gates[name].wait()
            finally:
                self.running.remove(name)
                self.permits.release(wanted)

    async def end(self, *names: str) -> None:
        for name in names:
            self.gates[name].set()
        await idle()

    async def cancel(self, name: str) -> None:
        self.scopes[name].cancel()
        await idle()


async def test_a_run_has_so_many_calls_at_once_first_come_first_served() -> None:
    async with anyio.create_task_group() as group:
        queue = Queue(RunPermits(2), group)
        for name in "abcd":
            await queue.start(name, tool())
        assert queue.running == ["a", "b"]
        await queue.end("b")
        assert queue.running == ["a", "c"]
        await queue.end("a", "c", "d")
        assert queue.permits.running == 0


async def test_a_sequential_call_waits_for_those_before_it_and_holds_up_those_after_it() -> None:
    async with anyio.create_task_group() as group:
        queue = Queue(RunPermits(), group)
        await queue.start("before", tool())
        await queue.start("alone", tool(sequential=True))
        await queue.start("after", tool())
        await queue.start("alone too", tool(sequential=True))
        assert queue.running == ["before"]
        assert not queue.permits.try_acquire(tool()), "nobody overtakes"
        for next_ in ("alone", "after", "alone too"):
            await queue.end(queue.running[0])
            assert queue.running == [next_]
        await queue.end("alone too")


async def test_a_cancelled_wait_lets_those_behind_it_pass() -> None:
    async with anyio.create_task_group() as group:
        queue = Queue(RunPermits(), group)
        await queue.start("before", tool())
        await queue.start("alone", tool(sequential=True))
        await queue.start("after", tool())
        assert queue.running == ["before"]
        await queue.cancel("alone")
        assert queue.running == ["before", "after"]
        await queue.end("before", "after")


async def test_a_tools_concurrency_counts_over_all_runs() -> None:
    shared = tool(concurrency=1)
    async with anyio.create_task_group() as group:
        first, second = Queue(RunPermits(), group), Queue(RunPermits(), group)
        await first.start("a", shared)
        await second.start("b", shared)
        await second.start("c", tool())
        assert (first.running, second.running) == (["a"], ["c"])
        assert not RunPermits().try_acquire(shared)
        await first.end("a")
        assert second.running == ["c", "b"]
        await second.end("b", "c")
        permits = RunPermits()
        assert permits.try_acquire(shared)
        permits.release(shared)


async def test_a_cancelled_wait_for_a_tools_slot_gives_the_runs_place_back() -> None:
    shared = tool(concurrency=1)
    async with anyio.create_task_group() as group:
        holder, queue = Queue(RunPermits(), group), Queue(RunPermits(1), group)
        await holder.start("a", shared)
        await queue.start("b", shared)
        await queue.start("c", tool())
        assert queue.running == []
        await queue.cancel("b")
        assert queue.running == ["c"]
        await queue.end("c")
        await holder.end("a")
    assert shared.slots is not None
    assert shared.slots.in_use == 0


async def test_a_slot_granted_to_a_call_that_is_cancelled_at_that_moment_goes_on_to_the_next() -> None:
    slots = Slots(1)
    slot = await slots.acquire()
    got: list[str] = []

    async def take(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            mine = await slots.acquire()
            got.append(name)
            slots.release(mine)

    scopes = [anyio.CancelScope(), anyio.CancelScope()]
    async with anyio.create_task_group() as group:
        for name, scope in zip("ab", scopes, strict=True):
            group.start_soon(take, name, scope)
            await idle()
        slots.release(slot)  # granted to a, which has not run since
        scopes[0].cancel()
    assert got[-1] == "b"
    assert slots.in_use == 0


def run_in(library: str, function: Any) -> Any:
    return trio.run(function) if library == "trio" else asyncio.run(function())


def in_thread(library: str, function: Any) -> None:
    """Run ``function`` in an event loop of its own, away from the test's."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            run_in(library, function)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert not failures


async def test_slots_outlive_the_loop_that_they_were_taken_in(anyio_backend: str) -> None:
    slots = Slots(1)

    async def take_and_forget() -> None:
        await slots.acquire()

    async def take() -> None:
        with anyio.fail_after(30):
            slots.release(await slots.acquire())

    in_thread(anyio_backend, take_and_forget)
    for library in ("asyncio", "trio", anyio_backend):
        in_thread(library, take)
    await take()


async def test_work_in_a_thread_keeps_its_slot_when_its_loop_has_ended(anyio_backend: str) -> None:
    slots = Slots(1)
    held = []

    async def abandon() -> None:
        held.append(slots.hold(in_thread=True))

    in_thread(anyio_backend, abandon)
    assert slots.try_acquire() is None
    slots.release(held[0])
    assert slots.try_acquire() is not None


async def test_a_slot_freed_in_one_loop_wakes_a_waiter_in_another(anyio_backend: str) -> None:
    slots = Slots(1)
    for other in ("asyncio", "trio"):
        slot = await slots.acquire()
        waiting = threading.Event()

        async def wait(waiting: threading.Event = waiting) -> None:
            waiting.set()
            with anyio.fail_after(30):
                slots.release(await slots.acquire())

        thread = threading.Thread(target=run_in, args=(other, wait))
        thread.start()
        await anyio.to_thread.run_sync(waiting.wait)
        slots.release(slot)
        await anyio.to_thread.run_sync(thread.join)
        assert slots.in_use == 0


steps = st.lists(
    st.tuples(
        st.sampled_from(["start", "start", "end", "cancel"]),
        st.integers(0, 7),
        st.sampled_from(["free", "alone", "limited", "both"]),
    ),
    max_size=25,
)


@given(steps, st.sampled_from([None, 1, 2]))
def test_in_any_order_of_events_no_bound_is_broken_and_nobody_is_forgotten(
    anyio_backend: str, script: Any, most: int | None
) -> None:
    kinds = {
        "free": tool(),
        "alone": tool(sequential=True),
        "limited": tool(concurrency=1),
        "both": tool(concurrency=2, sequential=True),
    }

    async def play() -> None:
        runs = [RunPermits(most), RunPermits(most)]
        async with anyio.create_task_group() as group:
            queues = [Queue(permits, group) for permits in runs]
            kind_of: dict[str, str] = {}

            def check() -> None:
                for queue in queues:
                    running = [kind_of[name] for name in queue.running]
                    assert most is None or len(running) <= most
                    assert len(running) <= 1 or not {"alone", "both"} & set(running)
                everywhere = [kind_of[name] for queue in queues for name in queue.running]
                assert everywhere.count("limited") <= 1
                assert everywhere.count("both") <= 2

            for n, (action, which, kind) in enumerate(script):
                queue = queues[which % 2]
                open_ = [name for name in queue.gates if not queue.gates[name].is_set()]
                if action == "start":
                    kind_of[f"c{n}"] = kind
                    await queue.start(f"c{n}", kinds[kind])
                elif open_ and action == "end":
                    await queue.end(open_[which % len(open_)])
                elif open_:
                    await queue.cancel(open_[which % len(open_)])
                check()
            for queue in queues:
                await queue.end(*queue.gates)
        # The group ended, so every call that was let go has had its turn.
        assert [permits.running for permits in runs] == [0, 0]
        assert all(kind.slots.in_use == 0 for kind in kinds.values() if kind.slots is not None)

    run_in(anyio_backend, play)
