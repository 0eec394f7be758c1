"""AG-UI: any legal log is encoded within the protocol's rules, and its client has what the log says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.core.agent_state import AgentState
from streamchat.core.fold import RunState, fold
from streamchat.core.lifecycle import Lifecycle
from streamchat.events import (
    ApprovalRequested,
    CustomEvent,
    ModelCompleted,
    ReasoningDelta,
    RunStarted,
    StepFinished,
    StepReset,
    StepStarted,
    StoredEvent,
    StreamEvent,
    Suspended,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    ToolResult,
    Wait,
)
from streamchat.messages import FilePart, TextPart
from streamchat.testing.strategies import SECRET, event_logs, stored_logs
from streamchat.wire.ag_ui import (
    AGUIEncoder,
    Ids,
    ag_ui_frame,
    ag_ui_stream,
    run_messages,
    user_message,
)
from tests.wire.ag_ui_client import AGUIClient, check_message

USER = {"id": "u1", "role": "user", "content": "Hello"}


def encoder_of(**options: Any) -> AGUIEncoder:
    return AGUIEncoder("t1", "r1", before=[USER], **options)


def expected(state: RunState) -> list[dict[str, Any]]:
    """The thread as the log's fold has it."""
    return [USER, *run_messages(state.parts, Ids(state.message_id or state.run_id or ""))]


def settled(messages: Iterable[dict[str, Any]], log: Iterable[StreamEvent] = ()) -> list[dict[str, Any]]:
    """Messages without what may differ: JSON's blanks, the order in which tools answered and told of their
    progress, and the place of what was withdrawn, which what comes instead of it takes."""
    log = list(log)
    withdrawn = any(isinstance(event, StepReset) for event in log)
    begun = {event.call_id for event in log if isinstance(event, ToolCallDelta)}
    broken_off = begun - {event.call_id for event in log if isinstance(event, ToolCallEvent)}
    out: list[dict[str, Any]] = []
    aside: list[dict[str, Any]] = []
    for as_it_came in messages:
        message = json.loads(json.dumps(as_it_came))
        if message["role"] == "assistant":
            message.setdefault("content", "")
        for call in message.get("toolCalls", ()):
            call["function"]["arguments"] = _parsed(call["function"]["arguments"])
        if message["role"] == "reasoning" and not message["content"]:
            continue
        tells: Any = message["role"] == "tool" or message.get("activityType") == "tool_progress"
        tells = tells or broken_off or (withdrawn and message["role"] == "reasoning")
        (aside if tells else out).append(message)
    return out + sorted(aside, key=lambda message: message["id"])


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def told(events: Iterable[StreamEvent | StoredEvent], encoder: AGUIEncoder | None = None) -> AGUIClient:
    client, encoder = AGUIClient([USER]), encoder or encoder_of()
    for event in events:
        for said in encoder.add(event):
            client.take(json.loads(json.dumps(said)))
    return client


def until_it_ends(log: list[StreamEvent]) -> list[StreamEvent]:
    """The log up to the first suspension that ends an AG-UI run."""
    for place, event in enumerate(log):
        if isinstance(event, Suspended) and any(wait.kind != "job" for wait in event.waits):
            return log[: place + 1]
    return log


@given(event_logs(as_written=False) | event_logs())
def test_any_log_is_encoded_within_the_rules_and_the_client_has_what_the_log_says(
    log: list[StreamEvent],
) -> None:
    log = until_it_ends(log)
    client = told(log)
    state = fold(log)
    assert client.over
    assert settled(client.messages, log) == settled(expected(state), log)
    outcome = {"success": "success", "error": "error", "cancelled": "cancelled"}.get(state.status)
    if outcome is not None:
        assert (client.outcome, client.interrupts) == (outcome, [])
        assert not client.pending
        return
    assert [interrupt["id"] for interrupt in client.interrupts] == [
        wait.approval_id for wait in state.waits if wait.kind == "approval"
    ]
    if not client.interrupts:
        asked = [wait.call_id for wait in state.waits if wait.kind == "tool_result"]
        assert client.pending == [f"{state.message_id}.{call_id}" for call_id in asked]


@given(event_logs(), st.data())
def test_whoever_joins_at_any_place_arrives_at_the_same(log: list[StreamEvent], data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(log)))
    for had in ([USER], [], expected(fold(log[:place]))):
        client, encoder = AGUIClient(had), encoder_of()
        for said in encoder.rejoin(log[:place]):
            client.take(said)
        rest = until_it_ends(log[place:])
        for event in rest:
            for said in encoder.add(event):
                client.take(said)
        if client.over:
            end = place if encoder_is_over_at(log[:place]) else place + len(rest)
            assert settled(client.messages, log) == settled(expected(fold(log[:end])), log)
        else:
            assert encoder.paused


