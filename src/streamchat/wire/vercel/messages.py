"""Stored messages as the AI SDK's UI messages: what a page opens with, before anything is streamed.

A message is as its stream left it on the page (`streamchat.wire.vercel.encoder`): the same parts under the
same ids, without metadata and without the application's own data, which only the log has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from streamchat.events import FileEvent, SourceEvent
from streamchat.messages import ContentPart, FilePart, SourcePart, TextPart, ToolCallPart
from streamchat.wire.vercel.calls import error_text
from streamchat.wire.vercel.chunks import Chunk, Target, file_chunk, source_chunk, without_none

__all__ = ["ui_message"]

_AUDIO = {"mp3": "audio/mpeg"}


def ui_message(
    message_id: str,
    role: Literal["user", "assistant", "system"],
    content: Sequence[ContentPart],
    target: Target = "v6",
    *,
    dynamic: Collection[str] | bool = (),
) -> dict[str, Any]:
    """Return one message; ``dynamic`` is as for `VercelEncoder`."""
    parts = _assistants(content, target, dynamic) if role == "assistant" else _users(content)
    return {"id": message_id, "role": role, "parts": parts}


def _users(content: Sequence[ContentPart]) -> list[Chunk]:
    parts: list[Chunk] = []
    for part in content:
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        elif isinstance(part, FilePart):
            parts.append(_given(part.data or {}))
    return parts


def _given(data: Mapping[str, Any]) -> Chunk:
    """A part that a user gave beside text, which is stored as the Chat Completions API takes it."""
    inner = data.get(str(data.get("type")), {})
    match data.get("type"):
        case "image_url":
            url = inner.get("url", "")
        case "input_audio":
            kind = inner.get("format", "")
            url = f"data:{_AUDIO.get(kind, f'audio/{kind}')};base64,{inner.get('data', '')}"
        case _:
            url = inner.get("file_data") or ""
    told = url[5:].partition(",")[0].partition(";")[0] if url[:5].lower() == "data:" else ""
    fallback = "image/*" if data.get("type") == "image_url" else "application/octet-stream"
    return without_none(
        type="file", mediaType=told or fallback, url=url, filename=inner.get("filename") or None
    )


def _assistants(
    content: Sequence[ContentPart], target: Target, dynamic: Collection[str] | bool
) -> list[Chunk]:
    parts: list[Chunk] = []
    step = None
    for part in content:
        if part.step != step:
            step = part.step
            parts.append({"type": "step-start"})
        if isinstance(part, ToolCallPart):
            parts.append(_call(part, target, dynamic))
        elif isinstance(part, SourcePart):
            parts.append(source_chunk(SourceEvent(**part.model_dump(exclude={"type"}))))
        elif isinstance(part, FilePart):
            parts.append(file_chunk(FileEvent(**part.model_dump(exclude={"type"}))))
        else:
            kind = "reasoning" if part.type == "reasoning" else "text"
            parts.append({"type": kind, "text": part.text, "state": "done"})
    # Nothing was said: what a page keeps of that is the step.
    return parts or [{"type": "step-start"}]


def _call(call: ToolCallPart, target: Target, dynamic: Collection[str] | bool) -> Chunk:
    is_dynamic = dynamic if isinstance(dynamic, bool) else call.name in dynamic
    part: Chunk = {"type": f"tool-{call.name}"}
    if is_dynamic or call.problem == "unknown_tool":
        part = {"type": "dynamic-tool", "toolName": call.name}
    part |= {"toolCallId": call.call_id, "input": call.arguments if call.arguments is not None else {}}
    if call.executed_by == "provider":
        part["providerExecuted"] = True
    asked = call.approval
    decided = asked is not None and asked.approved is not None
    if asked is not None and target != "v5":
        part["approval"] = without_none(id=asked.approval_id, approved=asked.approved, reason=asked.reason)
    match call.outcome:
        case "ok":
            return part | {"state": "output-available", "output": call.output}
        case "deferred":
            return part | {"state": "output-available", "output": call.output, "preliminary": True}
        case "denied" if asked is not None and target != "v5":
            # Nobody may have said no: the time for it ran out.
            part["approval"]["approved"] = False
            return part | {"state": "output-denied"}
        case None if asked is not None and not decided and target != "v5":
            return part | {"state": "approval-requested"}
        case None:
            return part | {"state": "input-available"}
    part.pop("approval", None)
    return part | {"state": "output-error", "errorText": error_text(call.outcome, call.error)}
