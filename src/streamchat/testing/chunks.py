"""A step as the chunks of the two OpenAI APIs write it, streaming and whole; plain data, no sockets.

Each writer gives what comes before the first piece, what each piece comes to, and what closes the stream;
whoever sends it may stop, stall or fail anywhere in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from streamchat.testing.script import Piece, Step

__all__ = ["ChatWriter", "ResponsesWriter", "Writer", "chat_chunks"]

JSON = dict[str, Any]
_CREATED = 1_700_000_000


class Writer(Protocol):
    """Writes one answer."""

    def opening(self) -> list[JSON]:
        """What comes before the first piece."""
        ...

    def piece(self, piece: Piece) -> list[JSON]:
        """What a piece comes to."""
        ...

    def closing(self) -> list[JSON]:
        """What comes after the last piece."""
        ...

    def failure(self, message: str, code: str) -> list[JSON]:
        """An error object in the stream."""
        ...

    def whole(self) -> JSON:
        """The answer when no stream was asked for."""
        ...


def chat_chunks(
    step: Step, *, number: int = 1, model: str = "scripted", usage: bool = True
) -> Iterator[JSON]:
    """All chunks of a Chat Completions stream that says ``step``."""
    writer = ChatWriter(step, number=number, model=model, usage=usage)
    yield from writer.opening()
    for piece in step.pieces():
        yield from writer.piece(piece)
    yield from writer.closing()


class ChatWriter:
    """Chat Completions as OpenAI writes it, with reasoning in ``reasoning_content`` as DeepSeek has it."""

    def __init__(self, step: Step, *, number: int, model: str, usage: bool) -> None:
        self._step = step
        self._number = number
        self._usage = step.told_usage() if usage else None
        self._head = {"id": f"chatcmpl-{number}", "created": _CREATED, "model": model}

    def opening(self) -> list[JSON]:
        """The chunk that names the role."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def piece(self, piece: Piece) -> list[JSON]:
        """One chunk."""
        if piece.kind != "call":
            field = {"text": "content", "reasoning": "reasoning_content", "refusal": "refusal"}[piece.kind]
            return [self._chunk({field: piece.text})]
        entry: JSON = {"index": piece.call, "function": {"arguments": piece.text}}
        if piece.first:
            entry |= self._named(piece.call)
            entry["function"]["arguments"] = piece.text
        return [self._chunk({"tool_calls": [entry]})]

    def closing(self) -> list[JSON]:
        """The chunk with the finish reason, and one with the usage if it was asked for."""
        chunks = [self._chunk({}, self._step.finish)]
        if self._usage is not None:
            chunks.append(self._stamp("chat.completion.chunk", choices=[], usage=self._usage_object()))
        return chunks

    def failure(self, message: str, code: str) -> list[JSON]:
        """The error object that takes a chunk's place."""
        return [{"error": {"message": message, "type": code, "code": code, "param": None}}]

    def whole(self) -> JSON:
        """A ``chat.completion``."""
        step = self._step
        message: JSON = {"role": "assistant", "content": step.text or None, "refusal": step.refusal or None}
        if step.reasoning:
            message["reasoning_content"] = step.reasoning
        if step.calls:
            message["tool_calls"] = [self._named(index) for index in range(len(step.calls))]
        choice = {"index": 0, "message": message, "finish_reason": step.finish, "logprobs": None}
        return self._stamp("chat.completion", choices=[choice], usage=self._usage_object())

    def _named(self, index: int) -> JSON:
        call = self._step.calls[index]
        function = {"name": call.name, "arguments": call.arguments_text}
        entry: JSON = {"index": index, "id": self._step.call_id(index, self._number), "type": "function"}
        return entry | {"function": function} | dict(call.extra or {})

    def _chunk(self, delta: JSON, finish: str | None = None) -> JSON:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._stamp("chat.completion.chunk", choices=[choice])

    def _stamp(self, kind: str, **rest: Any) -> JSON:
        return {"id": self._head["id"], "object": kind, **self._head, **rest}

    def _usage_object(self) -> JSON | None:
        usage = self._usage
        if usage is None:
            return None
        return {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        }


