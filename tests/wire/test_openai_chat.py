"""The Chat Completions wire over any legal log: the rules hold, and the answer is the fold of the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIError, OpenAI

from streamchat.core.fold import RunState, fold
from streamchat.events import (
    ApprovalRequested,
    ApprovalResolved,
    ErrorEvent,
    Finalized,
    FinishedPart,
    MessageCompleted,
    ModelCompleted,
    RunResumed,
    RunStarted,
    SourceEvent,
    StepReset,
    StepStarted,
    StoredEvent,
    StreamEvent,
    Suspended,
    TextDelta,
    ToolCallEvent,
    Wait,
    dump_json,
)
from streamchat.messages import ToolCallPart, Usage
from streamchat.service.hub import HistoryReset
from streamchat.testing import accumulate_sse
from streamchat.testing.strategies import SECRET, event_logs, stored_logs
from streamchat.wire.compact import compact
from streamchat.wire.openai_answer import Answer, Failure, Said, call_id_of, wire_call_id
from streamchat.wire.openai_chat import ChatCompletionEncoder, chat_completion
from tests.wire.openai_rules import Received, check_completion, read_stream

GAP = "\n\n"
FIELDS = {"text": "content", "reasoning": "reasoning_content", "refusal": "refusal"}
# The names of the tools in generated logs; a call without a name cannot be passed on.
DECLARED = ("weather", "roll_dice", "wetter_für")
HELD = ("step_reset", "content_replaced")


def encoder(*, usage: bool = False, hold: bool = False, tools: tuple[str, ...] = ()) -> ChatCompletionEncoder:
    answer = Answer("run1", hold_steps=hold, client_tools=tools)
    return ChatCompletionEncoder(answer, model="agent", created=1_700_000_000, include_usage=usage)


def texts_of(state: RunState) -> dict[str, str]:
    """What a client should have been told, from the fold: the steps' texts with a gap in between."""
    out = {}
    for kind, name in FIELDS.items():
        steps: dict[int, str] = {}
        for part in state.parts:
            if part.type == kind:
                steps[part.step] = steps.get(part.step, "") + part.text
        out[name] = GAP.join(text for _, text in sorted(steps.items()) if text)
    return out


def answered_part(log: list[Any], tools: tuple[str, ...]) -> list[Any]:
    """The log as far as one response tells it: to its end, or to where the client is asked for results."""
    calls: dict[str, StreamEvent] = {}
    for position, event in enumerate(log):
        if event.type == "step_reset":
            calls = {name: call for name, call in calls.items() if call.step != event.step}
        elif event.type == "tool_call" and event.executed_by == "client" and not event.problem:
            calls |= {event.call_id: event} if event.name in tools else {}
        elif event.type == "tool_result":
            calls.pop(event.call_id, None)
        elif event.type == "suspended" and any(
            wait.kind == "tool_result" and wait.call_id in calls for wait in event.waits
        ):
            return log[: position + 1]
    return log


def told(got: Received) -> dict[str, str]:
    return {name: got.text(name) for name in FIELDS.values()}


@given(event_logs(as_written=False), st.booleans(), st.booleans(), st.sampled_from([(), DECLARED]))
def test_any_log_keeps_to_the_rules_and_says_what_its_fold_holds(
    log: list[StreamEvent], hold: bool, usage: bool, tools: tuple[str, ...]
) -> None:
    got = read_stream(encoder(usage=usage, hold=hold, tools=tools).encode(log), usage=usage)
    part = answered_part(log, tools)
    state = fold(part)
    assert got.ended
    if got.error is None:
        assert told(got) == texts_of(state)
        assert state.status == ("suspended" if got.calls else "success")
    elif state.status == "success" or part is not log:
        # The answer was not lost: this connection could not carry it.
        assert got.code in HELD
        assert not hold
    elif got.code not in HELD:
        want = ("run_cancelled", None) if state.cancelled else (state.error.code, state.error.message)
        assert got.code == want[0]
        assert want[1] in (None, got.error["message"])


@given(event_logs(as_written=False), st.booleans(), st.sampled_from([(), DECLARED]))
def test_the_calls_that_are_passed_on_are_those_that_the_run_waits_for(
    log: list[StreamEvent], hold: bool, tools: tuple[str, ...]
) -> None:
    got = read_stream(encoder(hold=hold, tools=tools).encode(log))
    if not got.calls:
        return
    state = fold(answered_part(log, tools))
    waiting = [wait.call_id for wait in state.waits if wait.kind == "tool_result"]
    calls = {part.call_id: part for part in state.parts if isinstance(part, ToolCallPart)}
    passed = [call_id for call_id in waiting if calls[call_id].name in tools]
    assert [call_id_of(call["id"]) for call in got.calls] == [("run1", call_id) for call_id in passed]
    for call, call_id in zip(got.calls, passed, strict=True):
        assert call["name"] == calls[call_id].name
        assert json.loads(call["arguments"]) == (calls[call_id].arguments or {})


