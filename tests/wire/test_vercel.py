"""The Vercel wire: every legal log becomes a stream that its clients accept, and the message that it folds
to."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamchat.core.fold import fold
from streamchat.core.sse import SSEDecoder
from streamchat.errors import InvalidInput
from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    Cancelled,
    CustomEvent,
    ErrorEvent,
    FileEvent,
    Finalized,
    FinishedPart,
    MessageCompleted,
    ModelCompleted,
    RefusalDelta,
    RunStarted,
    SourceEvent,
    StepFinished,
    StepReset,
    StepStarted,
    StoredEvent,
    StreamEvent,
    Suspended,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    ToolProgress,
    ToolResult,
    Wait,
)
from streamchat.messages import Usage
from streamchat.service.hub import HistoryReset
from streamchat.testing.strategies import SECRET, event_logs, stored_logs
from streamchat.wire.compact import compact, events_of
from streamchat.wire.vercel import (
    DONE,
    Chunk,
    Target,
    VercelEncoder,
    VercelWire,
    as_target,
    events_up_to,
    ui_message,
    vercel_stream,
)
from tests.wire.vercel_rules import Message, chunks_of, expected

TARGETS = st.sampled_from(["v5", "v6", "v7"])
OPTIONS = st.fixed_dictionaries(
    {
        "progress": st.sampled_from(["output", "data"]),
        "dynamic": st.booleans(),
        "hold_steps": st.booleans(),
    }
)


def encode(events: list[StreamEvent], target: Target = "v6", **options: Any) -> list[Chunk]:
    encoder = VercelEncoder(target, **options)
    chunks = [chunk for event in events for chunk in encoder.encode(event)]
    return json.loads(json.dumps([*chunks, *encoder.close()]))


def starts() -> list[StreamEvent]:
    return [RunStarted(run_id="r", message_id="m", conversation_id="c", model="x"), StepStarted(step=1)]


def ends(step: int = 1, status: Any = "success", **more: Any) -> list[StreamEvent]:
    return [StepFinished(step=step), MessageCompleted(), Finalized(status=status, **more)]


def types(chunks: list[Chunk]) -> list[str]:
    return [chunk["type"] for chunk in chunks]


def in_order(parts: list[tuple[Any, ...]], log: list[Any]) -> list[Any]:
    """``parts`` as they are, or sorted where a call's name came after its arguments: a client cannot be told
    of a call without a name, so what came in between stands before it."""
    events = [event.event if isinstance(event, StoredEvent) else event for event in log]
    named: set[str] = set()
    for event in events:
        if isinstance(event, StepReset):
            named.clear()  # ids may come again
        if isinstance(event, ToolCallDelta) and not event.name and event.call_id not in named:
            return sorted(parts, key=repr)
        if isinstance(event, ToolCallDelta):
            named.add(event.call_id)
    return parts


# ----------------------------------------------------------------------------------- laws for all logs


@given(event_logs(cut="anywhere", as_written=False), TARGETS, OPTIONS)
def test_any_legal_log_that_ends_anywhere_is_a_stream_that_clients_accept(
    log: list[StreamEvent], target: Target, options: dict[str, Any]
) -> None:
    assume(log)
    chunks = encode(log, target, **options)
    message = Message(target).take(chunks).finish()
    assert SECRET not in json.dumps(chunks)
    if log[-1].type == "finalized" and message.error != VercelEncoder.BEGUN_ANEW:
        ended = {"success": "finish", "error": "error", "cancelled": "abort"}[log[-1].status]
        assert message.ended_by == ended


@given(event_logs(), TARGETS, OPTIONS)
def test_the_message_of_a_client_is_the_fold_of_the_log(
    log: list[StreamEvent], target: Target, options: dict[str, Any]
) -> None:
    message = Message(target).take(encode(log, target, **options)).finish()
    if message.error == VercelEncoder.BEGUN_ANEW:
        assert target != "v7"
        assert not options["hold_steps"]
    else:
        assert in_order(message.said, log) == in_order(expected(fold(log), target), log)


@given(stored_logs(cut="batch"), TARGETS, OPTIONS)
def test_a_replay_of_any_log_is_short_and_comes_to_the_same_message(
    log: list[StoredEvent], target: Target, options: dict[str, Any]
) -> None:
    wire = VercelWire(target, **options)
    chunks = chunks_of(wire.replay(log) + wire.close())
    message = Message(target).take(chunks).finish()
    assert message.error != VercelEncoder.BEGUN_ANEW
    state = fold(log)
    if state.over:
        assert in_order(message.said, log) == in_order(expected(state, target), log)
    ids = [chunk["id"] for chunk in chunks if chunk["type"].endswith("-delta") and "id" in chunk]
    assert len(ids) == len(set(ids))


@given(stored_logs(cut=None), st.data(), TARGETS)
def test_a_client_that_begins_anew_in_the_middle_ends_with_the_same_message(
    log: list[StoredEvent], data: st.DataObject, target: Target
) -> None:
    at = data.draw(st.integers(1, len(log)))
    wire = VercelWire(target)
    body = wire.replay(log[:at]) + b"".join(wire.events(log[at:])) + wire.close()
    message = Message(target).take(chunks_of(body)).finish()
    if message.error != VercelEncoder.BEGUN_ANEW:
        assert in_order(message.said, log) == in_order(expected(fold(log), target), log)


@given(stored_logs(cut=None), st.data(), TARGETS, OPTIONS)
def test_a_tail_goes_on_just_where_the_connection_was_cut(
    log: list[StoredEvent], data: st.DataObject, target: Target, options: dict[str, Any]
) -> None:
    # A response begins with the run, with a replay of what there is, or behind a pause.
    pauses = [count for count, event in enumerate(log, 1) if event.type == "suspended"]
    began = data.draw(st.integers(0, len(log)))
    wire = VercelWire(target, **options)
    if began in pauses and data.draw(st.booleans()):
        body = wire.resume(log[:began], after_end=True)
    else:
        body = wire.replay(log[:began])
    body += b"".join(wire.events(log[began:])) + wire.close()
    blocks = [block + b"\n\n" for block in body.split(b"\n\n")[:-1]]
    named = [at for at, block in enumerate(blocks) if block.startswith(b"id: ")]
    at = data.draw(st.sampled_from(named))
    cursor = blocks[at].split(b"\n")[0].removeprefix(b"id: ").decode()
    known = events_up_to(log, cursor)
    assert known == int(cursor.rpartition(".")[2])
    rest = b"".join(blocks[at + 1 :])
    tail = VercelWire(target, **options)
    if tail.tail(log[:known], cursor):
        assert b"".join(tail.events(log[known:])) + tail.close() == rest
    else:
        assert rest == DONE


def test_nothing_is_put_behind_what_is_not_known_to_be_there() -> None:
    log = [StoredEvent(seq, seq, event, "g") for seq, event in enumerate([*starts(), *ends()], 1)]
    assert events_up_to(log, None) == events_up_to(log, "g.9") == events_up_to(log, "h-r1.2") == 0
    assert not VercelWire().tail([], "g.0")
    assert not VercelWire().tail(log[1:3], "g.3")
    assert not VercelWire().tail(log[:2], "g-r3.2")


@given(stored_logs(cut=None), TARGETS)
def test_a_run_that_pauses_goes_on_in_further_responses_about_the_same_message(
    log: list[StoredEvent], target: Target
) -> None:
    message: Message | None = None
    begin = 0
    pauses = [i + 1 for i, event in enumerate(log) if event.type == "suspended"]
    for end in [*pauses, len(log)]:
        wire = VercelWire(target, hold_steps=True)
        body = wire.resume(log[:begin], after_end=True) if begin else b""
        body += b"".join(wire.events(log[begin:end])) + wire.close()
        message = Message(target, message).take(chunks_of(body)).finish()
        begin = end
    assert message is not None
    assert in_order(message.said, log) == in_order(expected(fold(log), target), log)


@given(stored_logs(cut="batch"), TARGETS)
def test_a_snapshot_says_what_the_log_said(log: list[StoredEvent], target: Target) -> None:
    state = fold(log)
    assert fold(events_of(state)).parts == state.parts or not state.over
    wire = VercelWire(target)
    reset = HistoryReset("trimmed", 2, log[-1].seq, state.model_dump_json().encode(), log[-1].id)
    message = Message(target).take(chunks_of(wire.reset(reset) + wire.close())).finish()
    if state.over:
        assert in_order(message.said, log) == in_order(expected(state, target), log)


@given(event_logs(), TARGETS, st.booleans())
def test_a_stored_message_is_what_its_stream_left_on_the_page(
    log: list[StreamEvent], target: Target, dynamic: bool
) -> None:
    state = fold(log)
    message = json.loads(json.dumps(ui_message("m", "assistant", state.parts, target, dynamic=dynamic)))
    assert [part for part in map(_stored, message["parts"]) if part] == _as_json(expected(state, target))
    left = Message(target).take(encode(log, target, dynamic=dynamic, hold_steps=True))
    steps = [part for part in left.parts if part["type"] == "step-start"]
    assert message["parts"][:1] == steps[:1] or not left.said
    assert _errors(message["parts"]) == _errors(left.parts)


def _errors(parts: list[Chunk]) -> dict[str, str]:
    """What each call that failed says, but for those that a stream saw only in pieces."""
    return {
        part["toolCallId"]: part["errorText"]
        for part in parts
        if part.get("state") == "output-error" and part["errorText"] != "The call was never completed."
    }


def test_an_answer_of_nothing_is_stored_as_the_step_that_its_stream_left() -> None:
    left = Message("v6").take(encode([*starts(), ModelCompleted(step=1), *ends()])).parts
    assert left == ui_message("m", "assistant", [])["parts"] == [{"type": "step-start"}]


def _as_json(parts: list[Any]) -> list[Any]:
    return [tuple(part) for part in json.loads(json.dumps(parts))]


def _stored(part: Chunk) -> tuple[Any, ...] | None:
    """A part of a UI message in the form of `expected`."""
    kind = part["type"]
    if kind in ("text", "reasoning"):
        return (kind, part["text"])
    if kind == "step-start":
        return None
    if "toolCallId" not in part:
        return (kind, part.get("url"))
    name = part["toolName"] if kind == "dynamic-tool" else kind.removeprefix("tool-")
    shown = {"output-available": ("input", "output"), "output-denied": ("input",)}.get(part["state"], ())
    return ("tool", part["toolCallId"], name, part["state"], *(part[name] for name in shown))


@given(event_logs(cut="batch"))
def test_a_log_made_short_folds_to_the_same_parts(log: list[StreamEvent]) -> None:
    short = compact(log)
    assert compact(short) == short
    assert _whole_parts(short) == _whole_parts(log)


def _whole_parts(log: list[StreamEvent]) -> list[dict[str, Any]]:
    """The parts of a log without calls that are still streaming, and without what progress was last."""
    parts = [part.model_dump(exclude={"progress"}) for part in fold(log).parts]
    return [part for part in parts if part.get("state") != "streaming"]


# ---------------------------------------------------------------------------------------- case by case


def call(call_id: str = "k", **more: Any) -> list[StreamEvent]:
    fields: dict[str, Any] = {"name": "find", "arguments": {"q": 1}, **more}
    return [
        ToolCallEvent(step=1, part=1, call_id=call_id, **fields),
        ModelCompleted(step=1, finish_reason="tool_calls", call_ids=(call_id,)),
    ]


def test_an_answer_is_start_steps_parts_and_finish_with_what_it_took() -> None:
    usage = Usage(input_tokens=3, output_tokens=4, total_tokens=7)
    log = [
        StoredEvent(1, 1000, starts()[0], "g"),
        StoredEvent(2, 1001, starts()[1], "g"),
        StoredEvent(3, 1500, TextDelta(step=1, part=0, text="Hi"), "g"),
        StoredEvent(4, 1600, ModelCompleted(step=1, finish_reason="stop"), "g"),
        *[StoredEvent(5 + i, 2000, e, "g") for i, e in enumerate(ends(usage=usage, duration=1.0))],
    ]
    wire = VercelWire("v6")
    body = b"".join(wire.events(log))
    assert wire.done
    assert chunks_of(body) == [
        {
            "type": "start",
            "messageId": "m",
            "messageMetadata": {"runId": "r", "conversationId": "c", "model": "x", "startedAt": 1000},
        },
        {"type": "start-step"},
        {"type": "text-start", "id": "0"},
        {"type": "text-delta", "id": "0", "delta": "Hi"},
        {"type": "text-end", "id": "0"},
        {"type": "finish-step"},
        {
            "type": "finish",
            "finishReason": "stop",
            "messageMetadata": {
                "status": "success",
                "usage": {
                    "inputTokens": 3,
                    "outputTokens": 4,
                    "totalTokens": 7,
                    "cachedInputTokens": 0,
                    "reasoningTokens": 0,
                },
                "duration": 1.0,
                "startedAt": 1000,
                "firstTokenAt": 1500,
                "endedAt": 2000,
            },
        },
    ]
    assert [frame.id for frame in SSEDecoder().feed(body)][2:4] == ["g.2", "g.3"]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content-filter"),
        ("tool_calls", "tool-calls"),
        ("max_tokens", "other"),
        (None, "stop"),
    ],
)
def test_finish_reasons_have_hyphens(told: str | None, said: str) -> None:
    log = [*starts(), ModelCompleted(step=1, finish_reason=told), *ends()]
    assert encode(log)[-1]["finishReason"] == said
    v5 = encode(log, "v5")[-1]
    assert "finishReason" not in v5
    assert v5["messageMetadata"]["finishReason"] == said


def test_a_closed_text_is_done_as_soon_as_something_else_is_said() -> None:
    log: list[StreamEvent] = [
        *starts(),
        TextDelta(step=1, part=0, text="a"),
        RefusalDelta(step=1, part=1, text="b"),
    ]
    assert types(encode(log))[2:7] == ["text-start", "text-delta", "text-end", "text-start", "text-delta"]


def test_what_is_withdrawn_goes_where_it_can_and_ends_the_response_where_not() -> None:
    reset: list[StreamEvent] = [
        *starts(),
        TextDelta(step=1, part=0, text="a"),
        CustomEvent(step=1, name="note", data=1),
        StepReset(step=1, attempt=2, reason="provider"),
        TextDelta(step=1, part=1, text="b"),
        ModelCompleted(step=1),
        *ends(),
    ]
    v7 = encode(reset, "v7")
    assert Message("v7").take(v7).finish().said == [("text", "b")]
    assert types(v7).count("data-note") == 2  # the application's own is said again, behind the reset
    for old in ("v5", "v6"):
        chunks = encode(reset, old)  # type: ignore[arg-type]
        assert chunks[-1] == {"type": "error", "errorText": VercelEncoder.BEGUN_ANEW}
        held = encode(reset, old, hold_steps=True)  # type: ignore[arg-type]
        assert Message(old).take(held).finish().said == [("text", "b")]


def test_a_reset_of_what_nobody_saw_is_silent() -> None:
    log = [*starts(), StepReset(step=1, attempt=2, reason="provider"), ModelCompleted(step=1), *ends()]
    assert types(encode(log, "v5")) == ["start", "start-step", "finish-step", "finish"]


def test_a_text_that_stands_otherwise_than_it_streamed_is_put_right() -> None:
    def log(stands: str) -> list[StreamEvent]:
        part = FinishedPart(part=0, text=stands)
        return [
            *starts(),
            TextDelta(step=1, part=0, text="Hel"),
            ModelCompleted(step=1, parts=(part,)),
            *ends(),
        ]

    for target in ("v5", "v6", "v7"):
        grown = encode(log("Hello"), target)  # type: ignore[arg-type]
        assert Message(target).take(grown).finish().said == [("text", "Hello")]
    assert Message("v7").take(encode(log("Bye"), "v7")).finish().said == [("text", "Bye")]
    assert encode(log("Bye"), "v6")[-1]["type"] == "error"


def test_a_call_streams_its_input_and_ends_with_its_output() -> None:
    log: list[StreamEvent] = [
        *starts(),
        ToolCallDelta(step=1, part=1, call_id="k", name="find", arguments='{"q":'),
        ToolCallDelta(step=1, part=1, call_id="k", arguments="1}"),
        *call(),
        ToolProgress(step=1, call_id="k", message="half", fraction=0.5),
        ToolResult(step=1, call_id="k", outcome="ok", output=None),
        *ends(),
    ]
    chunks = encode(log)[2:-2]
    assert chunks == [
        {"type": "tool-input-start", "toolCallId": "k", "toolName": "find"},
        {"type": "tool-input-delta", "toolCallId": "k", "inputTextDelta": '{"q":'},
        {"type": "tool-input-delta", "toolCallId": "k", "inputTextDelta": "1}"},
        {"type": "tool-input-available", "toolCallId": "k", "toolName": "find", "input": {"q": 1}},
        {
            "type": "tool-output-available",
            "toolCallId": "k",
            "output": {"message": "half", "fraction": 0.5},
            "preliminary": True,
        },
        {"type": "tool-output-available", "toolCallId": "k", "output": None},
    ]
    dynamic = encode(log, dynamic={"find"}, progress="data")
    assert all(
        c.get("dynamic") for c in dynamic if c["type"].startswith("tool-") and "delta" not in c["type"]
    )
    assert {
        "type": "data-tool-progress",
        "id": "progress-k",
        "data": {"toolCallId": "k", "message": "half", "fraction": 0.5},
    } in dynamic


def test_a_call_with_a_problem_is_an_error_and_an_unknown_tool_a_dynamic_one() -> None:
    log: list[StreamEvent] = [
        *starts(),
        *call(problem="unknown_tool"),
        ToolResult(step=1, call_id="k", outcome="error", error="no such tool"),
        *ends(),
    ]
    chunks = encode(log)
    assert chunks[2] == {
        "type": "tool-input-error",
        "toolCallId": "k",
        "toolName": "find",
        "input": {"q": 1},
        "errorText": "The call cannot be carried out: unknown tool.",
        "dynamic": True,
    }
    assert chunks[3]["errorText"] == "no such tool"


def asked(*after: StreamEvent) -> list[StreamEvent]:
    request = ApprovalRequested(step=1, approval_id="a", call_id="k", arguments={"q": 1}, message="Sure?")
    return [*starts(), *call(), request, *after]


def test_an_approval_is_asked_for_in_each_targets_own_way() -> None:
    waits = Suspended(waits=(Wait(kind="approval", call_id="k", approval_id="a"),))
    for target in ("v6", "v7"):
        chunks = encode(asked(waits), target)  # type: ignore[arg-type]
        assert {"type": "tool-approval-request", "approvalId": "a", "toolCallId": "k"} in chunks
        assert chunks[-1]["finishReason"] == "tool-calls"
        assert chunks[-1]["messageMetadata"] == {"status": "suspended"}
    data = {"approvalId": "a", "toolCallId": "k", "toolName": "find", "input": {"q": 1}, "message": "Sure?"}
    assert {"type": "data-tool-approval", "id": "a", "data": data} in encode(asked(waits), "v5")


def test_a_decision_shows_and_edited_arguments_take_the_place_of_the_models() -> None:
    yes = ApprovalResolved(step=1, approval_id="a", call_id="k", approved=True, arguments={"q": 2})
    done = ToolResult(step=1, call_id="k", outcome="ok", output="found")
    for target in ("v5", "v6", "v7"):
        message = Message(target).take(encode(asked(yes, done, *ends()), target)).finish()  # type: ignore[arg-type]
        assert message.said == [("tool", "k", "find", "output-available", {"q": 2}, "found")]


def test_a_denied_call_is_denied_where_that_can_be_said_and_else_an_error() -> None:
    no = ApprovalResolved(step=1, approval_id="a", call_id="k", approved=False, reason="No.")
    denied = ToolResult(step=1, call_id="k", outcome="denied", error="No.")
    log = asked(no, denied, *ends())
    assert {"type": "tool-output-denied", "toolCallId": "k"} in encode(log, "v6")
    assert {"type": "tool-output-error", "toolCallId": "k", "errorText": "No."} in encode(log, "v5")
    response = {"type": "tool-approval-response", "approvalId": "a", "approved": False, "reason": "No."}
    assert response in encode(log, "v7")


def test_a_failure_is_an_error_chunk_at_the_very_end() -> None:
    error = ErrorEvent(phase="model", code="rate_limited", message="Too busy.", retryable=True)
    log = [
        *starts(),
        TextDelta(step=1, part=0, text="a"),
        error,
        MessageCompleted(),
        Finalized(status="error"),
    ]
    chunks = encode(log)
    assert types(chunks)[-4:] == ["text-end", "finish-step", "message-metadata", "error"]
    assert chunks[-1] == {"type": "error", "errorText": "Too busy."}
    assert chunks[-2]["messageMetadata"]["error"]["code"] == "rate_limited"


def test_a_cancel_is_an_abort_with_its_reason_where_that_is_known() -> None:
    log = [*starts(), Cancelled(reason="enough"), MessageCompleted(), Finalized(status="cancelled")]
    assert encode(log, "v6")[-1] == {"type": "abort", "reason": "enough"}
    assert encode(log, "v5")[-1] == {"type": "abort"}


def test_a_response_that_ends_before_the_run_says_so() -> None:
    chunks = encode([*starts(), TextDelta(step=1, part=0, text="a")])
    assert types(chunks)[-3:] == ["text-end", "finish-step", "error"]


def test_sources_and_files_are_what_can_be_said_of_them() -> None:
    log: list[StreamEvent] = [
        *starts(),
        SourceEvent(step=1, part=0, url="https://a.example", title="A", source_id="s"),
        SourceEvent(step=1, part=1, title="B", data={"media_type": "application/pdf", "filename": "b.pdf"}),
        FileEvent(step=1, part=2, url="data:image/png;base64,AA=="),
        FileEvent(step=1, part=3, name="c", data={"file_id": "f"}),
    ]
    assert encode(log)[2:6] == [
        {"type": "source-url", "sourceId": "s", "url": "https://a.example", "title": "A"},
        {
            "type": "source-document",
            "sourceId": "source-1",
            "mediaType": "application/pdf",
            "title": "B",
            "filename": "b.pdf",
        },
        {"type": "file", "url": "data:image/png;base64,AA==", "mediaType": "image/png"},
        {"type": "data-file", "id": "file-3", "data": {"name": "c", "data": {"file_id": "f"}}},
    ]


@pytest.mark.parametrize(("told", "target"), [("7", "v7"), ("v5", "v5"), ("6.0.326", "v6"), (" V7 ", "v7")])
def test_a_target_is_known_by_its_version(told: str, target: str) -> None:
    assert as_target(told) == target


@pytest.mark.parametrize("told", ["", "4", "v8", "next"])
def test_another_target_is_refused(told: str) -> None:
    with pytest.raises(InvalidInput, match="AI SDK"):
        as_target(told)


@pytest.mark.anyio
async def test_a_bare_stream_of_events_is_a_body_and_an_exception_is_told_and_raised() -> None:
    async def events() -> AsyncGenerator[StreamEvent, None]:
        for event in [*starts(), TextDelta(step=1, part=0, text="a"), ModelCompleted(step=1), *ends()]:
            yield event

    body = b"".join([block async for block in vercel_stream(events())])
    assert Message("v6").take(chunks_of(body)).finish().said == [("text", "a")]

    async def broken() -> AsyncGenerator[StreamEvent, None]:
        yield starts()[0]
        raise ValueError("secret")

    stream = vercel_stream(broken())
    got = [await anext(stream), await anext(stream)]
    with pytest.raises(ValueError, match="secret"):
        await anext(stream)
    chunks = chunks_of(b"".join(got))
    assert types(chunks) == ["start", "error"]
    assert "secret" not in str(chunks)


@pytest.mark.anyio
async def test_leaving_a_bare_stream_early_raises_nothing() -> None:
    async def events() -> AsyncGenerator[StreamEvent, None]:
        for event in starts():
            yield event

    stream = vercel_stream(events())
    await anext(stream)
    await stream.aclose()
