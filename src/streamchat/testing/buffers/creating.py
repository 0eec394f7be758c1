"""Behaviours of `create`: what a new run is, which one is no new run, and who gets a conversation's slot."""

from __future__ import annotations

import anyio

from streamchat.buffers.base import NewEvent, NewRun
from streamchat.errors import (
    ConversationBusy,
    ConversationNotFound,
    IdempotencyConflict,
    InvalidInput,
    RunNotFound,
    StreamChatError,
)
from streamchat.principal import Principal
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, ending, message, refused

__all__: list[str] = []

ANN = Principal("ann", "acme", {"roles": ["admin"], "quota": 3})
BOB = Principal("bob", "acme")


@behaviour
async def a_run_begins_queued_with_run_started_as_its_first_event(bench: Bench) -> None:
    run = bench.new_run(
        principal=ANN, request=b'\x00{"model": "m"}', parent_run_id="run-before", title="Hello"
    )
    made = await bench.buffer.create(run, [message(run, message_id="user-1", run_id=run.run_id)])
    assert made.new
    record = made.run
    assert record == await bench.buffer.get(run.run_id)
    assert (record.run_id, record.conversation_id, record.message_id) == (
        run.run_id,
        run.conversation_id,
        run.message_id,
    )
    assert (record.status, record.head_seq, record.fence, record.over) == ("queued", 1, 0, False)
    assert (record.owner, record.lease_until, record.wake_at) == (None, None, None)
    assert (record.principal, record.request, record.parent_run_id) == (ANN, run.request, "run-before")
    assert record.created_at == record.updated_at > 0
    page = await bench.buffer.read(run.run_id)
    (event,) = page.events
    assert (event.seq, event.type, event.data, event.private) == (1, "run_started", run.started.data, None)
    assert event.generation == record.generation
    assert [tuple(segment) for segment in page.segments] == [(record.generation, 1)]
    assert (page.first_seq, page.last_seq, page.closed) == (1, 1, False)
    conversation = await bench.buffer.conversation(run.conversation_id)
    assert (conversation.owner, conversation.tenant, conversation.title) == ("ann", "acme", "Hello")
    assert (conversation.active_run_id, conversation.leaf_id) == (run.run_id, run.message_id)
    (stored,) = await bench.buffer.messages(run.conversation_id)
    assert (stored.message_id, stored.run_id, stored.created_at) == ("user-1", run.run_id, record.created_at)


@behaviour
async def kept_events_follow_run_started_in_the_first_segment(bench: Bench) -> None:
    run = bench.new_run()
    made = await bench.buffer.create(run, (), [*deltas("a", "b"), NewEvent("custom", b"{}", b"{}")])
    page = await bench.buffer.read(run.run_id)
    assert [event.type for event in page.events] == ["run_started", "text_delta", "text_delta", "custom"]
    assert [event.private for event in page.events] == [None, None, None, b"{}"]
    assert made.run.head_seq == page.last_seq == 4
    assert [tuple(segment) for segment in page.segments] == [(made.run.generation, 1)]


@behaviour
async def the_same_key_with_the_same_digest_returns_the_first_run(bench: Bench) -> None:
    first = await bench.created(principal=ANN, idempotency_key="key", digest="d")
    again = bench.new_run(principal=ANN, idempotency_key="key", digest="d")
    made = await bench.buffer.create(again, [message(again)])
    assert not made.new
    assert made.run == await bench.buffer.get(first.run_id)
    with refused(RunNotFound):
        await bench.buffer.get(again.run_id)
    with refused(ConversationNotFound):
        await bench.buffer.messages(again.conversation_id)


@behaviour
async def a_key_returns_its_run_also_when_that_has_ended(bench: Bench) -> None:
    lease = await bench.held(idempotency_key="key", digest="d")
    await bench.buffer.append(lease, ending(), then="over")
    made = await bench.buffer.create(bench.new_run(idempotency_key="key", digest="d"))
    assert (made.new, made.run.run_id, made.run.status) == (False, lease.run_id, "success")


@behaviour
async def the_same_key_with_another_digest_is_refused(bench: Bench) -> None:
    await bench.created(idempotency_key="key", digest="d")
    with refused(IdempotencyConflict):
        await bench.buffer.create(bench.new_run(idempotency_key="key", digest="e"))


@behaviour
async def a_key_belongs_to_one_principal(bench: Bench) -> None:
    principals = [None, ANN, BOB, Principal("ann"), Principal("ann", "other"), Principal("", "ann")]
    runs = [await bench.created(principal=who, idempotency_key="key", digest="d") for who in principals]
    assert len({run.run_id for run in runs}) == len(principals)
    for who, run in zip(principals, runs, strict=True):
        made = await bench.buffer.create(bench.new_run(principal=who, idempotency_key="key", digest="d"))
        assert (made.new, made.run.run_id) == (False, run.run_id)


