"""What a page lacks: its half of a message, wherever it was cut off, and the rest are the whole, and once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamchat.core.fold import fold
from streamchat.core.sse import SSEDecoder
from streamchat.events import (
    CustomEvent,
    ErrorEvent,
    Finalized,
    MessageCompleted,
    ModelCompleted,
    RunStarted,
    StepFinished,
    StepStarted,
    StoredEvent,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    ToolProgress,
    ToolResult,
    ToolStarted,
)
from streamchat.http.vercel_rest import place_of, rest_of
from streamchat.testing.strategies import SECRET, batch_borders, json_values, stored_logs
from streamchat.wire.vercel import DONE, Chunk, Target, VercelEncoder, VercelWire, events_up_to
from tests.http.test_vercel import PARTS as GIVEN_PARTS
from tests.http.test_vercel import ui_message
from tests.wire.test_vercel import OPTIONS, TARGETS, in_order
from tests.wire.vercel_rules import Message, chunks_of, expected

Log = list[StoredEvent]
IDS = st.sampled_from(["call_1", "call_2", "approval_3"])
PARTS = GIVEN_PARTS | st.fixed_dictionaries(
    {"type": st.sampled_from(["step-start", "text", "tool-weather", "dynamic-tool", "data-note", "file"])},
    optional={
        "toolCallId": IDS,
        "state": st.sampled_from(["input-streaming", "input-available", "output-available", "output-error"]),
        "approval": st.fixed_dictionaries({"id": IDS}) | json_values(),
        "text": json_values(),
        "id": IDS,
    },
)


def streamed(log: Log, target: Target, **options: Any) -> list[Chunk]:
    encoder = VercelEncoder(target, **options)
    chunks = [chunk for event in log for chunk in encoder.encode(event)]
    return json.loads(json.dumps(chunks))


def copy_of(message: Message) -> list[dict[str, Any]]:
    return ui_message(message)["parts"]


def last_calls(message: Message) -> list[Chunk]:
    """The calls of its last step."""
    begins = [at for at, part in enumerate(message.parts) if part["type"] == "step-start"]
    return [part for part in message.parts[begins[-1] if begins else 0 :] if part["type"] == "tool"]


def asks_by_itself(message: Message) -> bool:
    """``lastAssistantMessageIsCompleteWithToolCalls`` of 5.0.60."""
    calls = last_calls(message)
    return bool(calls) and all(part["state"] in ("output-available", "output-error") for part in calls)


def knows_its_place(message: Message) -> bool:
    return any(part["state"] != "input-streaming" for part in last_calls(message))


def data_of(message: Message) -> list[str]:
    """The application's data, which must come once; the progress of a tool that is done may be left out."""
    return sorted(
        json.dumps([part["type"], part.get("data")], sort_keys=True)
        for part in message.parts
        if part["type"].startswith("data-") and part["type"] != "data-tool-progress"
    )


def rewrites(log: Log) -> bool:
    """Whether a step's text stands otherwise than it streamed: what a page shows of it may be withdrawn."""
    return any(
        part.text is not None
        for stored in log
        if isinstance(stored.event, ModelCompleted)
        for part in stored.event.parts
    )


def answered(log: Log, message: Message, target: Target, **options: Any) -> Message:
    """The page after what it is told of a run that is over."""
    chunks = rest_of(log, copy_of(message), VercelEncoder(target, **options), "m1")
    assert chunks is not None
    assert SECRET not in json.dumps(chunks)
    return Message(target, message).take(json.loads(json.dumps(chunks))).finish()


@given(stored_logs(cut=None), st.data(), TARGETS, OPTIONS, st.booleans())
def test_half_of_an_answer_that_is_over_and_its_rest_are_the_whole(
    log: Log, data: st.DataObject, target: Target, options: dict[str, Any], replayed: bool
) -> None:
    if replayed:
        wire = VercelWire(target, **options)
        chunks = chunks_of(wire.replay(log) + wire.close())
    else:
        chunks = streamed(log, target, **options)
    whole = Message(target).take(chunks).finish()
    assume(whole.error != VercelEncoder.BEGUN_ANEW and not rewrites(log))
    halves = [Message(target).take(chunks[:count]) for count in range(1, len(chunks) + 1)]
    placed = [half for half in halves if knows_its_place(half)]
    half = data.draw(st.sampled_from(placed or halves))
    after = answered(log, half, target, **options)
    assert not asks_by_itself(after)
    assert (after.id, after.ended_by) == (whole.id, whole.ended_by)
    assert after.metadata == whole.metadata
    if placed:
        assert in_order(after.said, log) == in_order(expected(fold(log), target), log)
        assert data_of(after) == data_of(whole)
    else:
        assert (after.said, data_of(after)) == (half.said, data_of(half))


