"""A model request as the Chat Completions API takes it; a pure function over data.

https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamchat.core.jsontext import join_surrogates, parse_object, scrub
from streamchat.messages import MessageCall, ModelMessage
from streamchat.models.base import OutputSchema, ToolSchema

__all__ = ["chat_format", "chat_messages", "chat_tools", "custom_input", "kept_for", "sendable_arguments"]

# What `extras["chat"]` says about itself; the rest goes back to the provider as it came.
_OWN_KEYS = frozenset({"provider", "reasoning", "reasoning_field"})


def chat_messages(messages: Sequence[ModelMessage], provider: str | None) -> list[dict[str, Any]]:
    """The messages as dicts; calls and answers go by the provider's own ids.

    ``provider`` says whom they are for: what another provider wanted back is left out. An assistant's message
    that says and calls nothing is left out as well.
    """
    ids: dict[str, str] = {}
    out: list[dict[str, Any]] = []
    for message in messages:
        content = scrub(message.content)
        if message.role == "tool":
            call_id = message.call_id or ""
            out.append({"role": "tool", "tool_call_id": ids.get(call_id, call_id), "content": content})
        elif message.role == "assistant":
            ids.update((call.call_id, call.provider_call_id or call.call_id) for call in message.calls)
            if content or message.calls:
                out.append(_assistant(message, content, kept_for(message.extras, "chat", provider)))
        else:
            out.append({"role": message.role, "content": content})
    return out


def chat_tools(tools: Sequence[ToolSchema]) -> list[dict[str, Any]]:
    """The tools as Chat Completions declares functions."""
    declared = []
    for tool in tools:
        function: dict[str, Any] = {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        }
        if tool.strict:
            function["strict"] = True
        declared.append({"type": "function", "function": function})
    return declared


def chat_format(output: OutputSchema) -> dict[str, Any]:
    """The ``response_format`` that asks for JSON of a schema."""
    named = {"name": output.name, "schema": output.schema, "strict": output.strict}
    told = {"description": output.description} if output.description else {}
    return {"type": "json_schema", "json_schema": {**named, **told}}


def kept_for(extras: Mapping[str, Any] | None, api: str, provider: str | None) -> dict[str, Any] | None:
    """What this provider sent over this API with a message and wants back; None if it was not from there.

    A signature or an encrypted item that another provider made is refused by most.
    """
    kept = (extras or {}).get(api)
    if not isinstance(kept, Mapping) or kept.get("provider") not in (None, provider):
        return None
    return dict(kept)


def sendable_arguments(call: MessageCall) -> str:
    """The call's arguments, or ``{}`` where they are no JSON object: strict servers refuse such a history."""
    return join_surrogates(call.arguments) if parse_object(call.arguments) is not None else "{}"


def custom_input(call: MessageCall) -> str | None:
    """The text that a custom tool was given; None for a function."""
    if (call.extra or {}).get("type") != "custom":
        return None
    text = (parse_object(call.arguments) or {}).get("input", call.arguments)
    return join_surrogates(str(text))


def _assistant(message: ModelMessage, content: Any, kept: Mapping[str, Any] | None) -> dict[str, Any]:
    out: dict[str, Any] = {"role": "assistant", "content": content or None}
    if message.calls:
        out["tool_calls"] = [_call(call, with_extra=kept is not None) for call in message.calls]
    if kept is not None:
        out.update((key, value) for key, value in kept.items() if key not in _OWN_KEYS)
        if message.calls and kept.get("reasoning"):
            # DeepSeek and Moonshot refuse answers to calls without the reasoning that led to them, and some
            # of their models refuse it anywhere else.
            out[kept.get("reasoning_field") or "reasoning_content"] = kept["reasoning"]
    return out


def _call(call: MessageCall, *, with_extra: bool) -> dict[str, Any]:
    call_id = call.provider_call_id or call.call_id
    text = custom_input(call)
    if text is not None:
        return {"id": call_id, "type": "custom", "custom": {"name": call.name, "input": text}}
    extra = dict(call.extra or {}) if with_extra else {}
    function = {"name": call.name, "arguments": sendable_arguments(call), **extra.pop("function", {})}
    return {**extra, "id": call_id, "type": "function", "function": function}
