"""Behaviours of `claim` and `renew`: one holder at a time, in order, and never by the wall clock of a
worker."""

from __future__ import annotations

import anyio

from streamchat.buffers.base import Lease
from streamchat.core.cursor import RUN_PART, Cursor, parse_cursor
from streamchat.errors import LeaseLost
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, ending, refused, suspended

__all__: list[str] = []


@behaviour
async def a_claim_gives_a_lease_and_begins_a_segment(bench: Bench) -> None:
    run = await bench.created()
    before = await bench.buffer.get(run.run_id)
    claim = await bench.buffer.claim("worker-1", bench.ttl, run.run_id)
    assert claim is not None
    lease, record = claim.lease, claim.run
    assert record == await bench.buffer.get(run.run_id)
    assert (record.status, record.owner, record.fence, record.head_seq) == ("running", "worker-1", 1, 1)
    assert (lease.run_id, lease.worker, lease.fence, lease.head_seq) == (run.run_id, "worker-1", 1, 1)
    assert (lease.generation, lease.inputs) == (record.generation, False)
    assert lease.expires_at == record.lease_until
    assert lease.expires_at - record.updated_at == int(bench.ttl * 1000)
    assert lease.generation != before.generation
    page = await bench.buffer.read(run.run_id)
    assert [tuple(s) for s in page.segments] == [(before.generation, 1), (lease.generation, 2)]


@behaviour
async def generations_are_cursors_and_those_of_one_run_begin_alike(bench: Bench) -> None:
    generations = []
    for _ in range(2):
        lease = await bench.held()
        await bench.buffer.append(lease, (), then="queue")
        lease = await bench.claimed(lease.run_id)
        page = await bench.buffer.read(lease.run_id)
        mine = [segment.generation for segment in page.segments]
        assert len(mine) == 3
        assert len({generation[:RUN_PART] for generation in mine}) == 1
        assert all(parse_cursor(f"{generation}.3") == Cursor(generation, 3) for generation in mine)
        generations += mine
    assert len(set(generations)) == 6
    assert len({generation[:RUN_PART] for generation in generations}) == 2


@behaviour
async def what_is_held_or_unknown_or_over_is_not_to_be_had(bench: Bench) -> None:
    assert await bench.buffer.claim("worker-1", bench.ttl) is None
    assert await bench.buffer.claim("worker-1", bench.ttl, "no-such-run") is None
    lease = await bench.held()
    assert await bench.buffer.claim("worker-2", bench.ttl, lease.run_id) is None
    assert await bench.buffer.claim("worker-1", bench.ttl) is None
    lease = (await bench.buffer.append(lease, suspended(), then="suspend")).lease
    assert await bench.buffer.claim("worker-2", bench.ttl, lease.run_id) is None
    assert await bench.buffer.claim("worker-2", bench.ttl) is None
    other = await bench.held()
    await bench.buffer.append(other, ending(), then="over")
    await bench.advance(bench.ttl + 0.01)
    assert await bench.buffer.claim("worker-2", bench.ttl) is None
    assert await bench.buffer.claim("worker-2", bench.ttl, other.run_id) is None


@behaviour
async def the_run_that_has_waited_longest_is_claimed_first(bench: Bench) -> None:
    async def next_run() -> str | None:
        claim = await bench.buffer.claim("worker-2", bench.ttl * 10)
        return None if claim is None else claim.lease.run_id

    expiring = await bench.held()
    waking = await bench.held()
    now = (await bench.buffer.get(waking.run_id)).updated_at
    wake_at = now + int(bench.ttl * 1000) + 20
    await bench.buffer.append(waking, suspended(), then="suspend", wake_at=wake_at)
    await bench.advance(bench.ttl + 0.1)
    first = await bench.created()
    await bench.advance(0.01)
    second = await bench.created()
    await bench.advance(0.01)
    requeued = await bench.claimed(first.run_id)
    await bench.buffer.append(requeued, (), then="queue")
    order = [await next_run() for _ in range(5)]
    assert order == [expiring.run_id, waking.run_id, second.run_id, first.run_id, None]


@behaviour
async def of_many_claims_of_one_run_one_wins(bench: Bench) -> None:
    run = await bench.created()
    won: list[Lease] = []

    async def attempt(number: int, run_id: str | None) -> None:
        claim = await bench.buffer.claim(f"worker-{number}", bench.ttl, run_id)
        if claim is not None:
            won.append(claim.lease)

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(attempt, number, run.run_id if number % 2 else None)
    assert len(won) == 1
    assert (await bench.buffer.get(run.run_id)).owner == won[0].worker


@behaviour
async def many_workers_share_the_queue_without_taking_a_run_twice(bench: Bench) -> None:
    runs = [await bench.created() for _ in range(12)]
    taken: list[str] = []

    async def work(number: int) -> None:
        while (claim := await bench.buffer.claim(f"worker-{number}", bench.ttl)) is not None:
            taken.append(claim.lease.run_id)
            await bench.buffer.append(claim.lease, ending(), then="over")

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(work, number)
    assert sorted(taken) == sorted(run.run_id for run in runs)


@behaviour
async def a_lease_expires_by_the_stores_clock(bench: Bench) -> None:
    lease = await bench.held()
    assert await bench.buffer.claim("worker-2", bench.ttl, lease.run_id) is None
    await bench.advance(bench.ttl + 0.01)
    claim = await bench.buffer.claim("worker-2", bench.ttl, lease.run_id)
    assert claim is not None
    assert (claim.lease.fence, claim.run.owner) == (lease.fence + 1, "worker-2")
    assert claim.lease.generation != lease.generation


