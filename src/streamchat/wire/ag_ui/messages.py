"""What was said as AG-UI messages: a run's parts, which make several of them, and a user's message.

A step of a run is one assistant message with its tool calls, plus one for each further text; reasoning, tool
results, sources and files are messages of their own (sources, files and progress with the role ``activity``).
Ids are made from the run's message id, so that the same run gives the same messages to whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from streamchat.core.history import result_text
from streamchat.core.jsontext import encode_json
from streamchat.messages import (
    ContentPart,
    FilePart,
    ReasoningPart,
    RefusalPart,
    SourcePart,
    TextPart,
    ToolCallPart,
)

__all__ = [
    "NAMESPACE",
    "REFUSAL",
    "AGUIMessage",
    "Ids",
    "activity_of",
    "arguments_text",
    "progress_of",
    "result_of",
    "run_messages",
    "snapshot_of",
    "user_message",
]

AGUIMessage: TypeAlias = dict[str, Any]
"""One message as AG-UI has it: JSON values, keys in camel case, what is absent left out."""

NAMESPACE = "streamchat"
"""The key under which this package's own metadata stands, on events and on messages."""

_ACTIVITIES = ("source", "file", "tool_progress")
"""The activity types that a run makes."""

REFUSAL: Mapping[str, Any] = {NAMESPACE: {"part": "refusal"}}
"""The metadata of an assistant message whose text is a refusal."""


class Ids:
    """Names the messages of one run; ``base`` is its message id, unique in the conversation.

    Call ids are unique within a run only, and a client keeps the calls of a whole thread: so they are
    qualified as well.
    """

    __slots__ = ("base",)

    def __init__(self, base: str) -> None:
        self.base = base

    def text(self, step: int, number: int) -> str:
        """Of a step's text, counted from 0; the first one's message carries the calls made before the
        second."""
        return f"{self.base}.{step}.{number}" if number else f"{self.base}.{step}"

    def reasoning(self, step: int, number: int) -> str:
        """Of a step's reasoning, counted from 0."""
        return f"{self.base}.{step}.r{number}"

    def activity(self, part: int) -> str:
        """Of a source or a file."""
        return f"{self.base}.part.{part}"

    def call(self, call_id: str) -> str:
        """A tool call's id in the thread."""
        return f"{self.base}.{call_id}"

    def result(self, call_id: str) -> str:
        """Of the message with a call's result."""
        return f"{self.base}.result.{call_id}"

    def progress(self, call_id: str) -> str:
        """Of a call's progress."""
        return f"{self.base}.progress.{call_id}"


def arguments_text(call: ToolCallPart) -> str:
    """Return a call's arguments as JSON text, or as they came where they are not JSON, or not all there."""
    return call.arguments_text or "" if call.arguments is None else encode_json(call.arguments)


def result_of(call: ToolCallPart, ids: Ids) -> dict[str, Any]:
    """Return what a tool's result and its message share, all but the id."""
    told = {"role": "tool", "toolCallId": ids.call(call.call_id), "content": result_text(call)}
    if call.outcome in ("ok", None):
        return told
    return {**told, "metadata": {NAMESPACE: {"outcome": call.outcome}}}


def activity_of(part: SourcePart | FilePart) -> dict[str, Any]:
    """Return type and content of a source's or a file's activity."""
    if isinstance(part, SourcePart):
        fields = {"url": part.url, "title": part.title, "sourceId": part.source_id, "data": part.data}
    else:
        fields = {"url": part.url, "mediaType": part.media_type, "name": part.name, "data": part.data}
    return {"activityType": part.type, "content": _present(fields)}


def progress_of(call_id: str, progress: Mapping[str, Any]) -> dict[str, Any]:
    """Return type and content of the activity that tells of a tool at work; ``call_id`` is qualified."""
    return {"activityType": "tool_progress", "content": {"toolCallId": call_id, **progress}}


def run_messages(parts: Iterable[ContentPart], ids: Ids) -> list[AGUIMessage]:
    """Return the messages of one run's content, which must be in order of ``part``.

    A call whose name is not known yet is left out while nothing stands behind it.
    """
    steps: dict[int, list[ContentPart]] = {}
    for part in parts:
        steps.setdefault(part.step, []).append(part)
    return [message for step, of_step in steps.items() for message in _StepMessages(step, ids).of(of_step)]


