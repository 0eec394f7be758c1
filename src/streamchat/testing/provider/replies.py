"""What a scripted provider answers: a reply with its faults, and the bytes that it comes to."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from streamchat.core.jsontext import encode_json
from streamchat.core.sse import encode_comment
from streamchat.errors import ModelError
from streamchat.testing.chunks import ChatWriter, ResponsesWriter, Writer
from streamchat.testing.script import Step, Waitable

__all__ = ["Api", "ProviderRequest", "Reply", "Segment", "encode_segments", "error_body", "rendered"]

Api: TypeAlias = Literal["chat", "responses", "models", "other"]

KEEP_ALIVE = encode_comment("keep-alive")
_STATUS_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """A request as the provider received it.

    ``number`` counts the requests from 1, ``connection`` the connections; names of ``headers`` are lowercase.
    """

    number: int
    connection: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    api: Api = "other"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The Chat Completions messages, or the Responses input items."""
        body = self.body if isinstance(self.body, dict) else {}
        found: Any = body.get("messages", body.get("input", []))
        return [{"role": "user", "content": found}] if isinstance(found, str) else list(found)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the provider, and how its delivery goes wrong.

    One of ``step``, ``body`` (sent byte for byte, with ``content_type``) and ``json`` says what is answered;
    ``status`` and ``headers`` go with it (``{"retry-after": "2"}``).

    ``cut_at``: only so many bytes of the body are sent, and then ``cut`` happens: ``end`` (the body ends as
    if it were complete), ``close`` (the connection is closed inside the body) or ``reset`` (a TCP reset).
    ``stall_at`` with ``stall``: delivery stands still after so many bytes until the stall is released (None:
    for ever). ``split``: the body is sent ``split`` bytes at a time, each its own HTTP chunk; None sends each
    SSE frame by itself, 0 all that is there at once. ``delay`` seconds pass before each of them (the default
    takes none). ``comments``: while the delivery stands still, a keep-alive comment is sent every so many
    seconds. ``gzip`` compresses the body, flushed after each write. ``malformed``: this text is sent as the
    data of one more frame, in place of the closing frames. ``linger``: the body stays open after its last
    byte until this is released. ``done=False`` leaves out ``[DONE]``.
    """

    step: Step | None = None
    body: bytes | None = None
    json: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/event-stream"
    cut_at: int | None = None
    cut: Literal["end", "close", "reset"] = "close"
    stall_at: int | None = None
    stall: Waitable | None = None
    split: int | None = None
    delay: float = 0.0
    comments: float | None = None
    gzip: bool = False
    malformed: str | None = None
    linger: Waitable | None = None
    done: bool = True


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes to send.

    Before them ``stall`` is awaited (``still``: for ever), after them ``cut`` ends the body.
    """

    data: bytes = b""
    stall: Waitable | None = None
    still: bool = False
    cut: Literal["end", "close", "reset"] | None = None


def error_body(message: str, *, code: str | None = None, status: int = 400, param: str | None = None) -> Any:
    """An error as OpenAI words it."""
    kind = _STATUS_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "code": code, "param": param}}


def rendered(reply: Reply, request: ProviderRequest, model: str) -> tuple[Reply, list[Segment]]:
    """The reply with status, headers and content type as they will be sent, and its body in segments."""
    step = reply.step
    if step is None:
        if reply.body is None:
            return _as_json(reply, reply.json)
        return reply, _faults(reply, _frames(reply.body) if reply.split is None else [Segment(reply.body)])
    failure = step.failure
    if failure is not None and step.error_after is None:
        return _refusal(reply, failure)
    writer = _writer(step, request, model)
    if not request.body.get("stream"):
        return _as_json(reply, writer.whole())
    return reply, _faults(reply, _stream(reply, step, writer, request.api))


def encode_segments(reply: Reply, segments: Sequence[Segment]) -> list[Segment]:
    """The segments split into single writes, and compressed if the reply says so."""
    out: list[Segment] = []
    for segment in _joined(segments) if reply.split == 0 else segments:
        size = reply.split or len(segment.data) or 1
        pieces = [segment.data[i : i + size] for i in range(0, len(segment.data), size)] or [b""]
        out += [
            Segment(
                piece,
                segment.stall if i == 0 else None,
                segment.still and i == 0,
                segment.cut if i == len(pieces) - 1 else None,
            )
            for i, piece in enumerate(pieces)
        ]
    if not reply.gzip:
        return out
    packer = zlib.compressobj(wbits=31)
    packed = [
        Segment(packer.compress(s.data) + packer.flush(zlib.Z_SYNC_FLUSH), s.stall, s.still, s.cut)
        for s in out
    ]
    return packed if any(s.cut for s in out) else [*packed, Segment(packer.flush())]


