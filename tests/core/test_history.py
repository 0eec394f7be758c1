"""From content to messages: each call has one answer, what was withdrawn is gone, extras come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.core.conclude import conclude
from streamchat.core.fold import Folder
from streamchat.core.history import messages_of_content, private_of, result_text
from streamchat.events import ApprovalResolved, ModelCompleted, StepReset, StreamEvent, ToolCallEvent
from streamchat.messages import (
    CallApproval,
    CallJob,
    ContentPart,
    FilePart,
    ModelMessage,
    ReasoningPart,
    RefusalPart,
    TextPart,
    ToolCallPart,
)
from streamchat.models.chat_requests import chat_messages
from streamchat.testing.histories import check_history
from streamchat.testing.strategies import event_logs, json_values, texts
from tests.core.logs import (
    STARTED,
    asked,
    begun,
    call,
    call_delta,
    completed,
    decided,
    finished,
    job,
    result,
    step,
    text,
    with_call,
    with_job,
)


def folded(log: list[StreamEvent]) -> Folder:
    folder = Folder()
    for event in log:
        folder.add(event)
    return folder


def messages_of(log: list[StreamEvent]) -> list[ModelMessage]:
    folder = folded(log)
    return messages_of_content(folder.content(), private_of(folder.extras))


# Whatever the log.


@given(event_logs(cut="anywhere", as_written=False))
def test_every_call_has_exactly_one_answer_right_behind_it(log: list[StreamEvent]) -> None:
    open_calls: list[str] = []
    answered = []
    for message in messages_of(log):
        if message.role == "tool":
            answered.append(open_calls.pop(0))
            assert message.call_id == answered[-1]
        else:
            # A user's message tells what a job came to, where the model had been asked again meanwhile.
            assert message.role in ("assistant", "user")
            assert not open_calls, "another message before all calls were answered"
            open_calls = [made.call_id for made in message.calls]
    assert not open_calls
    made_here = [c for c in folded(log).state.calls if c.executed_by != "provider"]
    assert answered == [c.call_id for c in made_here]


@given(event_logs(cut="batch"), st.booleans())
def test_a_strict_provider_takes_what_any_log_says(log: list[StreamEvent], concluded: bool) -> None:
    if concluded:
        log = [*log, *conclude(log, "worker_lost")]
    messages = [ModelMessage(role="user", content="Go on."), *messages_of(log)]
    check_history(chat_messages(messages, None))


@given(event_logs(cut="anywhere", as_written=False))
def test_nothing_that_was_withdrawn_is_said(log: list[StreamEvent]) -> None:
    standing: dict[int, list[str]] = {}
    for event in log:
        if isinstance(event, StepReset):
            standing[event.step] = []
        elif isinstance(event, ToolCallEvent) and event.executed_by != "provider":
            standing.setdefault(event.step, []).append(event.call_id)
    made = [c.call_id for message in messages_of(log) for c in message.calls]
    assert sorted(made) == sorted(call_id for ids in standing.values() for call_id in ids)
    said = "".join(
        m.content for m in messages_of(log) if m.role == "assistant" and isinstance(m.content, str)
    )
    assert said == folded(log).state.text


@given(event_logs(cut="anywhere"))
def test_extras_come_back_with_the_step_that_they_came_from(log: list[StreamEvent]) -> None:
    steps = {part.step for part in folded(log).content()}
    wanted = [
        {key: value for key, value in event.private.items() if key != "calls"}
        for event in log
        if isinstance(event, ModelCompleted) and event.private and event.step in steps
    ]
    assert [m.extras for m in messages_of(log) if m.extras is not None] == [rest for rest in wanted if rest]


@given(event_logs(cut="anywhere"))
def test_raw_arguments_come_back_unless_a_person_edited_them(log: list[StreamEvent]) -> None:
    completed = [event for event in log if isinstance(event, ModelCompleted) and event.private]
    kept = {i: call for event in completed for i, call in (event.private or {}).get("calls", {}).items()}
    edited = {e.call_id for e in log if isinstance(e, ApprovalResolved) and e.arguments is not None}
    parts = {part.call_id: part for part in folded(log).state.calls}
    for message in messages_of(log):
        for made in message.calls:
            if made.call_id in kept:
                assert made.extra == kept[made.call_id]["extra"]
                if made.call_id not in edited:
                    assert made.arguments == kept[made.call_id]["arguments"]
            if parts[made.call_id].arguments is not None:
                assert json.loads(made.arguments) == parts[made.call_id].arguments


# One step, one message.


def part(**fields: Any) -> ToolCallPart:
    return ToolCallPart(**{"part": 1, "step": 1, "call_id": "a", "name": "tool", "arguments": {}, **fields})


def test_a_step_is_one_assistants_message_and_its_answers() -> None:
    content: list[ContentPart] = [
        ReasoningPart(part=0, step=1, text="hm"),
        TextPart(part=1, step=1, text="Let me "),
        TextPart(part=2, step=1, text="look."),
        part(part=3, state="done", outcome="ok", output={"t": 3}),
        part(
            part=4,
            call_id="b",
            provider_call_id="functions.tool:0",
            state="done",
            outcome="ok",
            output="warm",
        ),
        TextPart(part=5, step=2, text="It is warm."),
        RefusalPart(part=6, step=3, text="I cannot."),
        FilePart(part=7, step=4),
    ]
    first, one, two, second = messages_of_content(content)
    assert (first.role, first.content) == ("assistant", "Let me look.")
    assert [(c.call_id, c.provider_call_id) for c in first.calls] == [("a", None), ("b", "functions.tool:0")]
    assert (one.role, one.call_id, one.content) == ("tool", "a", '{"t":3}')
    assert (two.role, two.call_id, two.content) == ("tool", "b", "warm")
    assert (second.role, second.content, second.calls) == ("assistant", "It is warm.", ())


def test_a_step_that_said_and_called_nothing_leaves_no_message() -> None:
    assert messages_of_content([ReasoningPart(part=0, step=1, text="hm")]) == []
    assert messages_of([STARTED, step(), call_delta()]) == []
    only_kept = private_of({1: {"calls": {"a": {"arguments": "{}"}}}})
    assert messages_of_content([ReasoningPart(part=0, step=1, text="hm")], only_kept) == []


def test_extras_alone_are_worth_a_message() -> None:
    private = private_of({1: {"responses": {"encrypted": "x"}}})
    (message,) = messages_of_content([ReasoningPart(part=0, step=1, text="hm")], private)
    assert (message.content, message.extras) == ("", {"responses": {"encrypted": "x"}})


def test_a_providers_own_call_is_left_to_its_extras() -> None:
    assert messages_of(with_call(result(output="found"), executed_by="provider")) == []


def test_without_extras_there_is_nothing_to_keep() -> None:
    assert private_of({}) is None
    assert messages_of([STARTED, step(), text()])[0].extras is None


@given(st.dictionaries(st.integers(1, 5), st.dictionaries(texts(5), json_values(), max_size=3), max_size=3))
def test_extras_survive_the_row_that_keeps_them(extras: dict[int, dict[str, Any]]) -> None:
    private = private_of(extras)
    again = json.loads(json.dumps(private))
    content = [TextPart(part=number, step=number, text="x") for number in sorted(extras)]
    assert messages_of_content(content, again) == messages_of_content(content, private)


# What the arguments are.


def test_edited_arguments_are_what_the_model_sees() -> None:
    kept = {"calls": {"a": {"arguments": '{"to":"bob"}', "extra": {"signature": "s"}}}}
    log: list[StreamEvent] = [
        STARTED,
        step(),
        call(arguments={"to": "bob"}),
        completed("a", private=kept),
        asked(),
    ]
    (asked_for,) = messages_of([*log, decided(True)])[0].calls
    (edited,) = messages_of([*log, decided(True, arguments={"to": "ann"})])[0].calls
    assert (asked_for.arguments, edited.arguments) == ('{"to":"bob"}', '{"to":"ann"}')


def test_a_call_without_a_name_gets_one_because_providers_ask_for_it() -> None:
    (made,) = messages_of(with_call(result(outcome="error"), name="", problem="missing_name"))[0].calls
    assert made.name == "unnamed"


RAW = [
    '{"x": 1.0}',
    '{"x":1e2}',
    ' {\n"ä": "\\u00e4"}\t',
    '{"b":1,"a":1,"b":2}',
    '{"n": 12345678901234567890123}',
]


@pytest.mark.parametrize("raw", RAW)
def test_raw_arguments_come_back_byte_for_byte(raw: str) -> None:
    kept = {"calls": {"a": {"arguments": raw, "extra": {"signature": "s"}}}}
    log: list[StreamEvent] = [STARTED, step(), call(arguments=json.loads(raw)), completed("a", private=kept)]
    (made,) = messages_of(log)[0].calls
    assert made.arguments == raw
    assert made.extra == {"signature": "s"}


def test_arguments_that_could_not_be_read_come_back_as_they_were() -> None:
    log = with_call(result(outcome="error"), arguments=None, arguments_text='{"x": ', problem="truncated")
    (made,) = messages_of(log)[0].calls
    assert made.arguments == '{"x": '


def test_without_the_raw_text_the_arguments_are_written_again() -> None:
    (made,) = messages_of(with_call(arguments={"ä": [1, None]}))[0].calls
    assert made.arguments == '{"ä":[1,null]}'


def test_no_arguments_are_an_empty_object() -> None:
    # Some providers send no text at all for a tool without parameters, and refuse to get none back.
    assert messages_of(with_call(arguments=None, arguments_text=""))[0].calls[0].arguments == "{}"
    log: list[StreamEvent] = [
        STARTED,
        step(),
        call(),
        completed("a", private={"calls": {"a": {"arguments": ""}}}),
    ]
    assert messages_of(log)[0].calls[0].arguments == "{}"


# What the answers say.

ANSWERS = [
    ({"outcome": "ok", "output": "text"}, "text"),
    ({"outcome": "ok", "output": ""}, ""),
    ({"outcome": "ok", "output": None}, "null"),
    ({"outcome": "ok", "output": {"ä": [1, 2**80]}}, '{"ä":[1,1208925819614629174706176]}'),
    ({"outcome": "error", "error": "no such city"}, "Error: no such city"),
    ({"outcome": "error"}, "Error: the tool failed."),
    ({"outcome": "denied"}, "The user did not allow this call."),
    ({"outcome": "denied", "error": "Too dear."}, "The user did not allow this call. Too dear."),
    ({"outcome": "timeout"}, "The tool did not answer in time."),
    ({"outcome": "cancelled"}, "The call was cancelled before it was started."),
    (
        {"outcome": "cancelled", "error": "Too late."},
        "The call was cancelled before it was started. Too late.",
    ),
    ({"outcome": "from_the_future"}, "The call was cancelled before it came to a result."),
    ({"outcome": "deferred", "output": {"eta": 10}}, '{"eta":10}'),
]


@pytest.mark.parametrize(("fields", "words"), ANSWERS, ids=str)
def test_the_answer_says_what_the_call_came_to(fields: dict[str, Any], words: str) -> None:
    assert result_text(part(**fields)) == words


def test_the_model_is_told_not_to_repeat_what_may_have_happened() -> None:
    assert "not known whether it took effect" in result_text(part(outcome="unknown"))
    for fields in ({"attempts": 1}, {"executed_by": "client"}, {"job": CallJob()}):
        words = result_text(part(outcome="cancelled", **fields))
        assert "whether it took effect is not known" in words
        assert "Do not repeat it" in words
    words = result_text(part(outcome="cancelled", attempts=1, error="It may still be at work."))
    assert words.split(". ")[1:] == ["It may still be at work", "Do not repeat it without asking the user."]


def test_a_call_that_nobody_agreed_to_was_never_started() -> None:
    asked = part(outcome="cancelled", executed_by="client", approval=CallApproval(approval_id="a"))
    assert result_text(asked) == "The call was cancelled before it was started."


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"state": "approval"}, "waits for a person's decision"),
        ({"state": "approval", "executed_by": "client"}, "waits for a person's decision"),
        ({"executed_by": "client"}, "waits for its result from the user's side"),
        ({"state": "running"}, "no result yet"),
        ({}, "no result yet"),
    ],
    ids=str,
)
def test_a_call_that_is_open_is_told_as_that_and_not_to_be_made_again(
    fields: dict[str, Any], words: str
) -> None:
    told = result_text(part(**fields))
    assert words in told
    assert "do not make it again" in told
    assert "cancelled" not in told


def test_a_job_speaks_for_its_call_once_it_is_done() -> None:
    assert "goes on in the background" in str(messages_of(with_job())[1].content)
    assert messages_of([*with_job(), job(output={"url": "v"})])[1].content == '{"url":"v"}'
    failed = job(outcome="error", error="The video could not be made.")
    assert messages_of([*with_job(), failed])[1].content == "Error: The video could not be made."


def test_a_call_without_a_result_is_answered_too() -> None:
    logs: list[list[StreamEvent]] = [with_call(), with_call(begun()), [STARTED, step(), call()]]
    for log in logs:
        assert [message.role for message in messages_of(log)] == ["assistant", "tool"]


# What background jobs came to.


def told(log: list[StreamEvent], before: int | None = None) -> list[tuple[str, Any]]:
    folder = folded(log)
    said = messages_of_content(folder.content(), private_of(folder.extras), before=before)
    return [(message.role, message.content) for message in said if message.content]


def second_step() -> list[StreamEvent]:
    return [step(2), text(1, "It is on its way.", 2), completed(number=2), finished(2)]


def test_a_job_that_ended_before_the_model_was_asked_again_stands_in_its_calls_answer() -> None:
    assert told([*with_job(), job(output="the video")]) == [("tool", "the video")]


def test_a_job_that_still_runs_is_told_as_that() -> None:
    [(role, words)] = told(with_job())
    assert role == "tool"
    assert "in the background" in words
    log = with_call(begun(), result("a", "deferred", output={"queue": 3}))
    assert told(log) == [("tool", '{"queue":3}')]


def test_a_job_that_ended_after_the_model_was_asked_again_is_told_where_it_ended() -> None:
    log = [*with_job(), *second_step(), job(output="the video"), step(3), text(2, "Here it is.", 3)]
    answer, second, late, third = told([*log, completed(number=3)])
    assert answer == ("tool", "The work has begun and goes on in the background; its result comes later.")
    assert second == ("assistant", "It is on its way.")
    assert late[0] == "user"
    assert "the video" in late[1]
    assert "Not written by the user" in late[1]
    assert third == ("assistant", "Here it is.")


def test_a_step_that_is_asked_again_is_given_what_it_was_given_at_first() -> None:
    """A job that ends while a step is under way belongs to the next one."""
    log = [*with_job(), step(2), job(output="the video")]
    assert told(log, before=2) == told(with_job(), before=2)
    whole = [*log, text(1, "So.", 2), completed(number=2)]
    assert [role for role, _ in told(whole, before=3)] == ["tool", "assistant", "user"]


def test_a_step_that_said_nothing_still_has_the_news_that_came_in_it() -> None:
    log = [*with_job(), step(2), completed(number=2), finished(2), job(outcome="error", error="no disk")]
    [_, late] = told(log)
    assert late[0] == "user"
    assert "Error: no disk" in late[1]
