"""The rules of a Chat Completions response, as OpenAI's clients hold servers to them: what breaks one raises.

https://platform.openai.com/docs/api-reference/chat/streaming; the types are those of the ``openai`` package.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from streamchat.core.sse import SSEDecoder

_LISTS = ("tool_calls", "annotations")


@dataclass
class Received:
    """What a client has after a stream: the fields of all deltas put together."""

    fields: dict[str, str] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    done: bool = False

    def text(self, name: str) -> str:
        return self.fields.get(name, "")

    @property
    def code(self) -> str | None:
        return self.error["code"] if self.error is not None else None

    @property
    def ended(self) -> bool:
        return self.done or self.error is not None


def read_stream(body: bytes, *, usage: bool = False) -> Received:
    """Check a body, or the beginning of one, against the rules; returns what a client makes of it."""
    assert b"\r" not in body
    assert not body or body.endswith(b"\n\n"), "a frame is cut off"
    for line in body.split(b"\n"):
        assert not line or line.startswith((b"data: ", b":")), f"no line of this protocol: {line!r}"
    got, head = Received(), None
    for position, frame in enumerate(SSEDecoder().feed(body)):
        assert not got.ended, f"{frame.data!r} comes after the end"
        if frame.data == b"[DONE]":
            assert got.finish_reason is not None
            assert not usage or got.usage is not None
            got.done = True
            continue
        chunk = json.loads(frame.data)
        if "error" in chunk:
            assert got.finish_reason is None, "an answer fails or finishes"
            got.error = check_error(chunk)
            continue
        ChatCompletionChunk.model_validate(chunk)
        named = {key: chunk[key] for key in ("id", "object", "created", "model")}
        head = head or named
        assert named == head
        assert named["object"] == "chat.completion.chunk"
        _take_chunk(chunk, got, first=position == 0, usage=usage)
    return got


def check_error(answer: dict[str, Any]) -> dict[str, Any]:
    """Check an error object, in a stream or as an answer; returns what is in it."""
    error: dict[str, Any] = answer["error"]
    assert list(answer) == ["error"]
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    return error


def _take_chunk(chunk: dict[str, Any], got: Received, *, first: bool, usage: bool) -> None:
    assert ("usage" in chunk) == usage, "usage stands in all chunks or in none"
    if not chunk["choices"]:
        assert got.finish_reason is not None
        assert got.usage is None
        got.usage = chunk["usage"]
        return
    assert not usage or chunk["usage"] is None
    (choice,) = chunk["choices"]
    delta = choice["delta"]
    assert choice["index"] == 0
    assert got.finish_reason is None, "a delta comes after the finish"
    assert ("role" in delta) == first, "the role stands in the first chunk, and nowhere else"
    if first:
        assert delta == {"role": "assistant", "content": ""}
        assert choice["finish_reason"] is None
        return
    for name, value in delta.items():
        if name not in _LISTS:
            assert isinstance(value, str)
            assert value, f"an empty {name} says nothing"
            got.fields[name] = got.text(name) + value
    got.annotations += delta.get("annotations", ())
    for call in delta.get("tool_calls", ()):
        _take_call(call, got)
    if choice["finish_reason"] is not None:
        assert not delta
        got.finish_reason = choice["finish_reason"]
        assert (got.finish_reason == "tool_calls") == bool(got.calls)


def _take_call(call: dict[str, Any], got: Received) -> None:
    if call["index"] == len(got.calls):
        assert call["id"]
        assert call["id"] not in [each["id"] for each in got.calls]
        assert call["type"] == "function"
        assert call["function"]["name"]
        got.calls.append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
    got.calls[call["index"]]["arguments"] += call["function"]["arguments"]


def check_completion(answer: dict[str, Any]) -> dict[str, Any]:
    """Check a whole answer; returns its message."""
    ChatCompletion.model_validate(answer)
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    message: dict[str, Any] = choice["message"]
    assert message["role"] == "assistant"
    assert {"content", "refusal"} <= message.keys()
    assert (choice["finish_reason"] == "tool_calls") == bool(message.get("tool_calls"))
    assert answer["usage"]["total_tokens"] >= 0
    return message
