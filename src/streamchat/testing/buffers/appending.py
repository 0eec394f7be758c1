"""Behaviours of `append`: the log's order, the rule of who may write, and acknowledgements that were lost."""

from __future__ import annotations

import anyio

from streamchat.buffers.base import Lease, NewEvent, Then
from streamchat.errors import InvalidInput, LeaseLost
from streamchat.testing.buffers.suite import Bench, behaviour, deltas, ending, refused, suspended

__all__: list[str] = []


@behaviour
async def an_ending_that_is_none_is_refused(bench: Bench) -> None:
    lease = await bench.held()
    with refused(InvalidInput) as refusal:
        await bench.buffer.append(lease, deltas("a"), then="bogus")  # type: ignore[arg-type]
    assert isinstance(refusal.error, InvalidInput)
    assert refusal.error.field == "then"
    await bench.buffer.append(lease, deltas("a"))


@behaviour
async def events_are_numbered_without_gaps_and_come_back_as_they_were(bench: Bench) -> None:
    lease = await bench.held()
    batch = [*deltas("a"), NewEvent("custom", b'{"type":"custom"}', b'{"secret":1}'), *deltas("b")]
    appended = await bench.buffer.append(lease, batch)
    assert not appended.recovered
    assert [event.seq for event in appended.events] == [2, 3, 4]
    assert [(e.type, e.data, e.private) for e in appended.events] == [tuple(event) for event in batch]
    assert {event.generation for event in appended.events} == {lease.generation}
    assert appended.lease.head_seq == 4
    assert appended.lease.generation == lease.generation
    more = await bench.buffer.append(appended.lease, deltas("c"))
    page = await bench.buffer.read(lease.run_id, 1)
    assert list(page.events) == [*appended.events, *more.events]
    assert page.last_seq == 5 == (await bench.buffer.get(lease.run_id)).head_seq


@behaviour
async def a_batch_whose_acknowledgement_was_lost_is_recovered(bench: Bench) -> None:
    lease = await bench.held()
    batch = [NewEvent("custom", b'{"type":"custom"}', b"{}"), *deltas("a", "b")]
    first = await bench.buffer.append(lease, batch)
    for _ in range(2):
        again = await bench.buffer.append(lease, batch)
        assert again.recovered
        assert list(again.events) == list(first.events)
        assert again.lease == first.lease
    assert (await bench.buffer.read(lease.run_id)).last_seq == 4
    await bench.buffer.append(first.lease, deltas("c"))
    assert await bench.texts(lease.run_id) == ["a", "b", "c"]


@behaviour
async def only_the_very_same_batch_is_taken_for_one_that_was_lost(bench: Bench) -> None:
    lease = await bench.held()
    await bench.buffer.append(lease, deltas("a", "b"))
    others: list[tuple[list[NewEvent], Then]] = [
        (deltas("a", "c"), "hold"),
        (deltas("a"), "hold"),
        (deltas("a", "b", "c"), "hold"),
        ([], "hold"),
        ([deltas("a")[0], deltas("b")[0]._replace(private=b"{}")], "hold"),
        ([deltas("a")[0], deltas("b")[0]._replace(type="custom")], "hold"),
        (deltas("a", "b"), "queue"),
    ]
    for batch, then in others:
        with refused(LeaseLost):
            await bench.buffer.append(lease, batch, then=then)
    assert await bench.texts(lease.run_id) == ["a", "b"]
    assert (await bench.buffer.append(lease, deltas("a", "b"))).recovered


@behaviour
async def a_lost_acknowledgement_of_every_ending_is_recovered(bench: Bench) -> None:
    endings: list[tuple[list[NewEvent], Then]] = [
        (deltas("a"), "queue"),
        ([], "queue"),
        (suspended(), "suspend"),
        ([], "suspend"),
        (ending(), "over"),
    ]
    for events, then in endings:
        lease = await bench.held()
        first = await bench.buffer.append(lease, events, then=then)
        before = await bench.buffer.get(lease.run_id)
        again = await bench.buffer.append(lease, events, then=then)
        assert again.recovered, f"{then} with {len(events)} events"
        assert list(again.events) == list(first.events)
        assert await bench.buffer.get(lease.run_id) == before


@behaviour
async def a_batch_is_not_recovered_once_somebody_else_holds_the_run(bench: Bench) -> None:
    lease = await bench.held()
    await bench.buffer.append(lease, deltas("a"))
    await bench.advance(bench.ttl + 0.01)
    await bench.claimed(lease.run_id, "worker-2")
    with refused(LeaseLost):
        await bench.buffer.append(lease, deltas("a"))
    queued = await bench.held()
    await bench.buffer.append(queued, (), then="queue")
    await bench.claimed(queued.run_id, "worker-2")
    with refused(LeaseLost):
        await bench.buffer.append(queued, (), then="queue")