@behaviour
async def a_create_that_is_sent_twice_makes_one_run(bench: Bench) -> None:
    run = await bench.created()
    made = await bench.buffer.create(run)
    assert (made.new, made.run.head_seq) == (False, 1)
    await bench.claimed(run.run_id)
    again = await bench.buffer.create(run)
    assert (again.new, again.run.status) == (False, "running")


@behaviour
async def a_run_id_is_taken_once(bench: Bench) -> None:
    run = await bench.created()
    with refused(InvalidInput):
        await bench.buffer.create(bench.new_run(run_id=run.run_id))
    with refused(InvalidInput):
        await bench.buffer.create(
            bench.new_run(run_id=run.run_id, conversation_id=run.conversation_id, principal=BOB)
        )


@behaviour
async def a_conversation_has_one_active_run(bench: Bench) -> None:
    first = await bench.created()
    second = bench.new_run(conversation_id=first.conversation_id)
    with refused(ConversationBusy) as refusal:
        await bench.buffer.create(second, [message(second)])
    assert isinstance(refusal.error, ConversationBusy)
    assert refusal.error.active_run_id == first.run_id
    # A refused create writes nothing.
    with refused(RunNotFound):
        await bench.buffer.get(second.run_id)
    assert await bench.buffer.messages(first.conversation_id) == []
    found = await bench.buffer.find(first.conversation_id)
    assert found is not None
    assert found.run_id == first.run_id


@behaviour
async def of_many_creates_in_one_conversation_one_wins(bench: Bench) -> None:
    conversation_id = bench.new_run().conversation_id
    won: list[str] = []
    busy: list[str] = []

    async def attempt(run: NewRun) -> None:
        try:
            await bench.buffer.create(run)
        except ConversationBusy as error:
            busy.append(error.active_run_id)
        else:
            won.append(run.run_id)

    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(attempt, bench.new_run(conversation_id=conversation_id))
    assert len(won) == 1
    assert busy == won * 11


@behaviour
async def of_many_creates_with_one_key_one_makes_the_run(bench: Bench) -> None:
    made: list[tuple[bool, str]] = []

    async def attempt() -> None:
        result = await bench.buffer.create(bench.new_run(idempotency_key="key", digest="d"))
        made.append((result.new, result.run.run_id))

    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(attempt)
    assert [new for new, _ in made].count(True) == 1
    assert len({run_id for _, run_id in made}) == 1


@behaviour
async def a_conversation_of_somebody_else_is_not_found(bench: Bench) -> None:
    for owner in (ANN, None):
        lease = await bench.held(principal=owner)
        conversation_id = (await bench.buffer.get(lease.run_id)).conversation_id
        await bench.buffer.append(lease, ending(), then="over")
        for who in (BOB, None, Principal("ann"), Principal("ann", "other"), ANN):
            if who == owner:
                continue
            with refused(ConversationNotFound):
                await bench.buffer.create(bench.new_run(conversation_id=conversation_id, principal=who))
        await bench.created(conversation_id=conversation_id, principal=owner)


@behaviour
async def what_does_not_belong_together_is_refused(bench: Bench) -> None:
    run = bench.new_run()
    wrong: list[tuple[NewRun, list[NewEvent]]] = [
        (bench.new_run(started=deltas("a")[0]), []),
        (run, ending()),
        (bench.new_run(idempotency_key="key"), []),
    ]
    for new, kept in wrong:
        with refused(StreamChatError):
            await bench.buffer.create(new, (), kept)
    with refused(InvalidInput):
        await bench.buffer.create(run, [message(run, conversation_id="another")])
    await bench.buffer.create(run)


@behaviour
async def a_run_is_found_again_by_its_idempotency_key(bench: Bench) -> None:
    run = await bench.created(principal=ANN, idempotency_key="key", digest="d")
    async with bench.another() as other:
        found = await other.created(ANN, "key", "d")
        assert found is not None
        assert found.run_id == run.run_id
    for who, key in ((None, "key"), (Principal("ann", "elsewhere"), "key"), (ANN, "other")):
        assert await bench.buffer.created(who, key, "d") is None
    with refused(IdempotencyConflict):
        await bench.buffer.created(ANN, "key", "e")
    await bench.buffer.delete(run_id=run.run_id)
    assert await bench.buffer.created(ANN, "key", "d") is None