@given(event_logs(as_written=False, cut="anywhere"), st.booleans(), st.data())
def test_however_the_events_come_in_batches_the_bytes_are_the_same(
    log: list[StreamEvent], hold: bool, data: st.DataObject
) -> None:
    whole = encoder(hold=hold, tools=DECLARED).encode(log)
    pieces = encoder(hold=hold, tools=DECLARED)
    out = b""
    while log:
        size = data.draw(st.integers(1, len(log)))
        out += pieces.encode(log[:size])
        log = log[size:]
    assert out == (whole if out else b"")


@given(stored_logs(cut="batch"), st.booleans())
def test_a_log_that_is_not_over_leaves_the_stream_open_and_nothing_private_is_in_it(
    log: list[StoredEvent], hold: bool
) -> None:
    stream = encoder(hold=hold)
    body = stream.encode(log)
    got = read_stream(body)
    assert SECRET.encode() not in body
    assert got.ended == stream.finished
    if log[-1].type != "finalized" and got.error is None:
        assert not got.ended
        assert stream.encode(log) != body or not log  # it goes on


@given(event_logs(), st.sampled_from([(), DECLARED]))
def test_our_own_accumulator_reads_back_what_was_said(log: list[StreamEvent], tools: tuple[str, ...]) -> None:
    body = encoder(usage=True, hold=True, tools=tools).encode(log)
    got, read = read_stream(body, usage=True), accumulate_sse(body)
    if got.error is not None:
        assert (read.error, read.error_detail) == ("stream_error", got.error)
        return
    (choice,) = read.choices
    assert {"content": choice.text, "refusal": choice.refusal} == {
        name: got.text(name) for name in ("content", "refusal")
    }
    assert choice.reasoning == got.text("reasoning_content")
    assert choice.finish_reason == got.finish_reason
    assert [(call.id, call.arguments_json) for call in choice.tool_calls] == [
        (call["id"], call["arguments"]) for call in got.calls
    ]
    assert read.usage == got.usage


@given(event_logs(), st.sampled_from([(), DECLARED]), st.data())
def test_who_asks_again_is_told_what_stands_and_then_what_comes(
    log: list[StreamEvent], tools: tuple[str, ...], data: st.DataObject
) -> None:
    # A response begins with the run, or behind a wait that the client has ended.
    begins = [0, *(count for count, event in enumerate(log, 1) if event.type == "suspended")]
    log = log[data.draw(st.sampled_from(begins)) :]
    known = data.draw(st.just(len(log)) | st.integers(0, len(log)))
    stream = encoder(usage=True, tools=tools)
    got = read_stream(stream.encode(compact(log[:known])) + stream.encode(log[known:]), usage=True)
    want = read_stream(encoder(usage=True, hold=True, tools=tools).encode(log), usage=True)
    assert got.ended
    if known == len(log):
        assert got.code not in HELD
    if got.error is None:
        assert (told(got), got.finish_reason, got.calls) == (told(want), want.finish_reason, want.calls)
        assert got.usage == want.usage
    elif got.code not in HELD:
        assert got.error == want.error


@pytest.fixture(scope="module")
def sdk() -> Iterator[tuple[OpenAI, list[bytes]]]:
    """OpenAI's own client, which is answered with the bytes in the list."""
    bodies: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=bodies.pop())

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    with OpenAI(api_key="key", base_url="http://test/v1", http_client=transport) as client:
        yield client, bodies


@given(log=event_logs(as_written=False), hold=st.booleans(), tools=st.sampled_from([(), DECLARED]))
def test_openais_own_client_has_of_any_log_what_its_fold_holds(
    sdk: tuple[OpenAI, list[bytes]], log: list[StreamEvent], hold: bool, tools: tuple[str, ...]
) -> None:
    client, bodies = sdk
    body = encoder(hold=hold, usage=True, tools=tools).encode(log)
    got = read_stream(body, usage=True)
    bodies.append(body)
    fields = dict.fromkeys(FIELDS.values(), "")
    calls: dict[int, str] = {}
    usage, finish, error = None, None, None
    try:
        for chunk in client.chat.completions.create(model="agent", messages=[], stream=True):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                for name in fields:
                    fields[name] += getattr(choice.delta, name, None) or ""
                for call in choice.delta.tool_calls or ():
                    assert call.function is not None
                    calls[call.index] = calls.get(call.index, "") + (call.function.arguments or "")
    except APIError as raised:
        error = raised
    assert (None if error is None else error.code) == got.code
    assert (fields, finish) == (told(got), got.finish_reason)
    assert list(calls.values()) == [call["arguments"] for call in got.calls]
    if error is None:
        assert fields == texts_of(fold(answered_part(log, tools)))
        assert usage is not None


