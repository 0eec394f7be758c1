"""A model request as the Responses API takes it; a pure function over data.

https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamchat.core.jsontext import parse_object, scrub
from streamchat.messages import MessageCall, ModelMessage
from streamchat.models.base import OutputSchema, ToolSchema
from streamchat.models.chat_requests import custom_input, kept_for, sendable_arguments

__all__ = ["response_format", "response_items", "response_tools"]

# What a response's items carry and an input does not take.
_READ_ONLY = frozenset({"created_by", "parsed_arguments"})


def response_items(
    messages: Sequence[ModelMessage], provider: str | None, *, store: bool = False
) -> list[dict[str, Any]]:
    """The messages as input items; calls and answers go by the provider's own ids.

    An assistant's message that this provider made and that still says the same goes back as the very output
    items that it came as, reasoning included; any other is written from its text and calls. Without ``store``
    the provider cannot look up reasoning, so only encrypted reasoning goes back.
    """
    ids: dict[str, str] = {}
    custom: set[str] = set()
    out: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "tool":
            call_id = message.call_id or ""
            kind = "custom_tool_call_output" if call_id in custom else "function_call_output"
            output = message.content if isinstance(message.content, str) else _parts(message.content, "input")
            out.append({"type": kind, "call_id": ids.get(call_id, call_id), "output": scrub(output)})
        elif message.role == "assistant":
            for call in message.calls:
                ids[call.call_id] = call.provider_call_id or call.call_id
                (custom.discard if custom_input(call) is None else custom.add)(call.call_id)
            kept = kept_for(message.extras, "responses", provider) or {}
            replayed = _replayed(message, kept.get("output"), store=store)
            out += _written(message) if replayed is None else replayed
        else:
            out.append(_message(message.role, message.content))
    return out


def response_tools(tools: Sequence[ToolSchema]) -> list[dict[str, Any]]:
    """The tools as the Responses API declares functions; it reads a missing ``strict`` as true."""
    return [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": tool.strict,
        }
        for tool in tools
    ]


def response_format(output: OutputSchema) -> dict[str, Any]:
    """The ``text.format`` that asks for JSON of a schema."""
    named = {"name": output.name, "schema": output.schema, "strict": output.strict}
    told = {"description": output.description} if output.description else {}
    return {"type": "json_schema", **named, **told}


def _written(message: ModelMessage) -> list[dict[str, Any]]:
    items = [_message("assistant", message.content)] if message.content else []
    return items + [_call(call) for call in message.calls]


def _message(role: str, content: str | list[dict[str, Any]]) -> dict[str, Any]:
    kind = "output" if role == "assistant" else "input"
    said = content if isinstance(content, str) else _parts(content, kind)
    return {"type": "message", "role": role, "content": scrub(said)}


def _call(call: MessageCall) -> dict[str, Any]:
    named = {"call_id": call.provider_call_id or call.call_id, "name": call.name}
    text = custom_input(call)
    if text is not None:
        return {"type": "custom_tool_call", **named, "input": text}
    return {"type": "function_call", **named, "arguments": sendable_arguments(call)}


def _parts(parts: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Chat Completions content parts as the Responses API has them; parts of other types stay as they are."""
    return [_part(part, kind) for part in parts]


def _part(part: Mapping[str, Any], kind: str) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"type": f"{kind}_text", "text": part.get("text", "")}
        case "image_url":
            image = part.get("image_url")
            image = image if isinstance(image, Mapping) else {"url": image}
            return {
                "type": "input_image",
                "image_url": image.get("url"),
                "detail": image.get("detail") or "auto",
            }
        case "file":
            return {"type": "input_file", **part.get("file", {})}
        case _:
            return dict(part)


def _replayed(message: ModelMessage, output: Any, *, store: bool) -> list[dict[str, Any]] | None:
    """The output items that the message came as, or None where it is no longer what they say."""
    if not isinstance(output, list) or not isinstance(message.content, str):
        return None
    items = [item for item in output if isinstance(item, Mapping)]
    calls = {call.provider_call_id or call.call_id: call for call in message.calls}
    called = [
        item.get("call_id") for item in items if item.get("type") in ("function_call", "custom_tool_call")
    ]
    if _text(items) != message.content or len(called) != len(message.calls) or set(called) != set(calls):
        return None
    sent = [_as_input(item, calls) for item in items if store or not _is_lost(item)]
    if len(sent) < len(items):
        # The provider knows by their ids that these items had reasoning before them, and would ask for it.
        for item in sent:
            item.pop("id", None)
    while sent and sent[-1].get("type") == "reasoning":
        sent.pop()  # the API refuses reasoning whose next item is missing
    return sent


def _is_lost(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "reasoning" and not item.get("encrypted_content")


def _as_input(item: Mapping[str, Any], calls: Mapping[str, MessageCall]) -> dict[str, Any]:
    sent = {key: value for key, value in item.items() if value is not None and key not in _READ_ONLY}
    if item.get("type") == "function_call":
        call = calls[item["call_id"]]
        sent |= {"name": call.name, "arguments": _arguments(call, item)}
    scrubbed: dict[str, Any] = scrub(sent)
    return scrubbed


def _arguments(call: MessageCall, item: Mapping[str, Any]) -> str:
    """The arguments as the provider wrote them, unless they are broken or a person has changed them since."""
    text = item.get("arguments")
    if isinstance(text, str):
        original = parse_object(text)
        if original is not None and original == parse_object(call.arguments):
            return text
    return sendable_arguments(call)


def _text(items: Sequence[Mapping[str, Any]]) -> str:
    return "".join(
        part.get("text") or ""
        for item in items
        if item.get("type") == "message"
        for part in item.get("content") or ()
        if isinstance(part, Mapping) and part.get("type") == "output_text"
    )
