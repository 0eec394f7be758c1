"""Behaviours of `delete`: what goes, whose lease is lost with it, and that ids are not taken again."""

from __future__ import annotations

from streamchat.buffers.base import Input, MessageRecord, NewRun
from streamchat.errors import ConversationNotFound, InvalidInput, LeaseLost, RunNotFound
from streamchat.principal import Principal
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, ending, message, refused

__all__: list[str] = []

SOON = 10.0


@behaviour
async def a_deleted_run_is_gone_and_its_holder_loses_the_lease(bench: Bench) -> None:
    run = bench.new_run()
    mine = message(run, run_id=run.run_id)
    old = message(run)
    await bench.buffer.create(run, [old, mine])
    lease = await bench.claimed(run.run_id)
    await bench.buffer.post(run.run_id, Input("cancel"))
    assert await bench.buffer.delete(run_id=run.run_id) == 1
    with refused(LeaseLost):
        await bench.buffer.append(lease, deltas("late"))
    with refused(LeaseLost):
        await bench.buffer.renew(lease, bench.ttl)
    for call in (bench.buffer.get, bench.buffer.read, bench.buffer.inputs):
        with refused(RunNotFound):
            await call(run.run_id)
    with refused(RunNotFound):
        await bench.buffer.post(run.run_id, Input("cancel"))
    assert await bench.buffer.claim("worker-2", bench.ttl, run.run_id) is None
    conversation = await bench.buffer.conversation(run.conversation_id)
    assert (conversation.active_run_id, conversation.leaf_id) == (None, old.message_id)
    assert [m.message_id for m in await bench.buffer.messages(run.conversation_id)] == [old.message_id]
    with refused(InvalidInput):
        await bench.buffer.create(bench.new_run(run_id=run.run_id))
    with refused(InvalidInput):
        await bench.buffer.create(run)
    assert await bench.buffer.delete(run_id=run.run_id) == 0
    await bench.created(conversation_id=run.conversation_id)


async def turn(bench: Bench, home: str, follows: str | None) -> tuple[NewRun, str]:
    """Return a run that is over, and its question, which follows the message of that id."""
    run = bench.new_run(conversation_id=home)
    question = message(run, run_id=run.run_id, parent_id=follows)
    await bench.buffer.create(run, [question, answer(run, question.message_id)])
    lease = await bench.claimed(run.run_id)
    await bench.buffer.append(lease, ending(), messages=[answer(run, question.message_id)], then="over")
    return run, question.message_id


def answer(run: NewRun, question: str) -> MessageRecord:
    return message(run, message_id=run.message_id, run_id=run.run_id, role="assistant", parent_id=question)


async def parents(bench: Bench, home: str) -> dict[str, str | None]:
    return {row.message_id: row.parent_id for row in await bench.buffer.messages(home)}


@behaviour
async def what_followed_a_deleted_run_follows_what_that_followed(bench: Bench) -> None:
    first, first_question = await turn(bench, "home", None)
    second, second_question = await turn(bench, "home", first.message_id)
    third, third_question = await turn(bench, "home", second.message_id)
    other, other_question = await turn(bench, "home", second_question)
    await bench.buffer.delete(run_id=second.run_id)
    rest = {
        third_question: first.message_id,
        third.message_id: third_question,
        other_question: first.message_id,
        other.message_id: other_question,
    }
    kept = {first_question: None, first.message_id: first_question}
    assert await parents(bench, "home") == kept | rest
    await bench.buffer.delete(run_id=first.run_id)
    assert await parents(bench, "home") == rest | {third_question: None, other_question: None}


@behaviour
async def a_message_that_is_written_again_follows_what_it_followed(bench: Bench) -> None:
    first, _ = await turn(bench, "home", None)
    second, question = await turn(bench, "home", first.message_id)
    again = bench.new_run(conversation_id="home")
    await bench.buffer.create(again, [answer(again, question)])
    lease = await bench.claimed(again.run_id)
    await bench.buffer.delete(run_id=second.run_id)
    assert (await parents(bench, "home"))[again.message_id] == first.message_id
    # Its holder knows nothing of that.
    await bench.buffer.append(lease, ending(), messages=[answer(again, question)], then="over")
    assert (await parents(bench, "home"))[again.message_id] == first.message_id


