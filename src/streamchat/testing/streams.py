"""Recorded provider streams, put together by the same decoder and accumulators that a run uses."""

from __future__ import annotations

from typing import Literal

from streamchat.core.accumulator import Completion, CompletionReader

__all__ = ["accumulate_sse"]


def accumulate_sse(body: bytes, api: Literal["chat", "responses"] = "chat") -> Completion:
    """The completion that a recorded response ``body`` comes to, as if the connection had ended after it.

    ``api`` says whether the body is of Chat Completions or of Responses. Never raises for what a provider
    sent; ``Completion.error`` and each call's ``problem`` name what is wrong.
    """
    reader = CompletionReader(api)
    reader.feed(body)
    reader.close()
    return reader.finish()