@given(stored_logs(cut=None), st.data(), TARGETS, OPTIONS)
def test_half_of_an_answer_goes_on_live_from_where_it_stands(
    log: Log, data: st.DataObject, target: Target, options: dict[str, Any]
) -> None:
    whole = Message(target).take(streamed(log, target, **options)).finish()
    assume(whole.error != VercelEncoder.BEGUN_ANEW and not rewrites(log))
    at = data.draw(st.sampled_from(batch_borders(log)))
    chunks = streamed(log[:at], target, **options)
    halves = [Message(target).take(chunks[:count]) for count in range(1, len(chunks) + 1)]
    halves = [half for half in halves if knows_its_place(half)]
    assume(halves)
    half = data.draw(st.sampled_from(halves))
    place = place_of(log[:at], copy_of(half))
    assert place is not None
    wire = VercelWire(target, **options)
    body = wire.go_on(place.had, place.rest, log[:at], first=place.first)
    body += b"".join(wire.events(log[at:])) + wire.close()
    after = Message(target, half).take(chunks_of(body)).finish()
    assume(after.error != VercelEncoder.BEGUN_ANEW)
    assert in_order(after.said, log) == in_order(expected(fold(log), target), log)
    assert data_of(after) == data_of(whole)

    # And where that breaks off, its tail is what was left of it.
    blocks = [block + b"\n\n" for block in body.split(b"\n\n")[:-1]]
    named = [at for at, block in enumerate(blocks) if block.startswith(b"id: ")]
    cut = data.draw(st.sampled_from(named))
    cursor = SSEDecoder().feed(blocks[cut])[0].id
    assert cursor is not None
    known = events_up_to(log, cursor)
    tail = VercelWire(target, **options)
    if tail.tail(log[:known], cursor):
        assert b"".join(tail.events(log[known:])) + tail.close() == b"".join(blocks[cut + 1 :])
    else:
        assert blocks[cut + 1 :] == [DONE]


@given(stored_logs(), st.lists(PARTS, max_size=6), TARGETS)
def test_whatever_a_page_shows_it_gets_a_response_that_ends(
    log: Log, parts: list[dict[str, Any]], target: Target
) -> None:
    place_of(log, parts)
    if not fold(log).over:
        return
    chunks = rest_of(log, parts, VercelEncoder(target), "m1")
    if chunks is not None:
        assert chunks[0] == {"type": "start", "messageId": "m1"}
        assert chunks[-1]["type"] in ("finish", "abort", "error")


# Case by case.


def stored(*events: StreamEvent) -> list[StoredEvent]:
    return [StoredEvent(seq, seq, event, "g") for seq, event in enumerate(events, 1)]


def called(*after: StreamEvent, problem: Any = None) -> list[StreamEvent]:
    return [
        RunStarted(run_id="r", message_id="m", conversation_id="c", model="x"),
        StepStarted(step=1),
        TextDelta(step=1, part=0, text="Let me see."),
        ToolCallEvent(step=1, part=1, call_id="k", name="find", arguments={}, problem=problem),
        ModelCompleted(step=1, finish_reason="tool_calls", call_ids=("k",)),
        ToolStarted(step=1, call_id="k", attempt=1, idempotency_key="i"),
        *after,
    ]


def result(outcome: Any = "ok", **more: Any) -> ToolResult:
    return ToolResult(
        step=1, call_id="k", outcome=outcome, output="found" if outcome == "ok" else None, **more
    )


def story(*tools: StreamEvent) -> list[StoredEvent]:
    return stored(
        *called(*tools),
        StepFinished(step=1),
        StepStarted(step=2),
        TextDelta(step=2, part=2, text="That is it."),
        ModelCompleted(step=2, finish_reason="stop"),
        StepFinished(step=2),
        MessageCompleted(),
        Finalized(status="success"),
    )


def half_of(log: Log, target: Target = "v5") -> Message:
    """A page that was cut off behind the last of these events."""
    return Message(target).take(streamed(log, target))


def types(chunks: Sequence[Chunk] | None) -> list[str]:
    assert chunks is not None
    return [chunk["type"] for chunk in chunks]


def rest(log: Log, half: Message, target: Target = "v5") -> list[Chunk] | None:
    return rest_of(log, copy_of(half), VercelEncoder(target), "m")


@pytest.mark.parametrize("target", ["v5", "v6", "v7"])
@pytest.mark.parametrize("hold_steps", [False, True])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_response_that_goes_on_in_mid_step_and_is_cut_off_there_has_its_text_in_one(
    target: Target, hold_steps: bool, pieces: int
) -> None:
    log = stored(
        RunStarted(run_id="r", message_id="m", conversation_id="c", model="x"),
        StepStarted(step=1),
        ToolCallEvent(step=1, part=0, call_id="k", name="web", arguments={}, executed_by="provider"),
        ToolResult(step=1, call_id="k", outcome="ok", output="found"),
        *(TextDelta(step=1, part=1, text=text) for text in ("That ", "is ", "it.")),
        ModelCompleted(step=1, finish_reason="stop"),
        StepFinished(step=1),
        MessageCompleted(),
        Finalized(status="success"),
    )
    known = log[: 4 + pieces]
    half = half_of(log[:4], target)
    place = place_of(known, copy_of(half))
    assert place is not None
    wire = VercelWire(target, hold_steps=hold_steps)
    first = wire.go_on(place.had, place.rest, known, first=place.first)
    cursor = SSEDecoder().feed(first)[-1].id
    assert cursor is not None
    assert events_up_to(log, cursor) == len(known)
    tail = VercelWire(target, hold_steps=hold_steps)
    assert tail.tail(known, cursor)
    left = log[len(known) :]
    rest_ = b"".join(tail.events(left))
    assert rest_ == b"".join(wire.events(left))
    after = Message(target, half).take(chunks_of(first + rest_)).finish()
    assert after.said[-1] == ("text", "That is it.")