@behaviour
async def a_retry_follows_what_the_answer_beside_it_follows_by_now(bench: Bench) -> None:
    first, _ = await turn(bench, "home", None)
    second, question = await turn(bench, "home", first.message_id)
    again = await retried(bench, second, question)
    await bench.buffer.delete(run_id=second.run_id)
    # Who made these has not heard of it.
    third = await retried(bench, again, question)
    assert (await parents(bench, "home"))[third.message_id] == first.message_id
    await bench.buffer.delete(run_id=first.run_id)
    fourth = await retried(bench, third, question)
    assert set((await parents(bench, "home")).items()) == {
        (run.message_id, None) for run in (again, third, fourth)
    }


async def retried(bench: Bench, parent: NewRun, question: str) -> NewRun:
    """Return a run beside ``parent`` that is over, made for an answer to the message of that id."""
    run = bench.new_run(conversation_id="home", parent_run_id=parent.run_id)
    await bench.buffer.create(run, [answer(run, question)])
    lease = await bench.claimed(run.run_id)
    await bench.buffer.append(lease, ending(), messages=[answer(run, question)], then="over")
    return run


@behaviour
async def a_run_that_was_deleted_is_not_retried(bench: Bench) -> None:
    first, question = await turn(bench, "home", None)
    await bench.buffer.delete(run_id=first.run_id)
    run = bench.new_run(conversation_id="home", parent_run_id=first.run_id)
    with refused(RunNotFound):
        await bench.buffer.create(run, [answer(run, question)])
    assert await bench.buffer.messages("home") == []
    assert (await bench.buffer.conversation("home")).leaf_id is None
    with refused(RunNotFound):
        await bench.buffer.get(run.run_id)


@behaviour
async def a_deleted_conversation_goes_with_all_that_is_in_it(bench: Bench) -> None:
    lease = await bench.held()
    home = (await bench.buffer.get(lease.run_id)).conversation_id
    await bench.buffer.append(lease, ending(), then="over")
    second = bench.new_run(conversation_id=home)
    await bench.buffer.create(second, [message(second)])
    neighbour = await bench.created()
    assert await bench.buffer.delete(conversation_id=home) == 2
    for run_id in (lease.run_id, second.run_id):
        with refused(RunNotFound):
            await bench.buffer.get(run_id)
    with refused(ConversationNotFound):
        await bench.buffer.conversation(home)
    with refused(ConversationNotFound):
        await bench.buffer.messages(home)
    with refused(ConversationNotFound):
        await bench.buffer.create(bench.new_run(conversation_id=home))
    with refused(InvalidInput):
        await bench.buffer.create(bench.new_run(run_id=second.run_id))
    assert await bench.buffer.find(home) is None
    assert await bench.buffer.delete(conversation_id=home) == 0
    await bench.buffer.get(neighbour.run_id)


@behaviour
async def all_of_a_principal_can_be_deleted(bench: Bench) -> None:
    ann, same_name = Principal("ann", "acme"), Principal("ann", "other")
    mine = [await bench.created(principal=ann) for _ in range(3)]
    theirs = [
        await bench.created(principal=who) for who in (same_name, Principal("ann"), Principal("bob", "acme"))
    ]
    assert await bench.buffer.delete(owner="ann", tenant="acme") == 3
    assert await bench.buffer.conversations("ann", "acme") == []
    for run in mine:
        with refused(RunNotFound):
            await bench.buffer.get(run.run_id)
    for run in theirs:
        await bench.buffer.get(run.run_id)
    assert await bench.buffer.delete(owner="ann") == 1
    assert await bench.buffer.delete(owner="nobody") == 0


@behaviour
async def a_delete_names_exactly_one_thing(bench: Bench) -> None:
    run = await bench.created()
    with refused(InvalidInput):
        await bench.buffer.delete()
    with refused(InvalidInput):
        await bench.buffer.delete(tenant="acme")
    with refused(InvalidInput):
        await bench.buffer.delete(run_id=run.run_id, conversation_id=run.conversation_id)
    await bench.buffer.get(run.run_id)


@behaviour
async def a_follower_is_told_that_its_run_is_gone(bench: Bench) -> None:
    run = await bench.created()
    follower = await bench.buffer.follow(run.run_id)
    await bench.buffer.delete(run_id=run.run_id)
    assert await follower.wait(SOON)
    await follower.close()
