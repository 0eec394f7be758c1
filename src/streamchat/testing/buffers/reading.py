"""Behaviours of `read`, `get`, `find` and `follow`: pages without gaps, and hints that are never lost."""

from __future__ import annotations

import anyio

from streamchat.buffers.base import Input
from streamchat.core.cursor import Cursor, Position, owner_of, resolve
from streamchat.errors import InvalidInput, RunNotFound
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, ending, refused

__all__: list[str] = []

SOON = 10.0


@behaviour
async def pages_are_contiguous_wherever_they_begin(bench: Bench) -> None:
    lease = await bench.held()
    for size in (1, 7, 2):
        lease = (await bench.buffer.append(lease, deltas(*(str(n) for n in range(size))))).lease
    whole = await bench.buffer.read(lease.run_id)
    assert [event.seq for event in whole.events] == list(range(1, 12))
    for after in range(13):
        for limit in (1, 2, 5, 100):
            page = await bench.buffer.read(lease.run_id, after, limit)
            assert list(page.events) == list(whole.events[after : after + limit])
            assert (page.first_seq, page.last_seq) == (1, 11)
            assert page.segments == whole.segments


@behaviour
async def a_page_that_makes_no_sense_is_refused(bench: Bench) -> None:
    run = await bench.created()
    for after, limit in ((-1, 1), (0, 0), (0, -1)):
        with refused(InvalidInput):
            await bench.buffer.read(run.run_id, after, limit)


@behaviour
async def an_unknown_run_is_not_found(bench: Bench) -> None:
    with refused(RunNotFound):
        await bench.buffer.read("no-such-run")
    with refused(RunNotFound):
        await bench.buffer.get("no-such-run")
    assert await bench.buffer.find("no-such-conversation") is None


@behaviour
async def every_event_names_the_generation_that_wrote_it(bench: Bench) -> None:
    run = await bench.created()
    leases = []
    for size in (2, 0, 3, 1):
        lease = await bench.claimed(run.run_id)
        leases += [lease] * size
        await bench.buffer.append(lease, deltas(*"x" * size), then="queue")
    page = await bench.buffer.read(run.run_id)
    assert [event.generation for event in page.events[1:]] == [lease.generation for lease in leases]
    assert [segment.first_seq for segment in page.segments] == [1, 2, 4, 4, 7]
    for event in page.events:
        assert owner_of(event.seq, page.segments) == event.generation
        # A cursor stays valid over later claims.
        verdict = resolve(Cursor(event.generation, event.seq), page.segments, page.first_seq, page.last_seq)
        assert verdict == Position(event.seq)


@behaviour
async def the_last_event_tells_that_nothing_follows(bench: Bench) -> None:
    lease = await bench.held()
    lease = (await bench.buffer.append(lease, deltas("a"))).lease
    assert not (await bench.buffer.read(lease.run_id)).closed
    await bench.buffer.append(lease, ending(), then="over")
    assert (await bench.buffer.read(lease.run_id)).closed
    assert (await bench.buffer.read(lease.run_id, 3)).closed
    assert not (await bench.buffer.read(lease.run_id, 0, 3)).closed
    assert not (await bench.buffer.read(lease.run_id, 4)).closed


@behaviour
async def find_returns_the_newest_run_that_is_not_over(bench: Bench) -> None:
    first = await bench.created()
    conversation_id = first.conversation_id
    found = await bench.buffer.find(conversation_id)
    assert found == await bench.buffer.get(first.run_id)
    lease = await bench.claimed(first.run_id)
    await bench.buffer.append(lease, ending(), then="over")
    assert await bench.buffer.find(conversation_id) is None
    second = await bench.created(conversation_id=conversation_id)
    found = await bench.buffer.find(conversation_id)
    assert found is not None
    assert found.run_id == second.run_id