@given(event_logs(), st.sampled_from([(), DECLARED]))
def test_the_whole_answer_is_what_the_stream_would_have_come_to(
    log: list[StreamEvent], tools: tuple[str, ...]
) -> None:
    answer, said = Answer("run1", hold_steps=True, client_tools=tools), list[Said]()
    for event in log:
        said += answer.add(event)
    got = read_stream(encoder(usage=True, hold=True, tools=tools).encode(log), usage=True)
    if answer.failure is not None:
        assert got.error is not None
        return
    whole = chat_completion(answer, said, model="agent", created=1)
    message = check_completion(json.loads(dump_json(whole)))
    assert (message["content"] or "", message["refusal"] or "") == (got.text("content"), got.text("refusal"))
    assert message.get("reasoning_content", "") == got.text("reasoning_content")
    assert [call["id"] for call in message.get("tool_calls", ())] == [call["id"] for call in got.calls]
    assert message.get("annotations", []) == got.annotations
    assert whole["usage"] == got.usage
    assert whole["choices"][0]["finish_reason"] == got.finish_reason


@given(stored_logs(cut=None), st.data())
def test_a_snapshot_in_place_of_the_beginning_tells_the_same(
    log: list[StoredEvent], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(log)))
    state = fold(log[:cut])
    snapshot = dump_json(state.model_dump(mode="json", exclude_none=True))
    reset = HistoryReset("trimmed", 1, cut, snapshot, log[cut - 1].id, over=cut == len(log))
    stream = encoder(hold=True)
    got = read_stream(stream.reset(reset) + stream.encode(log[cut:]))
    assert got.ended
    want = read_stream(encoder(hold=True).encode(log))
    assert (got.error is None) == (want.error is None)
    if got.error is None:
        assert told(got) == told(want)


def test_a_snapshot_where_something_was_said_ends_the_answer() -> None:
    stream = encoder()
    body = stream.encode([STARTED, StepStarted(step=1), TextDelta(step=1, part=0, text="Hi")])
    body += stream.reset(HistoryReset("diverged", 1, 2, b'{"status":"running"}', "g.2"))
    assert read_stream(body).code == "history_reset"


STARTED = RunStarted(run_id="run1")


def step(number: int, part: int, *texts: str, **completed: Any) -> list[StreamEvent]:
    return [
        StepStarted(step=number),
        *(TextDelta(step=number, part=part, text=text) for text in texts),
        ModelCompleted(step=number, finish_reason="stop", **completed),
    ]


def test_text_goes_out_as_it_comes_and_a_gap_stands_between_steps() -> None:
    stream = encoder()
    pieces = [stream.event(event) for event in (STARTED, *step(1, 0, "Let", " me"), *step(2, 1, "So"))]
    assert [json.loads(p[6:])["choices"][0]["delta"]["content"] for p in pieces if p] == [
        "",
        "Let",
        " me",
        GAP + "So",
    ]


def test_a_reset_of_what_was_said_ends_the_answer_and_one_of_what_was_not_said_does_not() -> None:
    began: list[StreamEvent] = [STARTED, StepStarted(step=1), TextDelta(step=1, part=0, text="Half")]
    again: list[StreamEvent] = [
        StepReset(step=1, attempt=1, reason="provider"),
        TextDelta(step=1, part=1, text="Whole"),
    ]
    done = ModelCompleted(step=1, finish_reason="stop")
    assert read_stream(encoder().encode([*began, *again, done])).code == "step_reset"
    held = read_stream(encoder(hold=True).encode([*began, *again, done]))
    assert (held.text("content"), held.error) == ("Whole", None)
    assert read_stream(encoder().encode([*began[:2], *again, done])).text("content") == "Whole"


@pytest.mark.parametrize(("final", "ends"), [("Hello there", None), ("Bye", "content_replaced")])
def test_a_text_that_the_model_rewrote_is_told_as_far_as_it_only_grew(final: str, ends: str | None) -> None:
    log: list[StreamEvent] = [STARTED, *step(1, 0, "Hello", parts=(FinishedPart(part=0, text=final),))]
    got = read_stream(encoder().encode(log))
    assert got.code == ends
    assert got.text("content") == ("Hello" if ends else final)


def test_text_that_belongs_before_what_was_said_is_held_back() -> None:
    deltas = [(0, "a"), (1, "b"), (0, "c")]
    log: list[StreamEvent] = [
        STARTED,
        StepStarted(step=1),
        *(TextDelta(step=1, part=p, text=t) for p, t in deltas),
    ]
    log.append(ModelCompleted(step=1))
    assert read_stream(encoder().encode(log)).code == "content_replaced"
    assert read_stream(encoder(hold=True).encode(log)).text("content") == "acb"