def encoder_is_over_at(log: list[StreamEvent]) -> bool:
    encoder = encoder_of()
    encoder.rejoin(log)
    return encoder.over


@given(event_logs(), st.data())
def test_a_snapshot_in_the_place_of_lost_events_is_gone_on_from(
    log: list[StreamEvent], data: st.DataObject
) -> None:
    log = until_it_ends(log)
    place = data.draw(st.integers(1, len(log)))
    seen = data.draw(st.integers(0, place))
    encoder = encoder_of()
    client = told(log[:seen], encoder)
    for said in encoder.reset(fold(log[:place])):
        client.take(said)
    for event in log[place:]:
        for said in encoder.add(event):
            client.take(said)
    assert client.over
    assert settled(client.messages, log) == settled(expected(fold(log)), log)


@given(event_logs())
def test_a_log_of_which_only_the_end_is_stored_gives_the_whole_message(log: list[StreamEvent]) -> None:
    place = next(place for place, event in enumerate(log) if event.type == "message_completed")
    client, encoder = AGUIClient([USER]), encoder_of(message_id="m1")
    for said in encoder.rejoin(log[place:]):
        client.take(said)
    assert client.over
    assert settled(client.messages) == settled(expected(fold(log)))


@given(event_logs(as_written=False))
def test_between_the_model_and_the_next_step_the_client_has_what_the_log_says(log: list[StreamEvent]) -> None:
    walk, encoder, client = Lifecycle(), encoder_of(), AGUIClient([USER])
    for place, event in enumerate(log, 1):
        walk.check(event)
        for said in encoder.add(event):
            client.take(said)
        if encoder.over:
            break
        if walk.phase in ("tools", "ready", "suspended_tools", "suspended_ready"):
            assert settled(client.messages, log) == settled(expected(fold(log[:place])), log)


@given(stored_logs(cut="anywhere"), st.sampled_from(["live", "late", "broken"]))
def test_frames_are_lf_only_and_nothing_private_is_in_them(log: list[StoredEvent], how: str) -> None:
    encoder = encoder_of(metadata={"own": 1})
    said = encoder.rejoin(log) if how == "late" else [each for event in log for each in encoder.add(event)]
    said += encoder.break_off("away", "Come back.", retryIn=2) if how == "broken" else []
    body = b"".join(map(ag_ui_frame, said))
    assert SECRET.encode() not in body
    AGUIClient([USER]).take_bytes(body)


@given(event_logs(cut="anywhere"))
def test_a_response_that_breaks_off_anywhere_is_closed_and_says_so(log: list[StreamEvent]) -> None:
    encoder = encoder_of()
    client = told(log, encoder)
    for said in encoder.break_off("draining", "The connection ends."):
        client.take(said)
    assert client.over
    assert encoder.break_off("again", "No.") == encoder.pause() == []


@given(event_logs())
def test_messages_of_any_run_are_messages_of_the_protocol(log: list[StreamEvent]) -> None:
    for message in expected(fold(log)):
        check_message(json.loads(json.dumps(message)))


# One by one.


def start(*events: StreamEvent, step: int = 1) -> list[StreamEvent]:
    return [RunStarted(run_id="run", message_id="m"), StepStarted(step=step), *events]