@behaviour
async def a_follower_is_woken_by_appends_and_posts(bench: Bench) -> None:
    lease = await bench.held()
    follower = await bench.buffer.follow(lease.run_id)
    woken: list[bool] = []

    async def wait() -> None:
        woken.append(await follower.wait(SOON))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        lease = (await bench.buffer.append(lease, deltas("a"))).lease
    assert woken == [True]
    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await bench.buffer.post(lease.run_id, Input("cancel"))
    assert woken == [True, True]
    await follower.close()


@behaviour
async def a_hint_between_reading_and_waiting_is_not_lost(bench: Bench) -> None:
    lease = await bench.held()
    follower = await bench.buffer.follow(lease.run_id)
    page = await bench.buffer.read(lease.run_id)
    assert page.last_seq == 1
    lease = (await bench.buffer.append(lease, deltas("a"))).lease
    assert await follower.wait(SOON)
    # Also not by a wait that is cancelled at the moment at which the hint comes.
    with anyio.CancelScope() as scope:
        scope.cancel()
        await follower.wait(SOON)
    lease = (await bench.buffer.append(lease, deltas("b"))).lease
    with anyio.CancelScope() as scope:
        scope.cancel()
        await follower.wait(SOON)
    assert await follower.wait(SOON)
    await follower.close()


@behaviour
async def a_reader_that_follows_misses_nothing(bench: Bench) -> None:
    lease = await bench.held()
    seen: list[int] = []

    async def read() -> None:
        follower = await bench.buffer.follow(lease.run_id)
        after = 0
        while True:
            page = await bench.buffer.read(lease.run_id, after, 3)
            seen.extend(event.seq for event in page.events)
            if page.closed:
                break
            if page.events:
                after = page.events[-1].seq
            elif after == page.last_seq:
                await follower.wait(SOON)
        await follower.close()

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(read)
        held = lease
        for number in range(15):
            held = (await bench.buffer.append(held, deltas(*"x" * (number % 3 + 1)))).lease
        await bench.buffer.append(held, ending(), then="over")
    last = (await bench.buffer.get(lease.run_id)).head_seq
    assert sorted(seen) == sorted([*range(1, last + 1)] * 2)


@behaviour
async def a_wait_without_news_ends_in_time(bench: Bench) -> None:
    lease = await bench.held()
    other = await bench.held()
    follower = await bench.buffer.follow(lease.run_id)
    silent = await bench.buffer.follow("no-such-run")
    # Hints may be given for nothing, but not for ever.
    with anyio.fail_after(SOON):
        while await follower.wait(0.3):
            pass
        while await silent.wait(0.3):
            pass
    await bench.buffer.append(other, deltas("a"))
    for one in (follower, silent):
        await one.close()
        await one.close()
        assert not await one.wait(SOON)


@behaviour
async def closing_a_follower_ends_its_wait(bench: Bench) -> None:
    run = await bench.created()
    follower = await bench.buffer.follow(run.run_id)
    results: list[bool] = []

    async def wait() -> None:
        while await follower.wait(SOON):
            pass
        results.append(False)

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await follower.close()
    assert results == [False]


@behaviour
async def another_process_sees_it_all_and_is_woken(bench: Bench) -> None:
    lease = await bench.held()
    async with bench.another() as theirs:
        assert await theirs.get(lease.run_id) == await bench.buffer.get(lease.run_id)
        assert await theirs.claim("worker-2", bench.ttl) is None
        follower = await theirs.follow(lease.run_id)
        after = 0
        with anyio.fail_after(SOON):
            for text in ("a", "b"):
                lease = (await bench.buffer.append(lease, deltas(text))).lease
                while after < lease.head_seq:
                    page = await theirs.read(lease.run_id, after)
                    after = page.last_seq
                    if not page.events:
                        await follower.wait(SOON)
            await theirs.post(lease.run_id, Input("cancel"))
            assert len(await bench.buffer.inputs(lease.run_id)) == 1
        await follower.close()
        (cancel,) = await bench.buffer.inputs(lease.run_id)
        await bench.buffer.append(lease, (), consumed=[cancel.input_id], then="queue")
        claim = await theirs.claim("worker-2", bench.ttl)
        assert claim is not None
        assert claim.lease.run_id == lease.run_id
