"""What the AI SDK's clients accept and make of it, as rules: a validator and a reducer of UI message chunks.

Read from the sources of ``ai`` 5.0.60, 5.0.277, 6.0.326 and 7.0.173, and verified by running them
(`tests/npm`). The validator takes what the strictest version of a target takes, and asks for what a tidy
stream has beyond that: each start has its end.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from typing import Any

from streamchat.core.sse import SSEDecoder
from streamchat.core.state import RunState
from streamchat.messages import (
    ContentPart,
    FilePart,
    ReasoningPart,
    RefusalPart,
    SourcePart,
    TextPart,
    ToolCallPart,
)
from streamchat.wire.vercel.chunks import Chunk

# type: (required fields, optional fields)
_EVERYWHERE: dict[str, tuple[str, str]] = {
    "start": ("", "messageId messageMetadata"),
    "finish": ("", "messageMetadata"),
    "abort": ("", ""),
    "error": ("errorText", ""),
    "message-metadata": ("messageMetadata", ""),
    "start-step": ("", ""),
    "finish-step": ("", ""),
    "text-start": ("id", ""),
    "text-delta": ("id delta", ""),
    "text-end": ("id", ""),
    "reasoning-start": ("id", ""),
    "reasoning-delta": ("id delta", ""),
    "reasoning-end": ("id", ""),
    "tool-input-start": ("toolCallId toolName", "providerExecuted dynamic"),
    "tool-input-delta": ("toolCallId inputTextDelta", ""),
    "tool-input-available": ("toolCallId toolName input", "providerExecuted dynamic"),
    "tool-input-error": ("toolCallId toolName input errorText", "providerExecuted dynamic"),
    "tool-output-available": ("toolCallId output", "providerExecuted dynamic preliminary"),
    "tool-output-error": ("toolCallId errorText", "providerExecuted dynamic"),
    "source-url": ("sourceId url", "title"),
    "source-document": ("sourceId mediaType title", "filename"),
    "file": ("url mediaType", ""),
}
_SINCE_V6 = {
    "finish": ("", "messageMetadata finishReason"),
    "abort": ("", "reason"),
    "tool-approval-request": ("approvalId toolCallId", ""),
    "tool-output-denied": ("toolCallId", ""),
}
_SINCE_V7 = {"reset-step": ("", ""), "tool-approval-response": ("approvalId approved", "reason")}
_FINISH = {"stop", "length", "content-filter", "tool-calls", "error", "other"}
_ANYTHING = {"input", "output", "data", "messageMetadata"}
_FLAGS = {"providerExecuted", "dynamic", "preliminary", "transient", "approved"}
_ENDS = ("finish", "abort", "error")


def chunks_of(body: bytes) -> list[Chunk]:
    """The chunks of a response's body; it must end as a body does."""
    frames = SSEDecoder().feed(body)
    assert frames
    assert frames[-1].data == b"[DONE]"
    return [json.loads(frame.data) for frame in frames[:-1]]


def check_schema(chunk: Chunk, target: str) -> None:
    """Raise `AssertionError` for a chunk that the strictest client of this target refuses."""
    table = dict(_EVERYWHERE)
    if target != "v5":
        table |= _SINCE_V6
    if target == "v7":
        table |= _SINCE_V7
    kind = chunk["type"]
    required, optional = ("data", "id transient") if kind.startswith("data-") else table[kind]
    fields = set(chunk) - {"type"}
    assert set(required.split()) <= fields, chunk
    assert fields <= {*required.split(), *optional.split()}, chunk
    for name in fields - _ANYTHING:
        assert isinstance(chunk[name], bool if name in _FLAGS else str), chunk
    if "finishReason" in chunk:
        assert chunk["finishReason"] in _FINISH, chunk


