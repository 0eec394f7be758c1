"""A model behind OpenAI's Responses API."""

from __future__ import annotations

from typing import Any

from streamchat.core.accumulator import Completion
from streamchat.models.base import ModelRequest, ModelResult
from streamchat.models.openai_base import OpenAIModel
from streamchat.models.responses_requests import response_format, response_items, response_tools
from streamchat.models.results import responses_result
from streamchat.models.retry import RetryPolicy

__all__ = ["OpenAIResponsesModel"]

_ENCRYPTED = "reasoning.encrypted_content"


class OpenAIResponsesModel(OpenAIModel):
    """Asks a model over the Responses API, through the application's own ``AsyncOpenAI`` client.

    All that `OpenAIChatModel` says of client, retries, timeouts and options holds here. Each request carries
    the whole history: the run's log is the truth, so nothing is stored at the provider (``store=False``)
    unless ``store`` says so. Without it, reasoning is asked for in encrypted form and goes back with the
    items that it led to, which keeps the model's reasoning over tool calls; a model that has none refuses
    that with 400, and is then asked without it. ``keep_reasoning=False`` does not ask at all.

    Finish reasons are in the words of Chat Completions: ``stop``, ``tool_calls``, ``length``,
    ``content_filter``.
    """

    _api = "responses"
    _reserved = frozenset({"input", "model", "stream", "previous_response_id", "conversation"})

    def __init__(
        self,
        client: Any,
        model: str,
        *,
        provider: str | None = None,
        retry: RetryPolicy | None = None,
        first_token_timeout: float | None = 120.0,
        idle_timeout: float | None = 60.0,
        store: bool = False,
        keep_reasoning: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            client,
            model,
            provider=provider,
            retry=retry,
            first_token_timeout=first_token_timeout,
            idle_timeout=idle_timeout,
            **options,
        )
        self._store = store
        self._keep_reasoning = keep_reasoning

    def _body(self, request: ModelRequest, options: dict[str, Any]) -> dict[str, Any]:
        tools = [*options.pop("tools", ()), *response_tools(request.tools)]
        store = bool(options.pop("store", self._store))
        include: list[Any] = list(options.pop("include", None) or ())
        if self._keep_reasoning and not store and _ENCRYPTED not in include:
            include.append(_ENCRYPTED)
        text: dict[str, Any] = dict(options.pop("text", None) or {})
        if request.output is not None:
            text.setdefault("format", response_format(request.output))
        return {
            "model": self._name,
            "input": response_items(request.messages, self._provider, store=store),
            "stream": True,
            "store": store,
            **({"include": include} if include else {}),
            **({"tools": tools} if tools else {}),
            **({"text": text} if text else {}),
            **options,
        }

    def _result(self, completion: Completion) -> ModelResult:
        return responses_result(completion, provider=self._provider, model=self._name)

    def _method(self, client: Any) -> Any:
        return client.responses

    def _relent(self, body: dict[str, Any], complaint: str, known: set[str]) -> dict[str, Any] | None:
        if _ENCRYPTED not in body.get("include", ()) or not (
            "encrypted" in complaint or "include" in complaint
        ):
            return None
        # Some of a provider's models reason and some do not, so this is known of the model alone.
        known.add(self._mark)
        return self._without(body, known)

    def _without(self, body: dict[str, Any], known: set[str]) -> dict[str, Any]:
        if self._mark not in known:
            return body
        include = [item for item in body.get("include", ()) if item != _ENCRYPTED]
        rest = {key: value for key, value in body.items() if key != "include"}
        return {**rest, "include": include} if include else rest

    @property
    def _mark(self) -> str:
        return f"{_ENCRYPTED}:{self._name}"