class _StepMessages:
    """The messages of one step, in the order in which they began; results stand behind who asked."""

    def __init__(self, step: int, ids: Ids) -> None:
        self._step = step
        self._ids = ids
        self._messages: dict[str, AGUIMessage] = {}
        self._behind: dict[str, list[AGUIMessage]] = {}
        self._progress: list[AGUIMessage] = []
        self._counts = {"text": 0, "reasoning": 0}
        self._speaker: str | None = None

    def of(self, parts: Sequence[ContentPart]) -> list[AGUIMessage]:
        for part in parts[: len(parts) - _nameless(parts)]:
            if isinstance(part, TextPart | RefusalPart):
                self._say(part)
            elif isinstance(part, ReasoningPart):
                message_id = self._ids.reasoning(self._step, self._count("reasoning"))
                self._messages[message_id] = {"id": message_id, "role": "reasoning", "content": part.text}
            elif isinstance(part, ToolCallPart):
                self._call(part)
            else:
                message_id = self._ids.activity(part.part)
                self._messages[message_id] = {"id": message_id, "role": "activity", **activity_of(part)}
        return [
            message
            for message_id, first in self._messages.items()
            for message in (first, *self._behind.get(message_id, ()))
        ] + self._progress

    def _count(self, kind: str) -> int:
        number = self._counts[kind]
        self._counts[kind] = number + 1
        return number

    def _assistant(self, message_id: str) -> AGUIMessage:
        self._speaker = message_id
        return self._messages.setdefault(message_id, {"id": message_id, "role": "assistant"})

    def _say(self, part: TextPart | RefusalPart) -> None:
        message = self._assistant(self._ids.text(self._step, self._count("text")))
        message["content"] = part.text
        if isinstance(part, RefusalPart):
            message["metadata"] = dict(REFUSAL)

    def _call(self, call: ToolCallPart) -> None:
        speaker = self._speaker or self._ids.text(self._step, 0)
        call_id = self._ids.call(call.call_id)
        function = {"name": call.name, "arguments": arguments_text(call)}
        calls = self._assistant(speaker).setdefault("toolCalls", [])
        calls.append({"id": call_id, "type": "function", "function": function})
        if call.state in ("done", "deferred"):
            result = {"id": self._ids.result(call.call_id), **result_of(call, self._ids)}
            self._behind.setdefault(speaker, []).append(result)
        if call.progress is not None:
            message_id = self._ids.progress(call.call_id)
            activity = progress_of(call_id, call.progress)
            self._progress.append({"id": message_id, "role": "activity", **activity})


def snapshot_of(messages: Sequence[AGUIMessage], reasoned: Iterable[str]) -> dict[str, Any]:
    """Return the fields of a ``MESSAGES_SNAPSHOT``; ``reasoned`` names what reasoning the client was told.

    A snapshot without any reasoning says nothing of it: the client would keep what was withdrawn. So it is
    emptied then.
    """
    if not any(message["role"] == "reasoning" for message in messages):
        messages = [*messages, *({"id": each, "role": "reasoning", "content": ""} for each in reasoned)]
    # The same of activities, for which the client has a word of its own.
    about = {"@ag-ui/client": {"authoritativeActivityTypes": list(_ACTIVITIES)}}
    return {"messages": messages, "metadata": about}


def _nameless(parts: Sequence[ContentPart]) -> int:
    """Count the calls at the end of a step's parts that have no name yet."""
    count = 0
    for part in reversed(parts):
        if not isinstance(part, ToolCallPart) or part.name or part.state != "streaming":
            break
        count += 1
    return count


def user_message(message_id: str, parts: Iterable[ContentPart]) -> AGUIMessage:
    """Return a user's message: text alone as text, anything else as parts.

    What AG-UI has no part for (a file by its id at the provider aside) is left out.
    """
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, TextPart):
            content.append({"type": "text", "text": part.text})
        elif isinstance(part, FilePart) and part.data is not None:
            media = _media(part.data)
            if media is not None:
                content.append(media)
    texts = [part["text"] for part in content if part["type"] == "text"]
    only_text = len(texts) == len(content)
    return {"id": message_id, "role": "user", "content": "".join(texts) if only_text else content}


def _media(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Translate a Chat Completions part."""
    kind = part.get("type")
    inner = part.get(kind) if isinstance(kind, str) else None
    if not isinstance(inner, Mapping):
        return None
    if kind == "image_url":
        return {"type": "image", "source": _source(str(inner.get("url", "")))}
    if kind == "input_audio":
        mime_type = f"audio/{inner.get('format', 'wav')}"
        source = {"type": "data", "value": str(inner.get("data", "")), "mimeType": mime_type}
        return {"type": "audio", "source": source}
    if inner.get("file_id") is not None:
        source = {"type": "file", "value": str(inner["file_id"])}
    else:
        source = _source(str(inner.get("file_data", "")))
    name = inner.get("filename")
    metadata = {} if name is None else {"metadata": {"filename": name}}
    return {"type": "document", "source": source, **metadata}


def _source(url: str) -> dict[str, str]:
    head, comma, value = url.partition(",")
    if head.startswith("data:") and head.endswith(";base64") and comma:
        mime_type = head.removeprefix("data:").partition(";")[0]
        return {"type": "data", "value": value, "mimeType": mime_type or "application/octet-stream"}
    return {"type": "url", "value": url}


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
