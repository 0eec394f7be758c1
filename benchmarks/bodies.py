"""The recorded form of a Chat Completions stream: what OpenAI sends, of any length."""

from __future__ import annotations

import json

__all__ = ["chat_frames", "text_of"]

_WORDS = (
    " The",
    " answer",
    " is",
    " not",
    " in",
    " the",
    " clouds",
    ",",
    " but",
    " on",
    " paper",
    ".",
    " So",
    " read",
    " on",
)


def _chunk(delta: dict[str, object], finish: str | None = None) -> dict[str, object]:
    return {
        "id": "chatcmpl-BenchmarkBenchmarkBenchmark",
        "object": "chat.completion.chunk",
        "created": 1763700000,
        "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_560af6e559",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        "usage": None,
        "obfuscation": "aBcDeFgH",
    }


def _frame(data: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def text_of(chunks: int) -> str:
    """The answer that `chat_frames` streams."""
    return "".join(_WORDS[i % len(_WORDS)] for i in range(chunks))


def chat_frames(chunks: int) -> list[bytes]:
    """``chunks`` frames of one word each, in the frames that stand around them."""
    frames = [_frame(_chunk({"role": "assistant", "content": "", "refusal": None}))]
    frames += [_frame(_chunk({"content": _WORDS[i % len(_WORDS)]})) for i in range(chunks)]
    frames.append(_frame(_chunk({}, "stop")))
    usage = {"prompt_tokens": 9, "completion_tokens": chunks, "total_tokens": chunks + 9}
    frames.append(_frame({**_chunk({}), "choices": [], "usage": usage}))
    frames.append(b"data: [DONE]\n\n")
    return frames