def kinds(events: Iterable[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def encode(events: Iterable[StreamEvent], encoder: AGUIEncoder | None = None) -> list[dict[str, Any]]:
    encoder = encoder or encoder_of()
    return [said for event in events for said in encoder.add(event)]


def test_text_and_reasoning_are_told_in_spans_of_their_own() -> None:
    said = encode(
        start(
            ReasoningDelta(step=1, part=0, text="Hm"),
            TextDelta(step=1, part=1, text="Hi"),
            TextDelta(step=1, part=1, text="!"),
            ModelCompleted(step=1),
            StepFinished(step=1),
        )
    )
    assert kinds(said) == [
        "RUN_STARTED",
        "STEP_STARTED",
        "REASONING_START",
        "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END",
        "REASONING_END",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "STEP_FINISHED",
    ]
    assert said[0] == {
        "type": "RUN_STARTED",
        "threadId": "t1",
        "runId": "r1",
        "protocolVersion": "1.0",
        "metadata": {"streamchat": {"runId": "run", "messageId": "m"}},
    }


def test_a_withdrawn_step_is_taken_back_by_a_snapshot_that_keeps_the_users_message() -> None:
    log = start(
        ReasoningDelta(step=1, part=0, text="Wrong"),
        TextDelta(step=1, part=1, text="Wrong"),
        StepReset(step=1, attempt=1, reason="provider"),
        TextDelta(step=1, part=2, text="Right"),
    )
    said = encode(log)
    assert kinds(said)[-4:] == [
        "TEXT_MESSAGE_END",
        "MESSAGES_SNAPSHOT",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
    ]
    client = told(log)
    assert [message["content"] for message in client.messages] == ["Hello", "", "Right"]


def test_reasoning_that_a_late_reader_was_told_of_by_the_snapshot_is_taken_back_too() -> None:
    encoder, client = encoder_of(), AGUIClient([USER])
    for said in encoder.rejoin(start(ReasoningDelta(step=1, part=0, text="Wrong"))):
        client.take(said)
    for said in encoder.add(StepReset(step=1, attempt=1, reason="provider")):
        client.take(said)
    assert [message["content"] for message in client.messages] == ["Hello", ""]


CALL = ToolCallEvent(step=1, part=0, call_id="c1", name="send", arguments={"to": "a"})


def asked() -> list[StreamEvent]:
    wait = Wait(kind="approval", call_id="c1", approval_id="run:c1", expires_at=1_700_000_000_000)
    request = ApprovalRequested(
        step=1, approval_id="run:c1", call_id="c1", name="send", message="Send?", expires_at=1_700_000_000_000
    )
    return start(CALL, ModelCompleted(step=1, call_ids=("c1",)), request, Suspended(waits=(wait,)))


def test_an_approval_is_an_interrupt_with_all_that_stands_said_before_it() -> None:
    said = encode(asked())
    assert kinds(said)[-3:] == ["STEP_FINISHED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    (interrupt,) = said[-1]["outcome"]["interrupts"]
    schema = interrupt.pop("responseSchema")
    assert schema["required"] == ["approved"]
    assert interrupt == {
        "id": "run:c1",
        "reason": "tool_call",
        "toolCallId": "m.c1",
        "message": "Send?",
        "expiresAt": "2023-11-14T22:13:20.000Z",
    }


def test_whoever_joins_a_run_that_waits_is_asked_again() -> None:
    encoder = encoder_of()
    said = encoder.rejoin(asked())
    assert kinds(said) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    assert encoder.over
    assert encoder.add(StepFinished(step=1)) == []


def test_a_call_of_the_page_ends_the_run_as_a_success_that_names_it() -> None:
    call = ToolCallEvent(step=1, part=0, call_id="c1", name="where", arguments={}, executed_by="client")
    log = start(
        call,
        ModelCompleted(step=1, call_ids=("c1",)),
        Suspended(waits=(Wait(kind="tool_result", call_id="c1"),)),
    )
    assert encode(log)[-1]["outcome"] == {"type": "success", "pendingToolCallIds": ["m.c1"]}


def test_whoever_joins_in_mid_sentence_gets_the_beginning_and_goes_on() -> None:
    encoder = encoder_of()
    said = encoder.rejoin(start(TextDelta(step=1, part=0, text="Hel")))
    assert kinds(said) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STEP_STARTED", "TEXT_MESSAGE_START"]
    client = AGUIClient()
    for event in [*said, *encoder.add(TextDelta(step=1, part=0, text="lo"))]:
        client.take(event)
    assert [message["content"] for message in client.messages] == ["Hello", "Hello"]


def test_results_of_parallel_calls_come_as_they_arrive_and_later_in_the_order_of_the_calls() -> None:
    calls = [ToolCallEvent(step=1, part=i, call_id=f"c{i}", name="send", arguments={}) for i in (0, 1)]
    results = [ToolResult(step=1, call_id=f"c{i}", outcome="ok", output=f"r{i}") for i in (1, 0)]
    log = start(*calls, ModelCompleted(step=1), *results, StepFinished(step=1))
    live, late = told(log), AGUIClient([USER])
    for said in encoder_of().rejoin(log):
        late.take(said)
    assert [message["content"] for message in live.messages[2:]] == ["r1", "r0"]
    assert late.messages == [*live.messages[:2], *reversed(live.messages[2:])]


def test_a_run_that_waits_for_a_job_alone_stays_open_and_can_be_ended_as_a_success() -> None:
    deferred = ToolResult(step=1, call_id="c1", outcome="deferred", job_id="run:c1")
    wait = Wait(kind="job", call_id="c1", job_id="run:c1")
    encoder = encoder_of()
    client = told(start(CALL, ModelCompleted(step=1, call_ids=("c1",)), deferred), encoder)
    assert encoder.add(Suspended(waits=(wait,))) == []
    assert encoder.paused
    for said in encoder.pause():
        client.take(said)
    assert (client.outcome, client.pending, encoder.paused) == ("success", [], False)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"values": {"a": 1}}, "STATE_SNAPSHOT"),
        ({"values": None}, "STATE_SNAPSHOT"),
        ({"patch": [{"op": "add", "path": "/a", "value": None}]}, "STATE_DELTA"),
        ({"patch": []}, "STATE_DELTA"),
        ({"patch": [{"op": "add", "path": "a", "value": 1}]}, "CUSTOM"),
        ({"patch": [{"op": "add", "path": "/a"}]}, "CUSTOM"),
        ({"patch": [{"op": "move", "path": "/a"}]}, "CUSTOM"),
        ({"patch": [{"op": [], "path": "/a"}]}, "CUSTOM"),
        ({"patch": {}}, "CUSTOM"),
        ({"node": "x", "update": 1}, "CUSTOM"),
        ([], "CUSTOM"),
    ],
)
def test_state_is_what_custom_events_named_state_say(data: Any, kind: str) -> None:
    assert kinds(encode([*start(), CustomEvent(name="state", data=data)]))[-1] == kind
    assert kinds(encode([*start(), CustomEvent(name="other", data=data)]))[-1] == "CUSTOM"