class Message:
    """What a client makes of responses about one message: ``parts`` as `expected` gives them, and the rules.

    ``known`` is the message as an earlier response left it.
    """

    def __init__(self, target: str, known: Message | None = None) -> None:
        self.target = target
        self.id: str | None = known.id if known else None
        self.parts: list[Chunk] = copy.deepcopy(known.parts) if known else []
        self.metadata: dict[str, Any] = dict(known.metadata) if known else {}
        self.ended_by: str | None = None
        self.error: str | None = None
        self._started = self._in_step = False
        self._open: dict[str, Chunk] = {}
        self._typing: set[str] = set()

    def take(self, chunks: Iterable[Chunk], *, tail: bool = False) -> Message:
        """Take a response's chunks; ``tail`` says that it goes on where another was cut off."""
        self._started = tail
        for chunk in chunks:
            check_schema(chunk, self.target)
            assert self.ended_by is None, f"{chunk} after the end"
            getattr(self, "_" + chunk["type"].partition("-")[0])(chunk)
        return self

    def finish(self) -> Message:
        """Raise `AssertionError` where a response ends in the middle of something."""
        assert self.ended_by is not None
        assert not self._open
        assert not self._in_step
        return self

    # One method for the first word of each type.

    def _start(self, chunk: Chunk) -> None:
        if chunk["type"] == "start-step":
            assert self._started
            assert not self._in_step
            self._in_step = True
            self.parts.append({"type": "step-start"})
            return
        assert not self._started, "a second start"
        self._started = True
        self.id = chunk.get("messageId", self.id)
        self.metadata |= chunk.get("messageMetadata", {})

    def _finish(self, chunk: Chunk) -> None:
        if chunk["type"] == "finish-step":
            assert self._in_step
            assert not self._open
            self._in_step = False
            self._typing.clear()
            return
        self.ended_by = "finish"
        self.metadata |= chunk.get("messageMetadata", {})

    def _abort(self, chunk: Chunk) -> None:
        self.ended_by = "abort"

    def _error(self, chunk: Chunk) -> None:
        self.ended_by, self.error = "error", chunk["errorText"]

    def _message(self, chunk: Chunk) -> None:
        self.metadata |= chunk["messageMetadata"]

    def _reset(self, chunk: Chunk) -> None:
        assert self._in_step
        while self.parts and self.parts[-1]["type"] != "step-start":
            self.parts.pop()
        self._open.clear()
        self._typing.clear()

    def _text(self, chunk: Chunk) -> None:
        assert self._started
        kind, _, what = chunk["type"].partition("-")
        key = f"{kind} {chunk['id']}"
        if what == "start":
            assert key not in self._open
            self._open[key] = {"type": kind, "id": chunk["id"], "text": ""}
            self.parts.append(self._open[key])
        elif what == "delta":
            self._open[key]["text"] += chunk["delta"]
        else:
            del self._open[key]

    _reasoning = _text

    def _source(self, chunk: Chunk) -> None:
        self.parts.append(chunk)

    _file = _source

    def _data(self, chunk: Chunk) -> None:
        if chunk.get("transient"):
            return
        for part in self.parts:
            if "id" in chunk and (part["type"], part.get("id")) == (chunk["type"], chunk["id"]):
                part["data"] = chunk["data"]
                return
        self.parts.append(dict(chunk))

    def _call(self, call_id: str) -> Chunk:
        found = [part for part in self.parts if part.get("toolCallId") == call_id]
        assert found, f"call {call_id!r} is unknown"
        return found[-1]

    def _tool(self, chunk: Chunk) -> None:
        kind = chunk["type"]
        if kind == "tool-approval-response":
            (part,) = [p for p in self.parts if p.get("approvalId") == chunk["approvalId"]]
            part["state"] = "approval-responded"
            return
        call_id = chunk["toolCallId"]
        if kind.startswith("tool-input"):
            known = [part for part in self.parts if part.get("toolCallId") == call_id]
            if kind == "tool-input-delta":
                assert call_id in self._typing
                known[-1]["typed"] += chunk["inputTextDelta"]
                return
            part = known[-1] if known else {"type": "tool", "toolCallId": call_id, "typed": ""}
            if not known:
                self.parts.append(part)
            if kind == "tool-input-start":
                self._typing.add(call_id)
            part |= {k: v for k, v in chunk.items() if k not in ("type", "toolCallId")}
            part["state"] = {
                "tool-input-start": "input-streaming",
                "tool-input-available": "input-available",
                "tool-input-error": "output-error",
            }[kind]
            return
        part = self._call(call_id)
        assert part.get("dynamic") == chunk.get("dynamic") or kind in (
            "tool-approval-request",
            "tool-output-denied",
        )
        part.pop("preliminary", None)
        part |= {k: v for k, v in chunk.items() if k not in ("type", "toolCallId", "dynamic")}
        part["state"] = "approval-requested" if kind == "tool-approval-request" else kind[5:]

    # For comparing.

    @property
    def said(self) -> list[tuple[Any, ...]]:
        """The parts in the form of `expected`; text that came in several pieces is one."""
        out: list[list[Any]] = []
        texts: dict[str, list[Any]] = {}
        for part in self.parts:
            kind = part["type"]
            if kind in ("text", "reasoning"):
                key = f"{kind} {part['id']}"
                if key in texts:
                    texts[key][1] += part["text"]
                else:
                    texts[key] = [kind, part["text"]]
                    out.append(texts[key])
            elif kind == "tool":
                if part.get("errorText") == "The call was never completed.":
                    continue
                out.append(["tool", part["toolCallId"], part["toolName"], part["state"], *_came_to(part)])
            elif kind in ("source-url", "source-document", "file", "data-file"):
                out.append([kind, part.get("url")])
        return [tuple(item) for item in out]


def _came_to(part: Chunk) -> Sequence[Any]:
    if part["state"] == "output-available":
        return (part["input"], part["output"])
    return (part["input"],) if part["state"] == "output-denied" else ()


def expected(state: RunState, target: str) -> list[tuple[Any, ...]]:
    """The parts that a client has when the run of ``state`` is over."""
    return [_expected(part, target) for part in state.parts]


def _expected(part: ContentPart, target: str) -> tuple[Any, ...]:
    match part:
        case TextPart() | RefusalPart():
            return ("text", part.text)
        case ReasoningPart():
            return ("reasoning", part.text)
        case SourcePart():
            return ("source-document" if part.url is None else "source-url", part.url)
        case FilePart():
            return ("data-file" if part.url is None else "file", part.url)
        case ToolCallPart():
            head = ("tool", part.call_id, part.name)
            if part.outcome == "ok":
                return (*head, "output-available", part.arguments or {}, part.output)
            if part.outcome == "denied" and part.approval is not None and target != "v5":
                return (*head, "output-denied", part.arguments or {})
            return (*head, "output-error")
