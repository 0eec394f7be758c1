"""Behaviours of conversations and their messages: whose they are, in which order, and how they change."""

from __future__ import annotations

from dataclasses import replace

from streamchat.buffers.titles import titles_of
from streamchat.errors import ConversationNotFound, InvalidInput
from streamchat.principal import Principal
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, ending, message, refused

__all__: list[str] = []


@behaviour
async def messages_stand_in_the_order_in_which_they_were_first_written(bench: Bench) -> None:
    run = bench.new_run()
    written = [message(run, message_id=f"{run.run_id}-{name}") for name in "cab"]
    await bench.buffer.create(run, written)
    lease = await bench.claimed(run.run_id)
    last = message(run, parent_id=written[2].message_id, kind="summary", private=b"secret", role="system")
    changed = message(run, message_id=written[0].message_id, status="error", content=b"[]")
    await bench.advance(0.01)
    await bench.buffer.append(lease, (), messages=[last, changed])
    stored = await bench.buffer.messages(run.conversation_id)
    names = [m.message_id for m in stored]
    assert names == [*(m.message_id for m in written), last.message_id]
    assert (stored[0].status, stored[0].content) == ("error", b"[]")
    assert stored[0].created_at == stored[1].created_at < stored[3].created_at
    for got, given in ((stored[1], written[1]), (stored[3], last)):
        assert (got.role, got.status, got.kind, got.content) == (
            given.role,
            given.status,
            given.kind,
            given.content,
        )
        assert (got.private, got.parent_id, got.run_id) == (given.private, given.parent_id, given.run_id)
    for count in (1, 2, 3):
        page = await bench.buffer.messages(run.conversation_id, limit=count)
        assert [m.message_id for m in page] == names[:count]
        rest = await bench.buffer.messages(run.conversation_id, after=page[-1].message_id)
        assert [m.message_id for m in rest] == names[count:]
    assert await bench.buffer.messages(run.conversation_id, after=names[-1]) == []


@behaviour
async def a_message_id_belongs_to_one_conversation(bench: Bench) -> None:
    run = bench.new_run()
    mine = message(run)
    await bench.buffer.create(run, [mine])
    other = bench.new_run()
    with refused(InvalidInput):
        await bench.buffer.create(other, [message(other, message_id=mine.message_id, content=b"stolen")])
    lease = await bench.held()
    home = (await bench.buffer.get(lease.run_id)).conversation_id
    with refused(InvalidInput):
        theft = message(other, message_id=mine.message_id, conversation_id=home)
        await bench.buffer.append(lease, deltas("a"), messages=[theft])
    with refused(InvalidInput):
        await bench.buffer.append(lease, deltas("a"), messages=[mine])
    assert (await bench.buffer.read(lease.run_id)).last_seq == 1
    (stored,) = await bench.buffer.messages(run.conversation_id)
    assert stored.content == mine.content


@behaviour
async def an_unknown_conversation_is_not_found(bench: Bench) -> None:
    with refused(ConversationNotFound):
        await bench.buffer.conversation("no-such-conversation")
    with refused(ConversationNotFound):
        await bench.buffer.messages("no-such-conversation")
    with refused(ConversationNotFound):
        await bench.buffer.messages("no-such-conversation", after="x")
    run = await bench.created()
    assert await bench.buffer.messages(run.conversation_id) == []
    with refused(InvalidInput):
        await bench.buffer.messages(run.conversation_id, after="no-such-message")


@behaviour
async def a_principal_sees_its_own_conversations_the_newest_first(bench: Bench) -> None:
    ann = Principal("ann", "acme")
    names = []
    for _ in range(5):
        names.append((await bench.created(principal=ann)).conversation_id)
        await bench.advance(0.01)
    strangers: list[Principal | None] = [
        Principal("bob", "acme"),
        Principal("ann", "other"),
        Principal("ann"),
        None,
    ]
    theirs = [(await bench.created(principal=who)).conversation_id for who in strangers]
    for who, name in zip(strangers, theirs, strict=True):
        owner, tenant = (who.id, who.tenant) if who else (None, None)
        assert [c.conversation_id for c in await bench.buffer.conversations(owner, tenant)] == [name]
    expected = names[::-1]
    listed = await bench.buffer.conversations("ann", "acme")
    assert [c.conversation_id for c in listed] == expected
    assert listed[0] == await bench.buffer.conversation(expected[0])
    paged: list[str] = []
    while page := await bench.buffer.conversations(
        "ann", "acme", after=paged[-1] if paged else None, limit=2
    ):
        paged += [c.conversation_id for c in page]
    assert paged == expected
    with refused(InvalidInput):
        await bench.buffer.conversations("ann", "acme", after=theirs[0])
    assert await bench.buffer.conversations("nobody") == []


@behaviour
async def a_conversation_that_changes_comes_to_the_front(bench: Bench) -> None:
    ann = Principal("ann")
    lease = await bench.held(principal=ann)
    first = (await bench.buffer.get(lease.run_id)).conversation_id
    await bench.advance(0.01)
    second = (await bench.created(principal=ann, title="two")).conversation_id
    await bench.advance(0.01)
    await bench.buffer.append(lease, ending(), then="over")
    listed = await bench.buffer.conversations("ann")
    assert [c.conversation_id for c in listed] == [first, second]
    assert [c.title for c in listed] == [None, "two"]
    assert listed[0].updated_at > listed[0].created_at


@behaviour
async def a_title_may_be_given_later(bench: Bench) -> None:
    titles = titles_of(bench.buffer)
    if titles is None:
        return
    run = await bench.created(title="first words")
    before = await bench.buffer.conversation(run.conversation_id)
    assert await titles.set_title(run.conversation_id, "Grüße \ud83d!")
    assert await titles.set_title(run.conversation_id, "Grüße \ud83d!")
    assert await bench.buffer.conversation(run.conversation_id) == replace(before, title="Grüße \ud83d!")
    assert await titles.set_title(run.conversation_id, None)
    assert (await bench.buffer.conversation(run.conversation_id)).title is None
    await bench.buffer.delete(conversation_id=run.conversation_id)
    assert not await titles.set_title(run.conversation_id, "gone")
    assert not await titles.set_title("no-such-conversation", "gone")
    with refused(ConversationNotFound):
        await bench.buffer.conversation(run.conversation_id)


@behaviour
async def a_title_is_that_of_the_first_run(bench: Bench) -> None:
    lease = await bench.held(title="Grüße \ud83d!")
    home = (await bench.buffer.get(lease.run_id)).conversation_id
    await bench.buffer.append(lease, ending(), then="over")
    second = await bench.created(conversation_id=home, title="another")
    conversation = await bench.buffer.conversation(home)
    assert conversation.title == "Grüße \ud83d!"
    assert (conversation.active_run_id, conversation.leaf_id) == (second.run_id, second.message_id)
