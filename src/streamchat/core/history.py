"""From what was said and done in a run to the messages that a model is given on its next request.

A run's content becomes one assistant message per step, each followed by the answers to its calls. Every call
gets exactly one answer, whatever became of it: providers refuse a history in which one is missing. What a
background job came to stands in that answer, unless the model had been asked again before it was known: then
the answer stays what it was, and a message tells the rest where it became known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from streamchat.core.jsontext import encode_json, parse_object
from streamchat.messages import ContentPart, MessageCall, ModelMessage, TextPart, ToolCallPart

__all__ = ["messages_of_content", "private_of", "result_text"]

# Providers refuse a history with a call that has no name.
_NAMELESS = "unnamed"
# Extras that are no provider's: the calls' own, and how a workflow goes on.
_OURS = frozenset({"calls", "workflow"})
_WORDS = {
    "denied": "The user did not allow this call.",
    "timeout": "The tool did not answer in time.",
    "cancelled": "The call was cancelled before it came to a result.",
    "unknown": (
        "The call was cut off: it is not known whether it took effect. "
        "Do not repeat it without asking the user."
    ),
    "deferred": "The work has begun and goes on in the background; its result comes later.",
}
_DO_NOT_REPEAT = "It is not over: do not make it again."
_OPEN = {
    "approval": f"This call waits for a person's decision. {_DO_NOT_REPEAT}",
    "client": f"This call waits for its result from the user's side. {_DO_NOT_REPEAT}",
}
_STILL_OPEN = f"This call has no result yet. {_DO_NOT_REPEAT}"
_LATE = "(Not written by the user.) The background work of {name} (call {call_id}) has ended: {result}"


def result_text(call: ToolCallPart) -> str:
    """Say to the model what a call came to, or that it is open still.

    A string output is passed as it is, anything else as JSON. Calls are open where a run pauses and others
    of its conversation go on beside it.
    """
    if call.outcome is None:
        return _OPEN.get(call.state if call.state == "approval" else call.executed_by, _STILL_OPEN)
    if call.outcome == "ok" or (call.outcome == "deferred" and call.output is not None):
        return call.output if isinstance(call.output, str) else encode_json(call.output)
    if call.outcome == "error":
        return f"Error: {call.error or 'the tool failed.'}"
    if call.outcome == "cancelled":
        return _cancelled_text(call)
    words = _WORDS.get(call.outcome, _WORDS["cancelled"])
    return f"{words} {call.error}" if call.error else words


def _cancelled_text(call: ToolCallPart) -> str:
    # A page that is shown a call runs it without a word to the log.
    shown = call.executed_by == "client" and (call.approval is None or call.approval.approved is True)
    if not (call.attempts or shown or call.job):
        return "The call was cancelled before it was started." + (f" {call.error}" if call.error else "")
    known = call.error or "It was cancelled while it ran; whether it took effect is not known."
    return f"The call came to no result. {known} Do not repeat it without asking the user."


def _answer_text(call: ToolCallPart) -> str:
    if call.job is None or call.job.ended_in == call.step:
        return result_text(call)
    told = call.job.message
    return _WORDS["deferred"] if told is None else told if isinstance(told, str) else encode_json(told)


def _late_message(call: ToolCallPart) -> ModelMessage:
    # Some providers take a system message only at the beginning.
    words = _LATE.format(
        name=call.name, call_id=call.provider_call_id or call.call_id, result=result_text(call)
    )
    return ModelMessage(role="user", content=words)


def private_of(extras: Mapping[int, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Put the private extras of a run's steps into the form that a message row keeps; None for none."""
    return {"steps": {str(step): dict(value) for step, value in extras.items()}} if extras else None


def messages_of_content(
    content: Iterable[ContentPart],
    private: Mapping[str, Any] | None = None,
    *,
    before: int | None = None,
) -> list[ModelMessage]:
    """Return the model messages of one run's content, which must be in order of ``part``; with ``before``,
    what of them was known when the step of that number began.

    ``private`` is what `private_of` made. Reasoning and refusals are not repeated to the model as text; what
    a provider needs of them is in its extras. Arguments are the model's own text, unless a person has edited
    them. A part of a step that said and called nothing leaves no message.
    """
    extras = (private or {}).get("steps", {})
    steps: dict[int, list[ContentPart]] = {}
    late: dict[int, list[ToolCallPart]] = {}
    for part in content:
        steps.setdefault(part.step, []).append(part)
        if isinstance(part, ToolCallPart) and part.job is not None:
            ended_in = part.job.ended_in
            if ended_in is not None and ended_in > part.step:
                late.setdefault(ended_in, []).append(part)
    out: list[ModelMessage] = []
    for number in sorted({*steps, *late}):
        if before is not None and number >= before:
            break
        out += _messages_of_step(steps.get(number, []), extras.get(str(number)))
        out += [_late_message(call) for call in late.get(number, ())]
    return out


def _messages_of_step(parts: list[ContentPart], extras: dict[str, Any] | None) -> list[ModelMessage]:
    text = "".join(part.text for part in parts if isinstance(part, TextPart))
    # A call that streamed but never stood was not made; one that the provider ran is in its own extras.
    calls = [
        part
        for part in parts
        if isinstance(part, ToolCallPart) and part.state != "streaming" and part.executed_by != "provider"
    ]
    per_call: Mapping[str, Any] = (extras or {}).get("calls", {})
    extras = {key: value for key, value in (extras or {}).items() if key not in _OURS}
    if not text and not calls and not extras:
        return []
    assistant = ModelMessage(
        role="assistant",
        content=text,
        calls=tuple(_message_call(call, per_call.get(call.call_id)) for call in calls),
        extras=extras or None,
    )
    answers = [ModelMessage(role="tool", call_id=call.call_id, content=_answer_text(call)) for call in calls]
    return [assistant, *answers]


def _message_call(call: ToolCallPart, kept: Mapping[str, Any] | None) -> MessageCall:
    raw = (kept or {}).get("arguments")
    if call.arguments is None:
        raw = call.arguments_text if raw is None else raw
    elif raw is None or parse_object(raw) != call.arguments:
        # A person has edited them: the model must see what the tool was really given.
        raw = encode_json(call.arguments)
    return MessageCall(
        call_id=call.call_id,
        provider_call_id=call.provider_call_id,
        name=call.name or _NAMELESS,
        arguments=raw or "{}",
        extra=(kept or {}).get("extra"),
    )