@behaviour
async def a_renewed_lease_does_not_expire(bench: Bench) -> None:
    lease = await bench.held()
    await bench.advance(bench.ttl / 2)
    renewed = await bench.buffer.renew(lease, bench.ttl * 2)
    assert renewed.expires_at > lease.expires_at
    assert renewed.expires_at == (await bench.buffer.get(lease.run_id)).lease_until
    assert (renewed.generation, renewed.fence, renewed.head_seq) == (lease.generation, lease.fence, 1)
    await bench.advance(bench.ttl)
    assert await bench.buffer.claim("worker-2", bench.ttl, lease.run_id) is None
    await bench.buffer.append(renewed, deltas("still here"))


@behaviour
async def an_append_leaves_the_time_of_the_lease_as_it_is(bench: Bench) -> None:
    lease = await bench.held()
    after = (await bench.buffer.append(lease, deltas("a"))).lease
    assert after.expires_at == lease.expires_at == (await bench.buffer.get(lease.run_id)).lease_until


@behaviour
async def a_stale_holder_is_refused(bench: Bench) -> None:
    stale = await bench.held()
    stale = (await bench.buffer.append(stale, deltas("mine"))).lease
    await bench.advance(bench.ttl + 0.01)
    fresh = await bench.claimed(stale.run_id, "worker-2")
    for _ in range(2):
        with refused(LeaseLost):
            await bench.buffer.append(stale, deltas("late"))
        with refused(LeaseLost):
            await bench.buffer.append(stale, ending(), then="over")
        with refused(LeaseLost):
            await bench.buffer.append(stale, (), then="queue")
        with refused(LeaseLost):
            await bench.buffer.renew(stale, bench.ttl)
        fresh = (await bench.buffer.append(fresh, deltas("theirs"))).lease
    assert await bench.texts(stale.run_id) == ["mine", "theirs", "theirs"]
    assert (await bench.buffer.get(stale.run_id)).owner == "worker-2"


@behaviour
async def a_holder_is_stale_also_where_the_same_worker_claimed_again(bench: Bench) -> None:
    stale = await bench.held("worker-1")
    await bench.advance(bench.ttl + 0.01)
    await bench.claimed(stale.run_id, "worker-1")
    with refused(LeaseLost):
        await bench.buffer.append(stale, deltas("late"))


@behaviour
async def an_expired_lease_that_nobody_claimed_still_appends(bench: Bench) -> None:
    lease = await bench.held()
    await bench.advance(bench.ttl * 2)
    lease = (await bench.buffer.append(lease, deltas("late, but mine"))).lease
    lease = await bench.buffer.renew(lease, bench.ttl)
    assert await bench.buffer.claim("worker-2", bench.ttl, lease.run_id) is None
    await bench.buffer.append(lease, ending(), then="over")


@behaviour
async def a_lease_that_was_given_up_is_gone(bench: Bench) -> None:
    for events, then in (((), "queue"), (suspended(), "suspend"), (ending(), "over")):
        lease = await bench.held()
        after = (await bench.buffer.append(lease, events, then=then)).lease  # type: ignore[arg-type]
        record = await bench.buffer.get(lease.run_id)
        assert (record.owner, record.lease_until) == (None, None)
        with refused(LeaseLost):
            await bench.buffer.append(after, deltas("late"))
        with refused(LeaseLost):
            await bench.buffer.append(after, ())
        with refused(LeaseLost):
            await bench.buffer.renew(after, bench.ttl)


@behaviour
async def a_renewal_follows_the_rule_of_appends(bench: Bench) -> None:
    lease = await bench.held()
    after = (await bench.buffer.append(lease, deltas("a"))).lease
    with refused(LeaseLost):
        await bench.buffer.renew(lease, bench.ttl)
    await bench.buffer.renew(after, bench.ttl)


@behaviour
async def a_suspended_run_is_to_be_had_once_its_time_has_come(bench: Bench) -> None:
    lease = await bench.held()
    now = (await bench.buffer.get(lease.run_id)).updated_at
    wake_at = now + int(bench.ttl * 1000)
    await bench.buffer.append(lease, suspended(), then="suspend", wake_at=wake_at)
    assert (await bench.buffer.get(lease.run_id)).wake_at == wake_at
    assert await bench.buffer.claim("worker-2", bench.ttl) is None
    await bench.advance(bench.ttl + 0.01)
    claim = await bench.buffer.claim("worker-2", bench.ttl)
    assert claim is not None
    assert (claim.run.status, claim.run.wake_at, claim.lease.head_seq) == ("running", None, 2)


@behaviour
async def a_log_of_an_unknown_version_is_left_alone(bench: Bench) -> None:
    run = await bench.created(log_version=2)
    assert await bench.buffer.claim("worker-1", bench.ttl) is None
    assert await bench.buffer.claim("worker-1", bench.ttl, run.run_id) is None
    known = await bench.created()
    claim = await bench.buffer.claim("worker-1", bench.ttl)
    assert claim is not None
    assert claim.lease.run_id == known.run_id
    claim = await bench.buffer.claim("worker-1", bench.ttl, log_versions=(1, 2))
    assert claim is not None
    assert (claim.lease.run_id, claim.run.log_version) == (run.run_id, 2)
