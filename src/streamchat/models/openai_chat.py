"""A model behind the Chat Completions API: OpenAI's own, and all that call themselves compatible."""

from __future__ import annotations

from typing import Any

from streamchat.core.accumulator import Completion
from streamchat.models.base import ModelRequest, ModelResult
from streamchat.models.chat_requests import chat_format, chat_messages, chat_tools
from streamchat.models.openai_base import OpenAIModel
from streamchat.models.results import chat_result

__all__ = ["OpenAIChatModel"]


class OpenAIChatModel(OpenAIModel):
    """Asks a model over Chat Completions, through the application's own ``AsyncOpenAI`` client.

    The client's auth, base URL, proxies and connection pool are used; its retries are not (``retry`` takes
    their place). ``options`` go to the provider with each request, under those of the request itself; ``n`` >
    1 is refused with `InvalidInput`. ``provider`` names the provider in usage; by default it is the host of
    the base URL.

    Times are in seconds, None for no limit. ``first_token_timeout`` bounds the time from sending to the first
    delta and is a failure that is retried; ``idle_timeout`` bounds the silence within a stream, counted in
    data: keep-alive comments, which defeat the transport's own timeout, do not prolong it.

    Usage is asked for with ``stream_options``; where a server refuses that with 400 or 422, the request is
    sent once more without, and this client is not asked again. A ``client`` that is not ``AsyncOpenAI`` is
    used by its ``chat.completions.create`` or, if it can be called, as a function of the request's fields
    that gives an async iterator of chunks (objects or dicts).
    """

    _api = "chat"
    _reserved = frozenset({"messages", "model", "stream"})

    def _body(self, request: ModelRequest, options: dict[str, Any]) -> dict[str, Any]:
        tools = [*options.pop("tools", ()), *chat_tools(request.tools)]
        return {
            "model": self._name,
            "messages": chat_messages(request.messages, self._provider),
            "stream": True,
            "stream_options": {"include_usage": True, **(options.pop("stream_options", None) or {})},
            **({"tools": tools} if tools else {}),
            **({"response_format": chat_format(request.output)} if request.output is not None else {}),
            **options,
        }

    def _result(self, completion: Completion) -> ModelResult:
        return chat_result(completion, provider=self._provider, model=self._name)

    def _method(self, client: Any) -> Any:
        return client.chat.completions

    def _relent(self, body: dict[str, Any], complaint: str, known: set[str]) -> dict[str, Any] | None:
        if "stream_options" not in body or not (
            "stream_options" in complaint or "include_usage" in complaint
        ):
            return None
        known.add("stream_options")
        return self._without(body, known)

    def _without(self, body: dict[str, Any], known: set[str]) -> dict[str, Any]:
        if "stream_options" not in known:
            return body
        return {key: value for key, value in body.items() if key != "stream_options"}
