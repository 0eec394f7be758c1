"""The chunks of the Vercel AI SDK's UI message stream: what each target knows, and their frames.

A chunk is a JSON object with a ``type``. Clients validate them strictly: an optional field is absent, never
null; ``finishReason`` has hyphens; an unknown type or (in old versions) an unknown field ends the client's
stream with an error. So only fields that every version of a target knows are written. Verified against
``ai`` 5.0.60, 5.0.277, 6.0.326 and 7.0.173.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias, get_args

from streamchat.errors import InvalidInput
from streamchat.events import ErrorEvent, FileEvent, SourceEvent, dump_json
from streamchat.messages import Usage

__all__ = [
    "DONE",
    "Chunk",
    "Target",
    "as_target",
    "error_metadata",
    "file_chunk",
    "finish_reason",
    "frames",
    "source_chunk",
    "usage_metadata",
    "without_none",
]

Chunk: TypeAlias = dict[str, Any]
Target: TypeAlias = Literal["v5", "v6", "v7"]
"""The major version of the ``ai`` package that a stream is written for."""

DONE = b"data: [DONE]\n\n"

_FINISH_REASONS: Mapping[str, str] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
    "error": "error",
}
_BINARY = "application/octet-stream"


def as_target(value: str) -> Target:
    """Return the target that a version means: ``v6``, ``6``, ``6.0.326``; raises `InvalidInput`."""
    major = value.strip().lower().removeprefix("v").partition(".")[0]
    for target in get_args(Target):
        if target == f"v{major}":
            return target  # type: ignore[no-any-return]
    raise InvalidInput(
        f"{value[:80]!r} is no version of the AI SDK that is written here: v5, v6 or v7", field="target"
    )


def finish_reason(reason: str | None) -> str:
    """Return a provider's finish reason in the protocol's words."""
    return _FINISH_REASONS.get(reason or "stop", "other")


def frames(chunks: Iterable[Chunk], id: str | None = None) -> bytes:
    """Return chunks as server-sent events; ``id`` stands on the last one."""
    blocks = [b"data: %b\n\n" % dump_json(chunk) for chunk in chunks]
    if id is not None and blocks:
        blocks[-1] = b"id: %b\n%b" % (id.encode(), blocks[-1])
    return b"".join(blocks)


def without_none(**fields: Any) -> Chunk:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def source_chunk(event: SourceEvent) -> Chunk:
    """A citation: by URL, else as a document."""
    source_id = event.source_id or f"source-{event.part}"
    if event.url is not None:
        return without_none(type="source-url", sourceId=source_id, url=event.url, title=event.title)
    data = event.data or {}
    name = data.get("filename")
    return without_none(
        type="source-document",
        sourceId=source_id,
        mediaType=str(data.get("media_type") or _BINARY),
        title=event.title or "",
        filename=name if isinstance(name, str) else None,
    )


def file_chunk(event: FileEvent) -> Chunk:
    """A file by its URL; one without is data of the application's own kind, ``data-file``."""
    if event.url is None:
        data = without_none(name=event.name, mediaType=event.media_type, data=event.data)
        return {"type": "data-file", "id": f"file-{event.part}", "data": data}
    head = event.url.partition(",")[0]
    told = head[5:].partition(";")[0] if head[:5].lower() == "data:" else ""
    return {"type": "file", "url": event.url, "mediaType": event.media_type or told or _BINARY}


def usage_metadata(usage: Usage | None) -> Chunk | None:
    """Tokens, in the names that the AI SDK has for them."""
    if usage is None:
        return None
    return {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens,
        "cachedInputTokens": usage.cached_input_tokens,
        "reasoningTokens": usage.reasoning_tokens,
    }


def error_metadata(error: ErrorEvent | None) -> Chunk | None:
    """What is known of a failure beside its sentence."""
    if error is None:
        return None
    return without_none(
        phase=error.phase, code=error.code, retryable=error.retryable, correlationId=error.correlation_id
    )
