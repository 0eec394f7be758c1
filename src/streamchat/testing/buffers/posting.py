"""Behaviours of `post` and `inputs`: answers that come once, in order, and wake whoever waits for them."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from streamchat.buffers.base import Input, Lease
from streamchat.errors import AnswerConflict, InputsPending, LeaseLost, RunNotFound, RunOver
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, ending, refused, suspended

__all__: list[str] = []

YES = Input("approval", "call-1", {"approved": True, "reason": "a \x00 and \ud800"}, by="ann")


@behaviour
async def an_input_is_kept_as_it_was_posted(bench: Bench) -> None:
    lease = await bench.held()
    posted = await bench.buffer.post(lease.run_id, YES)
    assert posted.new
    assert posted.run == await bench.buffer.get(lease.run_id)
    assert (posted.run.status, posted.run.owner) == ("running", "worker-1")
    (kept,) = await bench.buffer.inputs(lease.run_id)
    assert (kept.kind, kept.key, kept.body, kept.by) == (YES.kind, YES.key, YES.body, YES.by)
    assert kept.input_id
    assert kept.at > 0


@behaviour
async def inputs_come_in_order_until_they_are_consumed(bench: Bench) -> None:
    lease = await bench.held()
    wanted = [
        Input("tool_result", "call-2", {"output": [1, None, {"a": 1.5}]}),
        Input("approval", "call-2", {"approved": False}),
        Input("cancel", body={"reason": "enough"}),
        Input("job_result", "call:with:colons", {}),
    ]
    for one in wanted:
        await bench.buffer.post(lease.run_id, one)
    kept = await bench.buffer.inputs(lease.run_id)
    assert [(i.kind, i.key, i.body) for i in kept] == [(i.kind, i.key, i.body) for i in wanted]
    assert len({i.input_id for i in kept}) == len(wanted)
    names = [kept[3].input_id, kept[1].input_id]
    appended = await bench.buffer.append(lease, deltas("a"), consumed=names)
    assert appended.lease.inputs
    assert [i.kind for i in await bench.buffer.inputs(lease.run_id)] == ["tool_result", "cancel"]
    # What was consumed stays consumed, also when that is said twice.
    names += [i.input_id for i in await bench.buffer.inputs(lease.run_id)]
    appended = await bench.buffer.append(appended.lease, (), consumed=names)
    assert not appended.lease.inputs
    assert await bench.buffer.inputs(lease.run_id) == []


@behaviour
async def a_holder_is_told_of_inputs_with_every_answer(bench: Bench) -> None:
    run = await bench.created()
    await bench.buffer.post(run.run_id, YES)
    lease = await bench.claimed(run.run_id)
    assert lease.inputs
    lease = (await bench.buffer.append(lease, deltas("a"))).lease
    assert lease.inputs
    (posted,) = await bench.buffer.inputs(run.run_id)
    lease = (await bench.buffer.append(lease, (), consumed=[posted.input_id])).lease
    assert not lease.inputs
    assert not (await bench.buffer.renew(lease, bench.ttl)).inputs
    await bench.buffer.post(run.run_id, Input("cancel"))
    assert (await bench.buffer.renew(lease, bench.ttl)).inputs


@behaviour
async def the_same_input_again_changes_nothing(bench: Bench) -> None:
    lease = await bench.held()
    first = await bench.buffer.post(lease.run_id, YES)
    somebody_else = Input("approval", "call-1", dict(reversed(YES.body.items())), by="bob")
    again = await bench.buffer.post(lease.run_id, somebody_else)
    assert (again.new, again.run) == (False, first.run)
    (kept,) = await bench.buffer.inputs(lease.run_id)
    assert kept.by == "ann"
    lease = (await bench.buffer.append(lease, (), consumed=[kept.input_id])).lease
    assert not (await bench.buffer.post(lease.run_id, YES)).new
    assert await bench.buffer.inputs(lease.run_id) == []
    await bench.buffer.append(lease, suspended(), then="suspend")
    # An answer that was read does not wake the run again.
    assert (await bench.buffer.post(lease.run_id, YES)).run.status == "suspended"


@behaviour
async def another_answer_is_a_conflict(bench: Bench) -> None:
    lease = await bench.held()
    await bench.buffer.post(lease.run_id, YES)
    with refused(AnswerConflict):
        await bench.buffer.post(lease.run_id, Input("approval", "call-1", {"approved": False}))
    # Another call, and another kind of input for this one, are other questions.
    await bench.buffer.post(lease.run_id, Input("approval", "call-2", {"approved": False}))
    await bench.buffer.post(lease.run_id, Input("tool_result", "call-1", {"output": 1}))
    assert len(await bench.buffer.inputs(lease.run_id)) == 3


@behaviour
async def the_first_cancel_stands(bench: Bench) -> None:
    lease = await bench.held()
    assert (await bench.buffer.post(lease.run_id, Input("cancel", body={"reason": "first"}))).new
    again = await bench.buffer.post(lease.run_id, Input("cancel", body={"reason": "second"}))
    assert not again.new
    (kept,) = await bench.buffer.inputs(lease.run_id)
    assert kept.body == {"reason": "first"}
    await bench.buffer.append(lease, ending("cancelled"), consumed=[kept.input_id], then="over")
    assert not (await bench.buffer.post(lease.run_id, Input("cancel"))).new


@behaviour
async def after_the_end_only_what_was_said_before_may_be_said(bench: Bench) -> None:
    lease = await bench.held()
    await bench.buffer.post(lease.run_id, YES)
    (kept,) = await bench.buffer.inputs(lease.run_id)
    await bench.buffer.append(lease, ending(), consumed=[kept.input_id], then="over")
    assert not (await bench.buffer.post(lease.run_id, YES)).new
    with refused(AnswerConflict):
        await bench.buffer.post(lease.run_id, Input("approval", "call-1", {"approved": False}))
    with refused(RunOver):
        await bench.buffer.post(lease.run_id, Input("approval", "call-2", {"approved": True}))
    with refused(RunOver):
        await bench.buffer.post(lease.run_id, Input("cancel"))
    assert await bench.buffer.inputs(lease.run_id) == []


@behaviour
async def a_post_wakes_a_suspended_run(bench: Bench) -> None:
    lease = await bench.held()
    await bench.buffer.append(lease, suspended(), then="suspend", wake_at=2**52)
    posted = await bench.buffer.post(lease.run_id, YES)
    assert (posted.run.status, posted.run.wake_at) == ("queued", None)
    claim = await bench.buffer.claim("worker-2", bench.ttl)
    assert claim is not None
    assert (claim.lease.run_id, claim.lease.inputs) == (lease.run_id, True)


@behaviour
async def a_run_with_unread_inputs_is_not_suspended(bench: Bench) -> None:
    lease = await bench.held()
    await bench.buffer.post(lease.run_id, YES)
    await bench.buffer.post(lease.run_id, Input("cancel"))
    first, second = await bench.buffer.inputs(lease.run_id)
    for consumed in ([], [first.input_id], [first.input_id, "no-such-input"]):
        with refused(InputsPending):
            await bench.buffer.append(lease, suspended(), consumed=consumed, then="suspend")
    record = await bench.buffer.get(lease.run_id)
    assert (record.status, record.owner, record.head_seq) == ("running", "worker-1", 1)
    assert await bench.buffer.inputs(lease.run_id) == [first, second]
    names = [first.input_id, second.input_id]
    await bench.buffer.append(lease, suspended(), consumed=names, then="suspend")
    assert (await bench.buffer.get(lease.run_id)).status == "suspended"


@behaviour
async def a_post_that_races_with_suspend_is_never_left_lying(bench: Bench) -> None:
    for number in range(20):
        lease = await bench.held()
        outcomes: list[str] = []

        async def suspend(lease: Lease = lease, outcomes: list[str] = outcomes) -> None:
            try:
                await bench.buffer.append(lease, suspended(), then="suspend")
            except InputsPending:
                outcomes.append("pending")
            else:
                outcomes.append("suspended")

        async with anyio.create_task_group() as group:
            group.start_soon(suspend)
            # A little later each time, so that both orders come about.
            for _ in range(number // 2):
                await anyio.lowlevel.checkpoint()
            await bench.buffer.post(lease.run_id, YES)
        record = await bench.buffer.get(lease.run_id)
        assert record.status == {"pending": "running", "suspended": "queued"}[outcomes[0]]
        assert len(await bench.buffer.inputs(lease.run_id)) == 1


@behaviour
async def a_suspend_whose_acknowledgement_was_lost_is_recovered_after_an_answer(bench: Bench) -> None:
    lease = await bench.held()
    await bench.buffer.append(lease, suspended(), then="suspend")
    await bench.buffer.post(lease.run_id, YES)
    assert (await bench.buffer.append(lease, suspended(), then="suspend")).recovered
    assert (await bench.buffer.get(lease.run_id)).status == "queued"
    await bench.claimed(lease.run_id, "worker-2")
    with refused(LeaseLost):
        await bench.buffer.append(lease, suspended(), then="suspend")


@behaviour
async def nothing_is_posted_to_an_unknown_run(bench: Bench) -> None:
    with refused(RunNotFound):
        await bench.buffer.post("no-such-run", Input("cancel"))
    with refused(RunNotFound):
        await bench.buffer.inputs("no-such-run")