def test_whoever_joins_late_is_told_the_state_once_as_a_whole() -> None:
    patch = [{"op": "add", "path": "/a", "value": 2}]
    log = [
        *start(),
        CustomEvent(name="state", data={"values": {"a": 0}}),
        CustomEvent(name="state", data={"values": {"a": 1}}),
        CustomEvent(name="state", data={"patch": patch}),
    ]
    said = encoder_of().rejoin(log)
    assert kinds(said) == ["RUN_STARTED", "STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "STEP_STARTED"]
    assert said[1]["snapshot"] == {"a": 2}


def test_whoever_joins_late_is_told_no_state_that_is_not_known() -> None:
    patch = CustomEvent(name="state", data={"patch": [{"op": "add", "path": "/pages/a", "value": 2}]})
    assert "STATE_SNAPSHOT" not in kinds(encoder_of().rejoin([*start(), patch]))
    lost = encoder_of(state=AgentState({"pages": {}}, whole=True))
    assert "STATE_SNAPSHOT" not in kinds(lost.rejoin([patch]))
    known = encoder_of(state=AgentState({"pages": {}}, whole=True))
    said = known.rejoin([*start(), patch])
    assert said[1] == {"type": "STATE_SNAPSHOT", "snapshot": {"pages": {"a": 2}}}
    assert kinds(known.add(patch)) == ["STATE_DELTA"]


def test_a_users_message_is_text_or_parts() -> None:
    image = FilePart(data={"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})
    linked = FilePart(data={"type": "image_url", "image_url": {"url": "https://example.org/a.png"}})
    sound = FilePart(data={"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}})
    file = FilePart(data={"type": "file", "file": {"file_id": "f1", "filename": "a.pdf"}})
    assert user_message("u", [TextPart(text="Hi")]) == {"id": "u", "role": "user", "content": "Hi"}
    message = user_message("u", [TextPart(text="See"), image, linked, sound, file])
    assert [part["type"] for part in message["content"]] == ["text", "image", "image", "audio", "document"]
    assert [part["source"] for part in message["content"][1:]] == [
        {"type": "data", "value": "AAAA", "mimeType": "image/png"},
        {"type": "url", "value": "https://example.org/a.png"},
        {"type": "data", "value": "AAAA", "mimeType": "audio/mp3"},
        {"type": "file", "value": "f1"},
    ]
    assert message["content"][4]["metadata"] == {"filename": "a.pdf"}


# Over an event stream.


async def each(log: list[StreamEvent]) -> AsyncIterator[StreamEvent]:
    for event in log:
        yield event


@pytest.mark.anyio
async def test_a_bare_stream_of_events_is_a_response_body() -> None:
    log = start(TextDelta(step=1, part=0, text="Hi"), ModelCompleted(step=1))
    client = AGUIClient()
    body = [block async for block in ag_ui_stream(each(log), thread_id="t", run_id="r")]
    client.take_bytes(b"".join(body))
    assert client.error is not None
    assert client.error["code"] == "incomplete"


@pytest.mark.anyio
async def test_leaving_early_closes_what_is_read() -> None:
    closed = False

    async def events() -> AsyncIterator[StreamEvent]:
        nonlocal closed
        try:
            for event in start(TextDelta(step=1, part=0, text="Hi")):
                yield event
        finally:
            closed = True

    stream = ag_ui_stream(events(), thread_id="t", run_id="r")
    await anext(stream)
    await stream.aclose()
    assert closed