class ResponsesWriter:
    """The Responses API: one output item for the reasoning, one for the message, one for each call."""

    def __init__(self, step: Step, *, number: int, model: str, encrypted: bool = False) -> None:
        self._step = step
        self._number = number
        self._model = model
        self._encrypted = encrypted
        self._sequence = -1
        self._items: list[JSON] = []
        self._open: Piece | None = None

    def opening(self) -> list[JSON]:
        """``response.created`` and ``response.in_progress``."""
        response = self._response("in_progress")
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def piece(self, piece: Piece) -> list[JSON]:
        """The delta, and what must open or close around it."""
        events: list[JSON] = []
        if self._open is None or (self._open.kind, self._open.call) != (piece.kind, piece.call):
            events += self._close_item()
            events += self._open_item(piece)
        if piece.text:
            events.append(self._delta(piece))
        return events

    def closing(self) -> list[JSON]:
        """The last item's end, and ``response.completed`` or ``response.incomplete``."""
        events = self._close_item()
        response = self._final()
        events.append(self._event(f"response.{response['status']}", response=response))
        return events

    def failure(self, message: str, code: str) -> list[JSON]:
        """``response.failed``."""
        response = self._response("failed") | {"error": {"code": code, "message": message}}
        return [self._event("response.failed", response=response)]

    def whole(self) -> JSON:
        """A ``response`` object."""
        for piece in self._step.pieces():
            self.piece(piece)
        self._close_item()
        return self._final()

    def _open_item(self, piece: Piece) -> list[JSON]:
        self._open = piece
        position = len(self._items)
        added = self._event(
            "response.output_item.added",
            output_index=position,
            item=self._item(piece, position, "in_progress"),
        )
        self._items.append(self._item(piece, position, "completed"))
        if piece.kind == "call":
            return [added]
        item_id = self._items[position]["id"]
        if piece.kind == "reasoning":
            part: JSON = {"type": "summary_text", "text": ""}
            name, at = "response.reasoning_summary_part.added", {"summary_index": 0}
        else:
            part = self._content(piece.kind, "")
            name, at = "response.content_part.added", {"content_index": 0}
        return [added, self._event(name, item_id=item_id, output_index=position, part=part, **at)]

    def _delta(self, piece: Piece) -> JSON:
        deltas: dict[str, tuple[str, JSON]] = {
            "reasoning": ("response.reasoning_summary_text.delta", {"summary_index": 0}),
            "text": ("response.output_text.delta", {"content_index": 0, "logprobs": []}),
            "refusal": ("response.refusal.delta", {"content_index": 0}),
            "call": ("response.function_call_arguments.delta", {}),
        }
        name, index = deltas[piece.kind]
        position = len(self._items) - 1
        item_id = self._items[position]["id"]
        return self._event(name, item_id=item_id, output_index=position, delta=piece.text, **index)

    def _close_item(self) -> list[JSON]:
        if self._open is None:
            return []
        piece, self._open = self._open, None
        position = len(self._items) - 1
        item = self._items[position]
        ends: dict[str, tuple[str, JSON]] = {
            "reasoning": ("reasoning_summary_text", {"summary_index": 0, "text": self._step.reasoning}),
            "text": ("output_text", {"content_index": 0, "text": self._step.text, "logprobs": []}),
            "refusal": ("refusal", {"content_index": 0, "refusal": self._step.refusal}),
            "call": ("function_call_arguments", {"arguments": item.get("arguments")}),
        }
        name, text = ends[piece.kind]
        done = self._event(f"response.{name}.done", item_id=item["id"], output_index=position, **text)
        return [done, self._event("response.output_item.done", output_index=position, item=item)]

    def _item(self, piece: Piece, position: int, status: str) -> JSON:
        done = status == "completed"
        suffix = f"{self._number}_{position}"
        if piece.kind == "call":
            call = self._step.calls[piece.call]
            return {
                "type": "function_call",
                "id": f"fc_{suffix}",
                "call_id": self._step.call_id(piece.call, self._number),
                "name": call.name,
                "arguments": call.arguments_text if done else "",
                "status": status,
            }
        if piece.kind == "reasoning":
            summary = [{"type": "summary_text", "text": self._step.reasoning}] if done else []
            item: JSON = {"type": "reasoning", "id": f"rs_{suffix}", "summary": summary}
            return item | ({"encrypted_content": f"encrypted-{suffix}"} if self._encrypted else {})
        text = self._step.text if piece.kind == "text" else self._step.refusal
        content = [self._content(piece.kind, text)] if done else []
        return {
            "type": "message",
            "id": f"msg_{suffix}",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _content(self, kind: str, text: str) -> JSON:
        if kind == "text":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "refusal", "refusal": text}

    def _final(self) -> JSON:
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(self._step.finish)
        response = self._response("incomplete" if reason else "completed")
        response["output"] = list(self._items)
        response["incomplete_details"] = {"reason": reason} if reason else None
        usage = self._step.told_usage()
        response["usage"] = usage and {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_input_tokens},
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.total_tokens,
        }
        return response

    def _response(self, status: str) -> JSON:
        return {
            "id": f"resp_{self._number}",
            "object": "response",
            "created_at": _CREATED,
            "status": status,
            "model": self._model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
        }

    def _event(self, kind: str, **rest: Any) -> JSON:
        self._sequence += 1
        return {"type": kind, "sequence_number": self._sequence, **rest}