def test_a_source_is_cited_where_its_step_says_so_counted_over_the_whole_answer() -> None:
    data = {"url_citation": {"start_index": 2, "end_index": 4}}
    log: list[StreamEvent] = [
        STARTED,
        *step(1, 0, "One."),
        StepStarted(step=2),
        TextDelta(step=2, part=1, text="Two [1]"),
        SourceEvent(step=2, part=2, url="https://a.example", data=data),
        SourceEvent(step=2, part=3, url="https://b.example", title="B"),
    ]
    got = read_stream(encoder().encode(log))
    assert got.text("content") == "One.\n\nTwo [1]"
    first, second = (note["url_citation"] for note in got.annotations)
    assert (first["start_index"], first["end_index"], first["title"]) == (8, 10, "https://a.example")
    assert (second["start_index"], second["title"]) == (13, "B")


def test_usage_is_the_sum_of_the_model_calls_of_the_response() -> None:
    usage = Usage(input_tokens=10, output_tokens=2, total_tokens=12, cached_input_tokens=4)
    log: list[StreamEvent] = [STARTED, *step(1, 0, "a", usage=usage), *step(2, 1, "b", usage=usage)]
    stream = encoder(usage=True)
    body = stream.encode([*log, *_success()])
    assert read_stream(body, usage=True).usage == {
        "prompt_tokens": 20,
        "completion_tokens": 4,
        "total_tokens": 24,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _success() -> list[StreamEvent]:
    return [MessageCompleted(finish_reason="length"), Finalized(status="success")]


def test_an_unknown_finish_reason_is_a_stop() -> None:
    def finish(reason: str | None) -> str | None:
        event = MessageCompleted(finish_reason=reason)
        return read_stream(encoder().encode([STARTED, event])).finish_reason

    assert [finish(reason) for reason in ("length", "content_filter", "tool_calls", "odd", None)] == [
        "length",
        "content_filter",
        "stop",
        "stop",
        "stop",
    ]


def test_a_wait_that_this_client_cannot_end_leaves_the_stream_open() -> None:
    call = ToolCallEvent(
        step=1, part=0, call_id="c", name="weather", arguments={"city": "Rome"}, executed_by="client"
    )
    log: list[StreamEvent] = [
        STARTED,
        StepStarted(step=1),
        call,
        ModelCompleted(step=1, call_ids=("c",)),
        Suspended(waits=(Wait(kind="tool_result", call_id="c"),)),
    ]
    assert not read_stream(encoder().encode(log)).ended
    got = read_stream(encoder(tools=("weather",)).encode(log))
    assert got.finish_reason == "tool_calls"
    assert got.calls == [{"id": "run1:c", "name": "weather", "arguments": '{"city":"Rome"}'}]


def test_a_call_is_passed_on_with_the_arguments_that_were_approved() -> None:
    asked: dict[str, Any] = {"step": 1, "approval_id": "a", "call_id": "c"}
    log: list[StreamEvent] = [
        STARTED,
        StepStarted(step=1),
        ToolCallEvent(step=1, part=0, call_id="c", name="weather", arguments={"n": 1}, executed_by="client"),
        ModelCompleted(step=1, call_ids=("c",)),
        ApprovalRequested(**asked, name="weather", arguments={"n": 1}),
        Suspended(waits=(Wait(kind="approval", call_id="c", approval_id="a"),)),
        RunResumed(reason="approval"),
        ApprovalResolved(**asked, approved=True, arguments={"n": 2}),
        Suspended(waits=(Wait(kind="tool_result", call_id="c"),)),
    ]
    (call,) = read_stream(encoder(tools=("weather",)).encode(log)).calls
    assert call["arguments"] == '{"n":2}'


def test_an_error_is_told_in_the_protocols_shape_and_nothing_comes_after_it() -> None:
    stream = encoder()
    failed = ErrorEvent(phase="model", code="rate_limited", message="Too much.")
    body = stream.encode([STARTED, failed])
    assert read_stream(body).error == {
        "message": "Too much.",
        "type": "server_error",
        "param": None,
        "code": "rate_limited",
    }
    assert stream.finished
    assert stream.encode([failed]) + stream.fail(Failure("x", "y")) == b""


def test_a_connection_that_ends_before_the_run_says_so() -> None:
    stream = encoder()
    body = stream.encode([STARTED]) + stream.fail(Failure("Come back.", "server_draining"))
    assert read_stream(body).code == "server_draining"


@pytest.mark.parametrize("wire_id", ["", "x", ":c", "run:"])
def test_an_id_that_was_never_issued_is_none(wire_id: str) -> None:
    assert call_id_of(wire_id) is None


def test_a_calls_id_leads_back_to_it() -> None:
    assert call_id_of(wire_call_id("run1", "functions.weather:0")) == ("run1", "functions.weather:0")