def test_progress_is_no_result() -> None:
    log = story(ToolProgress(step=1, call_id="k", message="half"), result())
    half = half_of(log[:7])
    assert asks_by_itself(half)
    assert types(rest(log, half)) == [
        "start",
        "tool-output-available",
        "start-step",
        "text-start",
        "text-delta",
        "text-end",
        "finish-step",
        "finish",
    ]


def test_what_the_page_has_does_not_come_again() -> None:
    log = story(CustomEvent(step=1, name="note", data=1), result(), CustomEvent(step=1, name="note", data=2))
    assert types(rest(log, half_of(log[:8])))[:3] == ["start", "data-note", "start-step"]
    assert types(rest(log, half_of(log[:9])))[:2] == ["start", "start-step"]


def test_a_page_that_lacks_only_the_end_is_told_it_behind_a_step_of_its_own() -> None:
    log = stored(
        *called(result()),
        ErrorEvent(phase="limit", code="max_steps", message="Enough."),
        MessageCompleted(),
        Finalized(status="error"),
    )
    for count in (7, len(log)):
        chunks = rest(log, half_of(log[:count]))
        assert types(chunks) == ["start", "start-step", "finish-step", "message-metadata", "error"]
        assert chunks is not None
        assert chunks[-1]["errorText"] == "Enough."


def test_a_call_that_cannot_be_carried_out_has_no_result_yet() -> None:
    log = stored(
        *called(problem="unknown_tool")[:-1],
        CustomEvent(step=1, name="note", data=1),
        result("error", error="There is no such tool."),
        StepFinished(step=1),
        MessageCompleted(),
        Finalized(status="success"),
    )
    half = half_of(log[:5])
    assert asks_by_itself(half)
    assert types(rest(log, half)) == [
        "start",
        "data-note",
        "tool-output-error",
        "start-step",
        "finish-step",
        "finish",
    ]


def test_a_page_that_shows_steps_behind_its_last_calls_is_told_the_end() -> None:
    log = story(result())
    half = half_of(log[:10])
    assert half.said[-1] == ("text", "That is it.")
    assert types(rest(log, half)) == ["start", "start-step", "finish-step", "finish"]


def test_a_page_that_sends_its_calls_alone_is_not_told_their_step_again() -> None:
    log = story(CustomEvent(step=1, name="note", data=1), result())
    calls = [part for part in copy_of(half_of(log[:8])) if "toolCallId" in part]
    assert types(rest_of(log, calls, VercelEncoder("v5"), "m"))[:2] == ["start", "start-step"]


def test_a_call_that_was_never_completed_is_no_reason_to_lose_or_repeat_anything() -> None:
    log = stored(
        RunStarted(run_id="r", message_id="m", conversation_id="c", model="x"),
        StepStarted(step=1),
        TextDelta(step=1, part=0, text="Let me see."),
        ToolCallDelta(step=1, part=1, call_id="k", name="find", arguments="{"),
        ModelCompleted(step=1, finish_reason="length"),
        CustomEvent(step=1, name="note", data=1),
        StepFinished(step=1),
        MessageCompleted(),
        Finalized(status="success"),
    )
    half = half_of(log[:5])
    assert asks_by_itself(half)
    assert types(rest(log, half)) == ["start", "data-note", "start-step", "finish-step", "finish"]


def test_text_that_was_withdrawn_since_cannot_be_gone_on_with() -> None:
    ends: list[StreamEvent] = [MessageCompleted(), Finalized(status="cancelled")]
    log = stored(*called(problem="unknown_tool")[:-1], result("cancelled"), *ends)
    half = half_of(log[:4])
    assert asks_by_itself(half)
    half.parts[1]["text"] = "Let me think."
    assert rest(log, half) is None
    assert place_of(log, copy_of(half)) is None


def test_a_log_that_was_trimmed_says_what_its_message_says() -> None:
    log = story(result())
    state = fold(log[:-2])
    log[-2] = StoredEvent(log[-2].seq, 1, MessageCompleted(content=state.parts, finish_reason="stop"), "g")
    half = half_of(log[:7])
    chunks = rest(log[-2:], half)
    assert chunks is not None
    assert chunks[0] == {"type": "start", "messageId": "m"}
    after = Message("v5", half).take(chunks).finish()
    assert after.said == expected(fold(log), "v5")
