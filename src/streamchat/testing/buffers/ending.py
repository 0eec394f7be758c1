"""Behaviours of `append`'s endings: what becomes of status, lease and slot in the very transaction of the
events."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from streamchat.buffers.base import Input, NewEvent
from streamchat.errors import ConversationBusy, InputsPending, LeaseLost
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, ending, message, refused, suspended

__all__: list[str] = []


@behaviour
async def over_ends_the_run_with_the_status_of_its_last_event(bench: Bench) -> None:
    for status in ("success", "error", "cancelled"):
        lease = await bench.held()
        await bench.buffer.append(lease, [*deltas("a"), *ending(status)], then="over")
        record = await bench.buffer.get(lease.run_id)
        assert (record.status, record.over, record.head_seq) == (status, True, 4)
        assert (record.owner, record.lease_until, record.wake_at) == (None, None, None)
        assert (await bench.buffer.read(lease.run_id)).closed
        assert await bench.buffer.find(record.conversation_id) is None
        assert (await bench.buffer.conversation(record.conversation_id)).active_run_id is None


@behaviour
async def queue_gives_the_lease_up_and_keeps_the_slot(bench: Bench) -> None:
    lease = await bench.held()
    await bench.buffer.append(lease, deltas("a"), then="queue")
    record = await bench.buffer.get(lease.run_id)
    assert (record.status, record.owner, record.lease_until) == ("queued", None, None)
    assert (await bench.buffer.conversation(record.conversation_id)).active_run_id == lease.run_id
    taken = await bench.claimed(lease.run_id, "worker-2")
    assert (taken.fence, taken.head_seq) == (2, 2)


@behaviour
async def suspend_keeps_the_slot_unless_told_otherwise(bench: Bench) -> None:
    for keep_slot in (True, False):
        lease = await bench.held()
        await bench.buffer.append(lease, suspended(), then="suspend", keep_slot=keep_slot)
        record = await bench.buffer.get(lease.run_id)
        assert (record.status, record.owner, record.lease_until) == ("suspended", None, None)
        assert (record.wake_at, record.over) == (None, False)
        conversation = await bench.buffer.conversation(record.conversation_id)
        assert conversation.active_run_id == (lease.run_id if keep_slot else None)
        found = await bench.buffer.find(record.conversation_id)
        assert found is not None
        assert found.run_id == lease.run_id


@behaviour
async def a_run_without_its_slot_resumes_and_ends_beside_the_one_that_has_it(bench: Bench) -> None:
    lease = await bench.held()
    conversation_id = (await bench.buffer.get(lease.run_id)).conversation_id
    await bench.buffer.append(lease, suspended(), then="suspend", keep_slot=False)
    second = await bench.created(conversation_id=conversation_id)
    found = await bench.buffer.find(conversation_id)
    assert found is not None
    assert found.run_id == second.run_id
    await bench.buffer.post(lease.run_id, Input("job_result", "call-1", {"result": 1}))
    resumed = await bench.claimed(lease.run_id)
    (posted,) = await bench.buffer.inputs(lease.run_id)
    await bench.buffer.append(resumed, ending(), consumed=[posted.input_id], then="over")
    conversation = await bench.buffer.conversation(conversation_id)
    assert conversation.active_run_id == second.run_id


@behaviour
async def a_run_that_went_on_without_its_slot_takes_it_when_it_waits_for_somebody(bench: Bench) -> None:
    for taken in (False, True):
        lease = await bench.held()
        conversation_id = (await bench.buffer.get(lease.run_id)).conversation_id
        await bench.buffer.append(lease, suspended(), then="suspend", keep_slot=False)
        other = (await bench.held(conversation_id=conversation_id)) if taken else None
        await bench.buffer.post(lease.run_id, Input("job_result", "call-1", {"result": 1}))
        resumed = await bench.claimed(lease.run_id)
        await bench.buffer.append(resumed, suspended(), consumed=["job_result:call-1"], then="suspend")
        holder = lease if other is None else other
        assert (await bench.buffer.conversation(conversation_id)).active_run_id == holder.run_id
        with refused(ConversationBusy):
            await bench.created(conversation_id=conversation_id)
        waiting = await bench.created(conversation_id=conversation_id, enqueue=True)
        if other is not None:
            await bench.buffer.append(other, ending(), then="over")
            assert (await bench.buffer.conversation(conversation_id)).active_run_id == waiting.run_id
        await bench.buffer.post(lease.run_id, Input("approval", "call-2", {"approved": True}))
        resumed = await bench.claimed(lease.run_id)
        await bench.buffer.append(resumed, ending(), consumed=["approval:call-2"], then="over")
        assert (await bench.buffer.conversation(conversation_id)).active_run_id == waiting.run_id
        await bench.claimed(waiting.run_id)


@behaviour
async def the_slot_is_free_in_the_transaction_that_ends_the_run(bench: Bench) -> None:
    lease = await bench.held()
    conversation_id = (await bench.buffer.get(lease.run_id)).conversation_id
    tries = 0

    async def next_turn() -> None:
        nonlocal tries
        while True:
            tries += 1
            try:
                await bench.buffer.create(bench.new_run(conversation_id=conversation_id))
            except ConversationBusy:
                assert tries < 10_000
                await anyio.lowlevel.checkpoint()
            else:
                # Who gets the slot finds the log closed.
                assert (await bench.buffer.read(lease.run_id)).closed
                return

    async def finish() -> None:
        held = lease
        for number in range(3):
            held = (await bench.buffer.append(held, deltas(str(number)))).lease
        await bench.buffer.append(held, ending(), then="over")
        # And where the log is closed, the slot is not this run's any more.
        conversation = await bench.buffer.conversation(conversation_id)
        assert conversation.active_run_id != lease.run_id

    async with anyio.create_task_group() as group:
        group.start_soon(next_turn)
        group.start_soon(finish)


@behaviour
async def messages_are_written_with_the_events_or_not_at_all(bench: Bench) -> None:
    run = await bench.created()
    lease = await bench.claimed(run.run_id)
    answer = message(run, message_id=run.message_id, role="assistant", status="pending", run_id=run.run_id)
    lease = (await bench.buffer.append(lease, deltas("a"), messages=[answer])).lease
    with refused(LeaseLost):
        stale = lease.advanced(1)
        await bench.buffer.append(stale, deltas("x"), messages=[message(run)])
    await bench.buffer.post(run.run_id, Input("approval", "call-1", {"approved": True}))
    with refused(InputsPending):
        await bench.buffer.append(lease, suspended(), messages=[message(run)], then="suspend")
    stored = await bench.buffer.messages(run.conversation_id)
    assert [m.message_id for m in stored] == [run.message_id]
    before = await bench.buffer.get(run.run_id)
    assert (before.status, before.owner, before.head_seq) == ("running", "worker-1", 2)
    done = message(
        run,
        message_id=run.message_id,
        role="assistant",
        content=b'["done"]',
        private=b"\x00",
        run_id=run.run_id,
    )
    (posted,) = await bench.buffer.inputs(run.run_id)
    await bench.buffer.append(lease, ending(), messages=[done], consumed=[posted.input_id], then="over")
    (last,) = await bench.buffer.messages(run.conversation_id)
    assert (last.status, last.content, last.private) == ("complete", b'["done"]', b"\x00")
    assert last.created_at == stored[0].created_at


@behaviour
async def a_long_ending_is_kept_whole(bench: Bench) -> None:
    lease = await bench.held()
    last = NewEvent("message_completed", b'{"type":"message_completed","x":"' + b"y" * 600_000 + b'"}')
    await bench.buffer.append(lease, [last, ending()[-1]], then="over")
    page = await bench.buffer.read(lease.run_id, 1)
    assert [event.data for event in page.events] == [last.data, ending()[-1].data]
