"""From a completion to a model's result: usage, finish reason, and what the provider wants back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamchat.core.accumulator import Choice, Completion
from streamchat.core.jsontext import parse_object
from streamchat.messages import Usage
from streamchat.models.base import FinishedContent, ModelResult, ProviderCall

__all__ = ["chat_result", "responses_result", "usage_of"]

# What stands in an item of the Responses API besides what was asked of the provider's tool.
_NOT_ARGUMENTS = frozenset(
    {
        "id",
        "type",
        "status",
        "output",
        "outputs",
        "result",
        "results",
        "error",
        "name",
        "arguments",
        "call_id",
    }
)
_RESULTS = ("output", "outputs", "result", "results")


def usage_of(usage: Mapping[str, Any] | None, *, provider: str | None, model: str | None) -> Usage | None:
    """The tokens that a provider counted, in the words of either API; None where it told none."""
    if not usage:
        return None
    read = _details(usage, "prompt_tokens_details", "input_tokens_details")
    written = _details(usage, "completion_tokens_details", "output_tokens_details")
    tokens_in = _number(usage, "prompt_tokens", "input_tokens")
    tokens_out = _number(usage, "completion_tokens", "output_tokens")
    return Usage(
        provider=provider,
        model=model,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        total_tokens=_number(usage, "total_tokens") or tokens_in + tokens_out,
        # DeepSeek counts its cache outside the details.
        cached_input_tokens=_number(read, "cached_tokens") or _number(usage, "prompt_cache_hit_tokens"),
        reasoning_tokens=_number(written, "reasoning_tokens"),
    )


def chat_result(completion: Completion, *, provider: str | None, model: str) -> ModelResult:
    """The result of a Chat Completions stream: its first choice."""
    choice = completion.choices[0] if completion.choices else Choice()
    kept = dict(choice.extras)
    # The reasoning itself goes back only along with calls, and only under the name that it came under.
    if kept.get("reasoning_field") and choice.tool_calls:
        kept["reasoning"] = choice.reasoning
    else:
        kept.pop("reasoning_field", None)
    if kept or any(call.extra for call in choice.tool_calls):
        kept["provider"] = provider
    return ModelResult(
        finish_reason=_finish(choice),
        parts=_contents(choice),
        calls=tuple(choice.tool_calls),
        usage=usage_of(completion.usage, provider=provider, model=completion.model or model),
        extras={"chat": kept} if kept else None,
    )


def responses_result(completion: Completion, *, provider: str | None, model: str) -> ModelResult:
    """The result of a Responses stream; its items are kept, so that the next request can replay them."""
    choice = completion.choices[0] if completion.choices else Choice()
    output = completion.extras.get("output")
    return ModelResult(
        finish_reason=_finish(choice),
        parts=_contents(choice),
        calls=tuple(choice.tool_calls),
        provider_calls=tuple(_provider_call(item.part, item.item) for item in completion.provider_items),
        usage=usage_of(completion.usage, provider=provider, model=completion.model or model),
        extras={"responses": {"provider": provider, "output": output}} if output else None,
    )


def _provider_call(part: int, item: Mapping[str, Any]) -> ProviderCall:
    kind = str(item.get("type") or "")
    arguments = item.get("arguments", item.get("action"))
    if isinstance(arguments, str):
        arguments = parse_object(arguments)
    if not isinstance(arguments, dict):
        arguments = {
            key: value for key, value in item.items() if key not in _NOT_ARGUMENTS and value is not None
        }
    return ProviderCall(
        part=part,
        id=str(item.get("id") or item.get("call_id") or ""),
        name=str(item.get("name") or kind.removesuffix("_call")),
        arguments=arguments,
        output=next((item[key] for key in _RESULTS if item.get(key) is not None), item.get("error")),
    )


def _finish(choice: Choice) -> str:
    """The provider's word, but calls decide: some say "stop" with them, "tool_calls" without, or nothing."""
    word = choice.finish_reason
    if word in (None, "stop", "tool_calls", "function_call"):
        return "tool_calls" if choice.tool_calls else "stop"
    return str(word)


def _contents(choice: Choice) -> tuple[FinishedContent, ...]:
    return tuple(
        FinishedContent(part.part, part.kind, part.text, part.part in choice.replaced)
        for part in choice.parts
        if part.kind in ("text", "reasoning", "refusal")
    )


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        value = usage.get(name)
        if isinstance(value, Mapping):
            return value
    return {}


def _number(values: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = values.get(name)
        if isinstance(value, int | float) and value > 0:
            return int(value)
    return 0
