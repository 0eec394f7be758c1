"""Behaviours of the line before a conversation's slot: who waits in it, whose turn it is, and how one
leaves."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from streamchat.buffers.base import EventBuffer, Input, Lease, NewRun
from streamchat.errors import ConversationBusy, ConversationMoved, ConversationNotFound
from streamchat.principal import Principal
from streamchat.testing.buffers.suite import Bench, behaviour, ending, message, refused, suspended

__all__: list[str] = []

CANCEL = Input("cancel", body={"reason": "enough"})


async def line(buffer: EventBuffer, conversation_id: str) -> list[str]:
    return [run.run_id for run in await buffer.enqueued(conversation_id)]


async def three(bench: Bench) -> tuple[Lease, NewRun, NewRun]:
    """Return a run that is at work, and two that stand behind it."""
    first = await bench.created()
    lease = await bench.claimed(first.run_id)
    conversation_id = first.conversation_id
    second = await bench.created(conversation_id=conversation_id, enqueue=True)
    third = await bench.created(conversation_id=conversation_id, enqueue=True)
    return lease, second, third


async def active(bench: Bench, run: NewRun) -> str | None:
    return (await bench.buffer.conversation(run.conversation_id)).active_run_id


@behaviour
async def a_run_that_may_wait_is_enqueued_behind_the_active_one(bench: Bench) -> None:
    lease = await bench.held()
    conversation_id = (await bench.buffer.get(lease.run_id)).conversation_id
    run = bench.new_run(conversation_id=conversation_id, enqueue=True)
    made = await bench.buffer.create(run, [message(run, message_id="u-2", run_id=run.run_id)])
    assert (made.new, made.run.status, made.run.enqueued, made.run.wake_at) == (True, "queued", True, None)
    assert made.run == await bench.buffer.get(run.run_id)
    assert [event.type for event in (await bench.buffer.read(run.run_id)).events] == ["run_started"]
    conversation = await bench.buffer.conversation(conversation_id)
    assert (conversation.active_run_id, conversation.leaf_id) == (lease.run_id, run.message_id)
    assert [stored.message_id for stored in await bench.buffer.messages(conversation_id)] == ["u-2"]
    # Who asks for what is going on is told of what is going on.
    found = await bench.buffer.find(conversation_id)
    assert found is not None
    assert (found.run_id, found.enqueued) == (lease.run_id, False)


@behaviour
async def a_run_that_may_wait_need_not_where_the_slot_is_free(bench: Bench) -> None:
    run = await bench.created(enqueue=True)
    assert not (await bench.buffer.get(run.run_id)).enqueued
    assert await active(bench, run) == run.run_id
    assert await line(bench.buffer, run.conversation_id) == []
    assert await line(bench.buffer, "no-such-conversation") == []
    await bench.claimed(run.run_id)


@behaviour
async def nobody_claims_what_is_enqueued(bench: Bench) -> None:
    _, second, third = await three(bench)
    for run_id in (None, second.run_id, third.run_id):
        assert await bench.buffer.claim("worker-2", bench.ttl, run_id) is None
    await bench.advance(bench.ttl * 2)
    async with bench.another() as other:
        claim = await other.claim("worker-2", bench.ttl)
        assert claim is not None
        assert claim.was == "running", "the one whose worker died, not one that stands behind it"


@behaviour
async def the_slot_goes_on_in_the_order_of_creation(bench: Bench) -> None:
    lease, second, third = await three(bench)
    assert await line(bench.buffer, second.conversation_id) == [second.run_id, third.run_id]
    for following, rest in ((second, [third.run_id]), (third, [])):
        await bench.buffer.append(lease, ending(), then="over")
        assert await active(bench, following) == following.run_id
        assert await line(bench.buffer, following.conversation_id) == rest
        assert not (await bench.buffer.get(following.run_id)).enqueued
        claim = await bench.buffer.claim("worker-2", bench.ttl)
        assert claim is not None
        assert (claim.run.run_id, claim.was) == (following.run_id, "queued")
        lease = claim.lease
    await bench.buffer.append(lease, ending(), then="over")
    assert await active(bench, third) is None


@behaviour
async def a_slot_that_is_given_up_for_jobs_goes_on_too(bench: Bench) -> None:
    lease, second, third = await three(bench)
    await bench.buffer.append(lease, suspended(), then="suspend", keep_slot=False)
    assert await active(bench, second) == second.run_id
    held = await bench.claimed(second.run_id)
    # Who goes on without the slot gives it to nobody.
    await bench.buffer.post(lease.run_id, Input("job_result", "call-1", {"result": 1}))
    resumed = await bench.claimed(lease.run_id)
    await bench.buffer.append(resumed, ending(), consumed=["job_result:call-1"], then="over")
    assert await active(bench, second) == second.run_id
    assert await line(bench.buffer, second.conversation_id) == [third.run_id]
    await bench.buffer.append(held, ending(), then="over")
    assert await active(bench, third) == third.run_id


@behaviour
async def a_run_that_keeps_its_slot_keeps_the_others_waiting(bench: Bench) -> None:
    lease, second, _ = await three(bench)
    await bench.buffer.append(lease, suspended(), then="suspend")
    assert await active(bench, second) == lease.run_id
    assert await bench.buffer.claim("worker-2", bench.ttl) is None
    await bench.buffer.post(lease.run_id, Input("approval", "call-1", {"approved": True}))
    resumed = await bench.claimed(lease.run_id)
    await bench.buffer.append(resumed, (), then="queue")
    assert await active(bench, second) == lease.run_id
    resumed = await bench.claimed(lease.run_id)
    await bench.buffer.append(resumed, ending(), consumed=["approval:call-1"], then="over")
    assert await active(bench, second) == second.run_id


@behaviour
async def a_cancelled_run_leaves_the_line_to_be_ended_at_once(bench: Bench) -> None:
    lease, second, third = await three(bench)
    posted = await bench.buffer.post(second.run_id, CANCEL)
    assert (posted.new, posted.run.status, posted.run.enqueued) == (True, "queued", False)
    assert await line(bench.buffer, second.conversation_id) == [third.run_id]
    # Also where who cancelled it dies at this point.
    async with bench.another() as other:
        claim = await other.claim("worker-2", bench.ttl)
        assert claim is not None
        assert (claim.run.run_id, claim.lease.inputs) == (second.run_id, True)
        await other.append(claim.lease, ending("cancelled"), consumed=["cancel:"], then="over")
    assert await active(bench, second) == lease.run_id
    await bench.buffer.append(lease, ending(), then="over")
    assert await active(bench, third) == third.run_id


@behaviour
async def what_is_cancelled_and_not_yet_ended_is_passed_over(bench: Bench) -> None:
    lease, second, third = await three(bench)
    await bench.buffer.post(second.run_id, CANCEL)
    await bench.buffer.append(lease, ending(), then="over")
    assert await active(bench, third) == third.run_id
    held = await bench.claimed(second.run_id)
    await bench.buffer.append(held, ending("cancelled"), consumed=["cancel:"], then="over")
    assert await active(bench, third) == third.run_id


@behaviour
async def an_answer_wakes_nothing_that_is_enqueued(bench: Bench) -> None:
    _, second, third = await three(bench)
    posted = await bench.buffer.post(second.run_id, Input("approval", "call-1", {"approved": True}))
    assert (posted.new, posted.run.enqueued) == (True, True)
    assert await line(bench.buffer, second.conversation_id) == [second.run_id, third.run_id]
    assert await bench.buffer.claim("worker-2", bench.ttl, second.run_id) is None


@behaviour
async def a_deleted_run_holds_nobody_up(bench: Bench) -> None:
    lease, second, third = await three(bench)
    assert await bench.buffer.delete(run_id=second.run_id) == 1
    assert await line(bench.buffer, second.conversation_id) == [third.run_id]
    assert await bench.buffer.delete(run_id=lease.run_id) == 1
    assert await active(bench, third) == third.run_id
    assert await line(bench.buffer, third.conversation_id) == []
    await bench.created(conversation_id=third.conversation_id, enqueue=True)
    assert await bench.buffer.delete(conversation_id=third.conversation_id) == 2
    assert await bench.buffer.claim("worker-2", bench.ttl) is None
    with refused(ConversationNotFound):
        await bench.created(conversation_id=third.conversation_id, enqueue=True)


@behaviour
async def who_may_not_wait_is_refused_also_where_others_do(bench: Bench) -> None:
    lease, second, third = await three(bench)
    with refused(ConversationBusy) as refusal:
        await bench.created(conversation_id=second.conversation_id)
    assert isinstance(refusal.error, ConversationBusy)
    assert refusal.error.active_run_id == lease.run_id
    with refused(ConversationNotFound):
        await bench.created(
            conversation_id=second.conversation_id, enqueue=True, principal=Principal("somebody", "else")
        )
    assert await line(bench.buffer, second.conversation_id) == [second.run_id, third.run_id]


@behaviour
async def a_message_for_a_leaf_that_is_none_any_more_is_refused(bench: Bench) -> None:
    first = await bench.created(follows="")
    conversation_id = first.conversation_id
    second = await bench.created(conversation_id=conversation_id, enqueue=True, follows=first.message_id)
    for follows in ("", first.message_id, "no-such-message"):
        late = bench.new_run(conversation_id=conversation_id, enqueue=True, follows=follows)
        with refused(ConversationMoved):
            await bench.buffer.create(late, [message(late)])
    with refused(ConversationMoved):
        await bench.created(follows="a-message-of-a-conversation-that-is-gone")
    await bench.created(conversation_id=conversation_id, enqueue=True, follows=second.message_id)
    await bench.created(conversation_id=conversation_id, enqueue=True)
    assert await bench.buffer.messages(conversation_id) == []


@behaviour
async def an_enqueued_create_that_is_sent_twice_makes_one_run(bench: Bench) -> None:
    lease = await bench.held()
    conversation_id = (await bench.buffer.get(lease.run_id)).conversation_id
    leaf_id = (await bench.buffer.conversation(conversation_id)).leaf_id
    run = bench.new_run(
        conversation_id=conversation_id, enqueue=True, follows=leaf_id, idempotency_key="key", digest="d"
    )
    assert (await bench.buffer.create(run)).new
    again = await bench.buffer.create(run)
    assert (again.new, again.run.enqueued) == (False, True)
    assert await line(bench.buffer, conversation_id) == [run.run_id]


@behaviour
async def every_run_gets_its_turn_whoever_comes_and_goes(bench: Bench) -> None:
    first = await bench.created()
    conversation_id, made = first.conversation_id, [first.run_id]
    worked_on: list[str] = []

    async def come(buffer: EventBuffer) -> None:
        for _ in range(6):
            run = bench.new_run(conversation_id=conversation_id, enqueue=True)
            made.append((await buffer.create(run)).run.run_id)

    async def work() -> None:
        tries = 0
        while len(worked_on) < 13:
            claim = await bench.buffer.claim("worker-1", 60.0)
            if claim is not None:
                worked_on.append(claim.run.run_id)
                await bench.buffer.append(claim.lease, ending(), then="over")
            else:
                tries += 1
                assert tries < 10_000, f"nothing is to be had, and {len(worked_on)} of 13 had their turn"
                await anyio.lowlevel.checkpoint()

    async with bench.another() as other, anyio.create_task_group() as group:
        group.start_soon(come, bench.buffer)
        group.start_soon(come, other)
        group.start_soon(work)
    assert sorted(worked_on) == sorted(made)
    assert (await bench.buffer.conversation(conversation_id)).active_run_id is None