@behaviour
async def a_holder_who_names_another_head_is_refused(bench: Bench) -> None:
    lease = await bench.held()
    lease = (await bench.buffer.append(lease, deltas("a", "b", "c"))).lease
    for head in (0, 1, 3, 5, 100):
        with refused(LeaseLost):
            await bench.buffer.append(lease.advanced(head), deltas("x"))
    assert await bench.texts(lease.run_id) == ["a", "b", "c"]


@behaviour
async def an_unknown_run_is_a_lost_lease(bench: Bench) -> None:
    lease = await bench.held()
    with refused(LeaseLost):
        await bench.buffer.append(
            Lease("no-such-run", "worker-1", lease.generation, 1, 1, lease.expires_at), deltas("x")
        )


@behaviour
async def a_stale_holder_fails_alone(bench: Bench) -> None:
    stale = await bench.held()
    await bench.advance(bench.ttl + 0.01)
    await bench.claimed(stale.run_id, "worker-2")
    leases = [await bench.held() for _ in range(6)]
    refusals: list[LeaseLost] = []

    async def append(lease: Lease) -> None:
        try:
            await bench.buffer.append(lease, deltas("a", "b"))
        except LeaseLost as error:
            refusals.append(error)

    async with anyio.create_task_group() as group:
        for lease in (*leases[:3], stale, *leases[3:]):
            group.start_soon(append, lease)
    assert len(refusals) == 1
    for lease in leases:
        assert await bench.texts(lease.run_id) == ["a", "b"]
    assert await bench.texts(stale.run_id) == []


@behaviour
async def an_ending_and_its_event_go_together(bench: Bench) -> None:
    lease = await bench.held()
    wrong: list[tuple[list[NewEvent], Then]] = [
        (deltas("a"), "over"),
        ([], "over"),
        (ending(), "hold"),
        (ending(), "queue"),
        (ending(), "suspend"),
        ([*ending(), *deltas("a")], "hold"),
        ([NewEvent("finalized", b'{"type":"finalized","status":"well"}')], "over"),
        ([NewEvent("finalized", b"not json")], "over"),
    ]
    for events, then in wrong:
        with refused(InvalidInput):
            await bench.buffer.append(lease, events, then=then)
    assert (await bench.buffer.read(lease.run_id)).last_seq == 1
    await bench.buffer.append(lease, deltas("a"))


@behaviour
async def any_bytes_survive(bench: Bench) -> None:
    payloads = [
        b"\x00",
        b"\x00\x00key\x00{}",
        b'{"text":"\x00"}',
        rb'{"text":"\ud800"}',
        b"\xed\xa0\x80",
        b"\xff\xfe\x80",
        "{'€': '🚀'}".encode(),
        b"",
        bytes(range(256)) * 5,
    ]
    lease = await bench.held(request=b"\x00\xff")
    batch = [NewEvent("custom", data, data) for data in payloads] + [NewEvent("x,y\n|", b"{}", None)]
    appended = await bench.buffer.append(lease, batch)
    page = await bench.buffer.read(lease.run_id, 1)
    assert [(e.type, e.data, e.private) for e in page.events] == [tuple(event) for event in batch]
    assert list(page.events) == list(appended.events)
    assert (await bench.buffer.append(lease, batch)).recovered
    assert (await bench.buffer.get(lease.run_id)).request == b"\x00\xff"


@behaviour
async def eight_megabytes_survive_among_small_events(bench: Bench) -> None:
    lease = await bench.held()
    large = NewEvent("tool_result", b"{" + b"x" * 8_000_000 + b"}", b"p" * 1_000_000)
    neighbours = [await bench.held() for _ in range(3)]
    async with anyio.create_task_group() as group:
        group.start_soon(bench.buffer.append, lease, [*deltas("a"), large, *deltas("b")])
        for neighbour in neighbours:
            group.start_soon(bench.buffer.append, neighbour, deltas("n"))
    page = await bench.buffer.read(lease.run_id, 2, 1)
    assert [(e.data, e.private) for e in page.events] == [(large.data, large.private)]
    seqs, after = [], 0
    while after < page.last_seq:
        events = (await bench.buffer.read(lease.run_id, after)).events
        seqs += [event.seq for event in events]
        after = seqs[-1]
    assert seqs == [1, 2, 3, 4]
    for neighbour in neighbours:
        assert await bench.texts(neighbour.run_id) == ["n"]


@behaviour
async def a_long_batch_is_one_batch(bench: Bench) -> None:
    lease = await bench.held()
    texts = [str(number) for number in range(1777)]
    appended = await bench.buffer.append(lease, deltas(*texts))
    assert [event.seq for event in appended.events] == list(range(2, 1779))
    assert (await bench.buffer.append(lease, deltas(*texts))).recovered
    assert await bench.texts(lease.run_id) + await bench.texts(lease.run_id, 1000) == texts
