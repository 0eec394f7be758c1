"""Behaviours of notes, which a buffer may offer: kept by run and name, due when their time is over."""

from __future__ import annotations

from streamchat.buffers.notes import NewNote, Note, NoteStore, notes_of
from streamchat.testing.buffers.suite import Bench, behaviour, message

__all__: list[str] = []


def _bodies(notes: list[Note]) -> list[tuple[str, str, bytes]]:
    return [(note.run_id, note.name, note.body) for note in notes]


def _store(bench: Bench) -> NoteStore | None:
    """The buffer, if it has notes at all: they are an offer of its own, which the service does without."""
    return notes_of(bench.buffer)


@behaviour
async def a_note_is_kept_by_run_and_name_and_replaced(bench: Bench) -> None:
    if (store := _store(bench)) is None:
        return
    run = await bench.created()
    await store.write_notes([NewNote(run.run_id, "b", b"\0\xff", 60.0), NewNote(run.run_id, "a", b"1", 60.0)])
    await store.write_notes([NewNote("not-there-yet", "a", b"elsewhere", 60.0)])
    assert _bodies(await store.notes(run.run_id)) == [(run.run_id, "a", b"1"), (run.run_id, "b", b"\0\xff")]
    assert _bodies(await store.notes("not-there-yet")) == [("not-there-yet", "a", b"elsewhere")]
    assert await store.notes("unknown") == []
    await store.write_notes([NewNote(run.run_id, "a", b"2", 60.0), NewNote(run.run_id, "a", b"3", 60.0)])
    await store.write_notes([NewNote(run.run_id, "b", None), NewNote(run.run_id, "never", None)])
    await store.write_notes([])
    assert _bodies(await store.notes(run.run_id)) == [(run.run_id, "a", b"3")]
    async with bench.another() as other:
        seen = notes_of(other)
        assert seen is not None
        assert await seen.notes(run.run_id) == await store.notes(run.run_id)


@behaviour
async def a_note_is_due_when_its_time_is_over_by_the_stores_clock(bench: Bench) -> None:
    if (store := _store(bench)) is None:
        return
    second, first, later = [(await bench.created()).run_id for _ in range(3)]
    assert await store.due_notes() == []
    await store.write_notes([NewNote(first, "x", b"1", 0.0)])
    await bench.advance(0.01)
    await store.write_notes([NewNote(second, "x", b"2", 0.0), NewNote(later, "x", b"3", 600.0)])
    await bench.advance(0.01)
    due = await store.due_notes()
    assert _bodies(due) == [(first, "x", b"1"), (second, "x", b"2")]
    assert all(note.expired for note in due)
    assert _bodies(await store.due_notes(1)) == [(first, "x", b"1")]
    assert [note.expired for note in await store.notes(later)] == [False]
    await store.write_notes([NewNote(first, "x", b"again", 600.0)])
    assert _bodies(await store.due_notes()) == [(second, "x", b"2")]


@behaviour
async def a_note_that_was_written_anew_is_not_dropped(bench: Bench) -> None:
    if (store := _store(bench)) is None:
        return
    run_id = (await bench.created()).run_id
    await store.write_notes([NewNote(run_id, "x", b"1"), NewNote(run_id, "y", b"1")])
    due = await store.due_notes()
    assert len(due) == 2
    await store.write_notes([NewNote(run_id, "x", b"2", 600.0)])
    assert await store.drop_notes(due) == 1
    assert _bodies(await store.notes(run_id)) == [(run_id, "x", b"2")]
    assert await store.drop_notes(due) == 0
    assert await store.drop_notes([]) == 0


@behaviour
async def the_notes_of_a_deleted_run_go_with_it(bench: Bench) -> None:
    if (store := _store(bench)) is None:
        return
    alone, together, neighbour = bench.new_run(), bench.new_run(), await bench.created()
    for run in (alone, together):
        await bench.buffer.create(run, [message(run)])
    await store.write_notes([NewNote(run.run_id, "x", b"1", 60.0) for run in (alone, together, neighbour)])
    await bench.buffer.delete(run_id=alone.run_id)
    await bench.buffer.delete(conversation_id=together.conversation_id)
    for run in (alone, together):
        assert await store.notes(run.run_id) == []
    assert len(await store.notes(neighbour.run_id)) == 1
