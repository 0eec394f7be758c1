"""The Chat Completions wire: a run's events as ``chat.completion.chunk`` frames, or one ``chat.completion``.

https://platform.openai.com/docs/api-reference/chat/streaming and …/chat/object. A stream is ``data:`` lines
and ends with ``[DONE]``; one that fails ends with an ``{"error": …}`` object and no ``[DONE]``, so that no
client takes half of an answer for a whole one. An encoder serves one response and is pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamchat.core.sse import encode_comment
from streamchat.core.state import RunState
from streamchat.events import StoredEvent, StreamEvent, dump_json
from streamchat.messages import Usage
from streamchat.wire.native import Reset
from streamchat.wire.openai_answer import Answer, Failure, Said, joined

__all__ = [
    "DONE",
    "KEEP_ALIVE",
    "ChatCompletionEncoder",
    "chat_completion",
    "chat_usage",
    "completion_id",
    "error_object",
]

DONE = b"data: [DONE]\n\n"
"""The end of a stream that has not failed."""

KEEP_ALIVE = encode_comment("keep-alive")
"""A comment, which OpenAI's clients skip."""


def completion_id(run_id: str) -> str:
    """Return the id of a run's answer on this wire."""
    return f"chatcmpl-{run_id}"


def chat_usage(usage: Usage) -> dict[str, Any]:
    """Return tokens as this protocol counts them; those of all model calls of a response."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def error_object(
    message: str,
    *,
    type: str,
    code: str | None = None,
    param: str | None = None,
    correlation_id: str | None = None,
) -> dict[str, Any]:
    """Return a failure as OpenAI's clients read it; ``param`` is the field of the request that was wrong."""
    error: dict[str, Any] = {"message": message, "type": type, "param": param, "code": code}
    if correlation_id is not None:
        error["correlation_id"] = correlation_id
    return {"error": error}


class ChatCompletionEncoder:
    """Turns the events of one response into its bytes, one call after the other.

    ``answer`` decides what is said. ``model`` is the name that the client asked for, ``created`` is in
    seconds since the epoch. With ``include_usage`` each chunk has ``usage``, null but for the last one's.
    """

    media_type = "text/event-stream; charset=utf-8"

    def __init__(self, answer: Answer, *, model: str, created: int, include_usage: bool = False) -> None:
        self.answer = answer
        self._include_usage = include_usage
        head = dump_json(
            {
                "id": completion_id(answer.run_id),
                "object": "chat.completion.chunk",
                "created": created,
                "model": model,
            }
        )
        self._head = b"data: " + head[:-1]
        self._before = self._head + b',"choices":[{"index":0,"delta":'
        self._after = b',"logprobs":null,"finish_reason":%b}]' + (
            b',"usage":null}\n\n' if include_usage else b"}\n\n"
        )
        self._plain = self._after % b"null"
        self._begun = self._closed = False

    @property
    def finished(self) -> bool:
        """Whether the response is complete; nothing comes after it."""
        return self._closed

    def event(self, event: StoredEvent | StreamEvent) -> bytes:
        """Return what one event adds; often nothing."""
        return self.encode((event,))

    def encode(self, events: Iterable[StoredEvent | StreamEvent]) -> bytes:
        """Return what several add."""
        if self._closed:
            return b""
        out: list[bytes] = [] if self._begun else [self._opening()]
        for event in events:
            out += map(self._chunk, self.answer.add(event))
            if self.answer.ended:
                out.append(self._ending())
                break
        return b"".join(out)

    def reset(self, reset: Reset) -> bytes:
        """Return what a snapshot adds; an error where something had been said before."""
        if self._closed:
            return b""
        out = [] if self._begun else [self._opening()]
        out += map(self._chunk, self.answer.restart(RunState.model_validate_json(reset.snapshot)))
        if self.answer.ended:
            out.append(self._ending())
        return b"".join(out)

    def fail(self, failure: Failure) -> bytes:
        """End the response with an error: the connection ends before the run does."""
        if self._closed:
            return b""
        self.answer.fail(failure)
        return self._ending()

    # What a stream without a service asks its wire for (`streamchat.http.bare_response`).

    def begin(self, cursor: str) -> bytes:
        """Nothing: this protocol has no cursors."""
        return b""

    def retry(self, seconds: float) -> bytes:
        """Nothing: nor does anybody come back by itself."""
        return b""

    def heartbeat(self) -> bytes:
        """What keeps a quiet connection open."""
        return b"" if self._closed else KEEP_ALIVE

    def _opening(self) -> bytes:
        self._begun = True
        return self._chunk(Said({"role": "assistant", "content": ""}))

    def _chunk(self, said: Said) -> bytes:
        return self._before + dump_json(dict(said.fields)) + self._plain

    def _ending(self) -> bytes:
        self._closed = True
        answer = self.answer
        if answer.failure is not None:
            failure = answer.failure
            return b"data: %b\n\n" % dump_json(
                error_object(failure.message, type=failure.type, code=failure.code)
            )
        out = self._before + b"{}" + self._after % dump_json(answer.finish_reason)
        if self._include_usage:
            out += self._head + b',"choices":[],"usage":%b}\n\n' % dump_json(chat_usage(answer.usage))
        return out + DONE


def chat_completion(answer: Answer, said: Iterable[Said], *, model: str, created: int) -> dict[str, Any]:
    """Return the whole answer as one object: ``answer`` has ended with a ``finish_reason``, and has said
    ``said``."""
    fields = joined(said)
    calls = [
        {name: value for name, value in call.items() if name != "index"}
        for call in fields.pop("tool_calls", ())
    ]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": fields.pop("content", None if calls or "refusal" in fields else ""),
        "refusal": fields.pop("refusal", None),
        **fields,
    }
    if calls:
        message["tool_calls"] = calls
    return {
        "id": completion_id(answer.run_id),
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        ],
        "usage": chat_usage(answer.usage),
    }
