"""Behaviours of ids: which ones are taken, and that one which cannot be stored is an unknown one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamchat.buffers.base import Input, MessageRecord, NewRun
from streamchat.buffers.notes import notes_of
from streamchat.buffers.titles import titles_of
from streamchat.errors import ConversationNotFound, InvalidInput, RunNotFound
from streamchat.principal import Principal
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, message, refused

__all__: list[str] = []

LONGEST = 191
TOO_LONG = "x" * (LONGEST + 1)
NOT_TEXT = ("\0", "a\0b", "\ud800", "b\udfff")
UNSTORABLE = (*NOT_TEXT, TOO_LONG)


@behaviour
async def an_id_that_cannot_be_stored_is_unknown(bench: Bench) -> None:
    run = await bench.created()
    titles, notes = titles_of(bench.buffer), notes_of(bench.buffer)
    for name in UNSTORABLE:
        for read in (bench.buffer.get, bench.buffer.read, bench.buffer.inputs):
            with refused(RunNotFound):
                await read(name)
        with refused(RunNotFound):
            await bench.buffer.post(name, Input("cancel"))
        assert await bench.buffer.claim("worker-1", bench.ttl, name) is None
        follower = await bench.buffer.follow(name)
        await follower.close()
        with refused(ConversationNotFound):
            await bench.buffer.conversation(name)
        with refused(ConversationNotFound):
            await bench.buffer.messages(name)
        assert await bench.buffer.find(name) is None
        assert await bench.buffer.enqueued(name) == []
        assert await bench.buffer.created(None, name, "digest") is None
        assert await bench.buffer.conversations(name) == []
        assert await bench.buffer.conversations("ann", name) == []
        assert await bench.buffer.delete(run_id=name) == 0
        assert await bench.buffer.delete(conversation_id=name) == 0
        assert await bench.buffer.delete(owner=name) == 0
        assert await bench.buffer.delete(owner="ann", tenant=name) == 0
        if titles is not None:
            assert not await titles.set_title(name, "title")
        if notes is not None:
            assert await notes.notes(name) == []
    # What waits is still to be had.
    await bench.claimed(run.run_id)


@behaviour
async def a_page_behind_an_id_that_cannot_be_stored_is_refused(bench: Bench) -> None:
    run = await bench.created(principal=Principal("ann"))
    for name in UNSTORABLE:
        with refused(InvalidInput) as refusal:
            await bench.buffer.conversations("ann", after=name)
        assert _field(refusal.error) == "after"
        with refused(InvalidInput) as refusal:
            await bench.buffer.messages(run.conversation_id, after=name)
        assert _field(refusal.error) == "after"
        with refused(ConversationNotFound):
            await bench.buffer.messages("no-such-conversation", after=name)


@behaviour
async def nothing_is_created_under_an_id_that_cannot_be_stored(bench: Bench) -> None:
    for name in UNSTORABLE:
        wrong: dict[str, NewRun] = {
            field: bench.new_run(**{field: name})
            for field in ("run_id", "conversation_id", "message_id", "parent_run_id")
        }
        wrong["principal.id"] = bench.new_run(principal=Principal(name))
        wrong["principal.tenant"] = bench.new_run(principal=Principal("ann", name))
        for field, run in wrong.items():
            await _refused_at(bench, field, name, run)
        for field in ("message_id", "run_id", "parent_id"):
            run = bench.new_run()
            await _refused_at(bench, field, name, run, [message(run, **{field: name})])
    lease = await bench.held()
    home = (await bench.buffer.get(lease.run_id)).conversation_id
    for name in UNSTORABLE:
        with refused(InvalidInput):
            late = message(bench.new_run(), message_id=name, conversation_id=home)
            await bench.buffer.append(lease, deltas("a"), messages=[late])
        with refused(InvalidInput) as refusal:
            await bench.buffer.post(lease.run_id, Input("approval", key=name))
        assert _field(refusal.error) == "key"
    assert (await bench.buffer.read(lease.run_id)).last_seq == 1
    assert await bench.buffer.inputs(lease.run_id) == []


@behaviour
async def ids_of_the_greatest_length_are_taken(bench: Bench) -> None:
    longest = "ü" * LONGEST
    ann = Principal(longest, longest)
    run = bench.new_run(
        run_id=longest, conversation_id=longest, message_id=longest, parent_run_id=longest, principal=ann
    )
    await bench.buffer.create(run, [message(run, message_id=longest, parent_id=longest)])
    record = await bench.buffer.get(longest)
    assert (record.conversation_id, record.message_id, record.principal) == (longest, longest, ann)
    assert [c.conversation_id for c in await bench.buffer.conversations(longest, longest)] == [longest]
    assert [m.message_id for m in await bench.buffer.messages(longest)] == [longest]


@behaviour
async def claims_that_are_no_json_are_refused(bench: Bench) -> None:
    for claims in ({"a": object()}, {"a": {1, 2}}, {"a": b"\xff"}):
        run = bench.new_run(principal=Principal("ann", claims=claims))
        await _refused_at(bench, "principal.claims", None, run)


async def _refused_at(
    bench: Bench, field: str, value: str | None, run: NewRun, messages: Sequence[MessageRecord] = ()
) -> None:
    """A refused create says of which field and value, and writes nothing."""
    with refused(InvalidInput) as refusal:
        await bench.buffer.create(run, messages)
    assert _field(refusal.error) == field, (field, refusal.error)
    told = str(refusal.error)
    assert "INSERT" not in told.upper(), told
    if value == TOO_LONG:
        assert str(LONGEST) in told, told
        assert str(len(TOO_LONG)) in told, told
    elif value is not None:
        assert repr(value) in told, told
    with refused(RunNotFound):
        await bench.buffer.get(run.run_id)


def _field(error: Any) -> str | None:
    return error.field if isinstance(error, InvalidInput) else None
