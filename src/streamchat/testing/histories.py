"""What strict providers ask of a history: each call answered, each answer asked for, arguments that are JSON.

OpenAI, Azure and Mistral refuse with 400 what others take in silence, so scripted models and providers check
by default.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streamchat.errors import StreamChatError
from streamchat.messages import ModelMessage

__all__ = ["HistoryError", "check_history", "check_items"]


class HistoryError(StreamChatError, ValueError):
    """A history that a strict provider refuses; ``position`` is that of the message."""

    code = "history"

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


def check_history(messages: Iterable[ModelMessage | Mapping[str, Any]]) -> None:
    """Check model messages or Chat Completions messages.

    Raises `HistoryError` when a tool call is not answered before the next message of another role, when an
    answer has no call, or when a call has no name or arguments that are not JSON.
    """
    open_calls: dict[str, int] = {}
    position = -1
    for position, message in enumerate(messages):
        role, calls, answers = _outline(message)
        if role == "tool":
            if answers is None or answers not in open_calls:
                raise HistoryError(
                    f"messages[{position}] answers {answers!r}, which the assistant before it did not call",
                    position,
                )
            del open_calls[answers]
            continue
        _all_answered(open_calls, position)
        for call_id, name, arguments in calls:
            _check_call(f"messages[{position}]", position, call_id, name, arguments)
            if call_id in open_calls:
                raise HistoryError(f"messages[{position}] has two calls with the id {call_id!r}", position)
            open_calls[call_id] = position
    _all_answered(open_calls, position + 1)


def check_items(items: Sequence[Mapping[str, Any]]) -> None:
    """The same check for the input items of the Responses API, where answers may come at any later place."""
    open_calls: dict[str, int] = {}
    for position, item in enumerate(items):
        kind, call_id = item.get("type"), item.get("call_id")
        if kind == "function_call":
            _check_call(f"input[{position}]", position, call_id, item.get("name"), item.get("arguments"))
            open_calls[str(call_id)] = position
        elif kind == "function_call_output":
            if call_id not in open_calls:
                raise HistoryError(f"input[{position}] answers {call_id!r}, which no item asks for", position)
            del open_calls[str(call_id)]
        elif kind == "reasoning":
            following = items[position + 1].get("type") if position + 1 < len(items) else None
            if following not in ("reasoning", "function_call", "message", "web_search_call"):
                raise HistoryError(
                    f"input[{position}] is reasoning without the item that followed it", position
                )
    _all_answered(open_calls, len(items))


def _outline(
    message: ModelMessage | Mapping[str, Any],
) -> tuple[str, list[tuple[str, Any, Any]], str | None]:
    if isinstance(message, ModelMessage):
        return (
            message.role,
            [(call.call_id, call.name, call.arguments) for call in message.calls],
            message.call_id,
        )
    calls = [
        (call["id"], call["function"].get("name"), call["function"].get("arguments"))
        for call in message.get("tool_calls") or ()
    ]
    return message["role"], calls, message.get("tool_call_id")


def _check_call(where: str, position: int, call_id: Any, name: Any, arguments: Any) -> None:
    if not call_id or not name:
        raise HistoryError(f"{where} has a call with the id {call_id!r} and the name {name!r}", position)
    try:
        json.loads(arguments)
    except (TypeError, ValueError) as error:
        raise HistoryError(
            f"{where}: the arguments of {call_id!r} are not JSON: {arguments!r}", position
        ) from error


def _all_answered(open_calls: Mapping[str, int], position: int) -> None:
    if open_calls:
        call_id, asked = next(iter(open_calls.items()))
        raise HistoryError(
            f"messages[{asked}] makes the call {call_id!r}, which is not answered before message {position}",
            asked,
        )