def _writer(step: Step, request: ProviderRequest, model: str) -> Writer:
    body = request.body
    named = body.get("model") or model
    if request.api == "responses":
        encrypted = "reasoning.encrypted_content" in (body.get("include") or ())
        return ResponsesWriter(step, number=request.number, model=named, encrypted=encrypted)
    usage = not body.get("stream") or bool((body.get("stream_options") or {}).get("include_usage"))
    return ChatWriter(step, number=request.number, model=named, usage=usage)


def _stream(reply: Reply, step: Step, writer: Writer, api: Api) -> list[Segment]:
    def frames(chunks: Sequence[Mapping[str, Any]]) -> list[Segment]:
        return [Segment(_frame(chunk, api)) for chunk in chunks]

    segments = frames(writer.opening())
    failure = step.failure
    pieces = step.pieces()
    for sent in range(len(pieces) + 1):
        if step.stall_after == sent:
            segments.append(Segment(stall=step.stall, still=step.stall is None))
        if failure is not None and step.error_after == sent:
            segments += frames(writer.failure(str(failure), failure.code))
            return segments
        if step.cut_after == sent:
            segments.append(Segment(cut="end"))
            return segments
        if sent < len(pieces):
            segments += frames(writer.piece(pieces[sent]))
    if reply.malformed is not None:
        return [*segments, Segment(f"data: {reply.malformed}\n\n".encode())]
    segments += frames(writer.closing())
    if api == "chat" and reply.done:
        segments.append(Segment(b"data: [DONE]\n\n"))
    return segments


def _frame(chunk: Mapping[str, Any], api: Api) -> bytes:
    name = f"event: {chunk['type']}\n" if api == "responses" else ""
    return f"{name}data: {encode_json(chunk)}\n\n".encode("utf-8", "surrogatepass")


def _frames(body: bytes) -> list[Segment]:
    return [Segment(piece) for piece in body.replace(b"\n\n", b"\n\n\0").split(b"\0") if piece]


def _faults(reply: Reply, segments: list[Segment]) -> list[Segment]:
    if reply.stall_at is not None:
        before, after = _split_at(segments, reply.stall_at)
        segments = [*before, Segment(stall=reply.stall, still=reply.stall is None), *after]
    if reply.cut_at is not None:
        segments = [*_split_at(segments, reply.cut_at)[0], Segment(cut=reply.cut)]
    if reply.linger is not None:
        segments = [*segments, Segment(stall=reply.linger)]
    return segments


def _split_at(segments: Sequence[Segment], position: int) -> tuple[list[Segment], list[Segment]]:
    for i, segment in enumerate(segments):
        if position < len(segment.data):
            head = Segment(segment.data[:position], segment.stall, segment.still)
            tail = Segment(segment.data[position:], cut=segment.cut)
            return [*segments[:i], head], [tail, *segments[i + 1 :]]
        position -= len(segment.data)
    return list(segments), []


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    out: list[Segment] = []
    for segment in segments:
        if out and not (segment.stall or segment.still or out[-1].cut):
            last = out[-1]
            out[-1] = Segment(last.data + segment.data, last.stall, last.still, segment.cut)
        else:
            out.append(segment)
    return out


def _refusal(reply: Reply, failure: ModelError) -> tuple[Reply, list[Segment]]:
    status = failure.status or (reply.status if reply.status >= 400 else 500)
    headers = dict(reply.headers)
    if failure.retry_after is not None:
        headers.setdefault("retry-after-ms", str(int(failure.retry_after * 1000)))
    refused = Reply(status=status, headers=headers)
    return _as_json(refused, error_body(str(failure), code=failure.code, status=status))


def _as_json(reply: Reply, value: Any) -> tuple[Reply, list[Segment]]:
    return replace(reply, content_type="application/json"), [Segment(encode_json(value).encode())]
