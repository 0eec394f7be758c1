"""What AG-UI's own client makes of events, after the sources of `@ag-ui/client` 1.0.0: the rules that it
enforces (``verifyEvents`` and the schemas), and the messages and the state that it arrives at
(``defaultApplyEvents``)."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

_ANY = object
_OPTIONAL: dict[str, Any] = {"timestamp": int, "metadata": dict}
_SCHEMAS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "RUN_STARTED": ({"threadId": str, "runId": str}, {"protocolVersion": str, "parentRunId": str}),
    "RUN_FINISHED": ({"threadId": str, "runId": str}, {"result": _ANY, "outcome": dict, "usage": list}),
    "RUN_ERROR": ({"message": str}, {"code": str, "usage": list}),
    "STEP_STARTED": ({"stepName": str}, {}),
    "STEP_FINISHED": ({"stepName": str}, {}),
    "TEXT_MESSAGE_START": ({"messageId": str}, {"role": str}),
    "TEXT_MESSAGE_CONTENT": ({"messageId": str, "delta": str}, {}),
    "TEXT_MESSAGE_END": ({"messageId": str}, {}),
    "TOOL_CALL_START": ({"toolCallId": str, "toolCallName": str}, {"parentMessageId": str}),
    "TOOL_CALL_ARGS": ({"toolCallId": str, "delta": str}, {}),
    "TOOL_CALL_END": ({"toolCallId": str}, {}),
    "TOOL_CALL_RESULT": ({"messageId": str, "toolCallId": str, "content": str}, {"role": str}),
    "STATE_SNAPSHOT": ({"snapshot": _ANY}, {}),
    "STATE_DELTA": ({"delta": list}, {}),
    "MESSAGES_SNAPSHOT": ({"messages": list}, {}),
    "ACTIVITY_SNAPSHOT": ({"messageId": str, "activityType": str, "content": dict}, {"replace": bool}),
    "REASONING_START": ({"messageId": str}, {}),
    "REASONING_MESSAGE_START": ({"messageId": str, "role": str}, {}),
    "REASONING_MESSAGE_CONTENT": ({"messageId": str, "delta": str}, {}),
    "REASONING_MESSAGE_END": ({"messageId": str}, {}),
    "REASONING_END": ({"messageId": str}, {}),
    "CUSTOM": ({"name": str, "value": _ANY}, {}),
}
_MESSAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "user": ({"id": str, "content": (str, list)}, {}),
    "assistant": ({"id": str}, {"content": str, "toolCalls": list}),
    "tool": ({"id": str, "toolCallId": str, "content": str}, {"error": str}),
    "reasoning": ({"id": str, "content": str}, {}),
    "activity": ({"id": str, "activityType": str, "content": dict}, {}),
}
_OUTCOMES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "success": ({}, {"pendingToolCallIds": list}),
    "interrupt": ({"interrupts": list}, {}),
    "cancelled": ({}, {}),
}
_INTERRUPT: tuple[dict[str, Any], dict[str, Any]] = (
    {"id": str, "reason": str},
    {"message": str, "toolCallId": str, "responseSchema": dict, "expiresAt": str, "metadata": dict},
)
# What is opened by which type, continued by which, and closed by which.
_SPANS = {
    "text": ("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
    "call": ("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END"),
    "reasoning": ("REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END"),
    "span": ("REASONING_START", "", "REASONING_END"),
    "step": ("STEP_STARTED", "", "STEP_FINISHED"),
}


class Violation(AssertionError):
    """An event that AG-UI's client would refuse."""


def _check(value: dict[str, Any], schema: tuple[dict[str, Any], dict[str, Any]], where: str) -> None:
    needed, optional = schema
    missing = needed.keys() - value.keys()
    if missing:
        raise Violation(f"{where} lacks {missing}: {value!r:.300}")
    for key, item in value.items():
        kind = needed.get(key) or optional.get(key)
        if kind is None:
            raise Violation(f"{where} has an unknown field {key}: {value!r:.300}")
        if kind is not _ANY and not isinstance(item, kind):
            raise Violation(f"{where}.{key} is {item!r:.100}")
        if item is None and key in optional:
            raise Violation(f"{where}.{key} is null")


def check_message(message: dict[str, Any]) -> None:
    needed, optional = _MESSAGES[message["role"]]
    _check(message, ({**needed, "role": str}, {**optional, "metadata": dict}), message["role"])
    for call in message.get("toolCalls", ()):
        _check(call, ({"id": str, "type": str, "function": dict}, {"metadata": dict}), "call")
        _check(call["function"], ({"name": str, "arguments": str}, {}), "function")


class AGUIClient:
    """Takes events as they come; `messages`, `state`, `outcome` and `interrupts` are what a page has."""

    def __init__(self, messages: list[dict[str, Any]] | None = None) -> None:
        self.messages: list[dict[str, Any]] = deepcopy(messages or [])
        self.state: Any = {}
        self.patches: list[Any] = []
        self.customs: list[tuple[str, Any]] = []
        self.running = self.over = False
        self.error: dict[str, Any] | None = None
        self.finished: dict[str, Any] = {}
        self._open: set[tuple[str, str]] = set()
        self._started: list[str] = []
        self._answered: set[str] = set()

    @property
    def outcome(self) -> str:
        return "error" if self.error is not None else self.finished.get("outcome", {}).get("type", "success")

    @property
    def interrupts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.finished.get("outcome", {}).get("interrupts", [])
        return found

    @property
    def pending(self) -> list[str]:
        """The calls that the page is to execute."""
        named: list[str] = self.finished.get("outcome", {}).get("pendingToolCallIds", [])
        return named or [call_id for call_id in self._started if call_id not in self._answered]

    def take_bytes(self, body: bytes) -> None:
        assert b"\r" not in body
        *blocks, rest = body.split(b"\n\n")
        assert rest == b""
        for block in blocks:
            lines = [line[6:] for line in block.split(b"\n") if line.startswith(b"data: ")]
            if lines:
                self.take(json.loads(b"\n".join(lines)))

    def take(self, event: dict[str, Any]) -> None:
        self._verify(event)
        self._apply(deepcopy(event))

    # The rules.

    def _verify(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind not in _SCHEMAS:
            raise Violation(f"unknown event {kind}")
        needed, optional = _SCHEMAS[kind]
        _check(event, ({**needed, "type": str}, {**optional, **_OPTIONAL}), kind)
        if self.over:
            raise Violation(f"{kind} after the end")
        first = kind == "RUN_STARTED" or (kind == "RUN_ERROR" and not self.running)
        if first == self.running:
            raise Violation(f"{kind} while running is {self.running}")
        for name, (start, more, end) in _SPANS.items():
            if kind not in (start, more, end) or not kind:
                continue
            key = (name, event.get("messageId") or event.get("toolCallId") or event.get("stepName") or "")
            if (kind == start) == (key in self._open):
                raise Violation(f"{kind} of {key}, open are {self._open}")
            if kind == start:
                self._open.add(key)
            elif kind == end:
                self._open.remove(key)
        if kind in ("RUN_FINISHED", "RUN_ERROR"):
            if self._open:
                raise Violation(f"{kind} with {self._open} open")
            self._verify_end(event)
        if kind == "MESSAGES_SNAPSHOT":
            ids = [message["id"] for message in event["messages"]]
            if len(set(ids)) < len(ids):
                raise Violation(f"two messages with one id: {ids}")
            for message in event["messages"]:
                check_message(message)
        if kind == "STATE_DELTA":
            for operation in event["delta"]:
                assert re.fullmatch(r"(/([^/~]|~[01])*)*", operation["path"])

    def _verify_end(self, event: dict[str, Any]) -> None:
        for usage in event.get("usage", ()):
            assert all(isinstance(v, str) or 0 <= v < 2**53 for v in usage.values())
        if event["type"] == "RUN_ERROR":
            return
        outcome = dict(event["outcome"])
        _check(outcome, _OUTCOMES[outcome.pop("type")], "outcome")
        interrupts = outcome.get("interrupts", [])
        for interrupt in interrupts:
            _check(interrupt, _INTERRUPT, "interrupt")
        ids = [interrupt["id"] for interrupt in interrupts]
        assert len(set(ids)) == len(ids)
        assert "interrupts" not in outcome or ids

    # The fold.

    def find(self, message_id: str) -> dict[str, Any] | None:
        return next((message for message in self.messages if message["id"] == message_id), None)

    def _apply(self, event: dict[str, Any]) -> None:
        getattr(self, "_" + event["type"].lower(), lambda _: None)(event)

    def _run_started(self, event: dict[str, Any]) -> None:
        self.running = True

    def _run_finished(self, event: dict[str, Any]) -> None:
        self.over, self.finished = True, event

    def _run_error(self, event: dict[str, Any]) -> None:
        self.over, self.error = True, event

    def _merge(self, target: dict[str, Any], event: dict[str, Any]) -> None:
        if "metadata" in event:
            target["metadata"] = {**target.get("metadata", {}), **event["metadata"]}

    def _begin(self, event: dict[str, Any], role: str) -> None:
        message = self.find(event["messageId"])
        if message is None:
            message = {"id": event["messageId"], "role": role, "content": ""}
            self.messages.append(message)
        self._merge(message, event)

    def _text_message_start(self, event: dict[str, Any]) -> None:
        self._begin(event, event.get("role", "assistant"))

    def _reasoning_message_start(self, event: dict[str, Any]) -> None:
        self._begin(event, "reasoning")

    def _text_message_content(self, event: dict[str, Any]) -> None:
        message = self.find(event["messageId"])
        assert message is not None
        message["content"] = message.get("content", "") + event["delta"]

    _reasoning_message_content = _text_message_content

    def _call(self, call_id: str) -> dict[str, Any] | None:
        calls = (call for message in self.messages for call in message.get("toolCalls", ()))
        return next((call for call in calls if call["id"] == call_id), None)

    def _tool_call_start(self, event: dict[str, Any]) -> None:
        call_id = event["toolCallId"]
        if call_id not in self._started:
            self._started.append(call_id)
        if self._call(call_id) is not None:
            return
        parent = self.find(event["parentMessageId"])
        if parent is None:
            parent = {"id": event["parentMessageId"], "role": "assistant"}
            self.messages.append(parent)
        assert parent["role"] == "assistant"
        function = {"name": event["toolCallName"], "arguments": ""}
        parent.setdefault("toolCalls", []).append({"id": call_id, "type": "function", "function": function})

    def _tool_call_args(self, event: dict[str, Any]) -> None:
        call = self._call(event["toolCallId"])
        assert call is not None
        call["function"]["arguments"] += event["delta"]

    def _tool_call_result(self, event: dict[str, Any]) -> None:
        self._answered.add(event["toolCallId"])
        message = {"id": event["messageId"], "role": "tool", "toolCallId": event["toolCallId"]}
        message["content"] = event["content"]
        self._merge(message, event)
        owners = [
            place
            for place, message in enumerate(self.messages)
            if any(call["id"] == event["toolCallId"] for call in message.get("toolCalls", ()))
        ]
        if not owners:
            self.messages.append(message)
            return
        place = owners[0] + 1
        while place < len(self.messages) and self.messages[place]["role"] == "tool":
            place += 1
        self.messages.insert(place, message)

    def _activity_snapshot(self, event: dict[str, Any]) -> None:
        message = self.find(event["messageId"])
        if message is None:
            message = {"id": event["messageId"], "role": "activity"}
            self.messages.append(message)
        message["activityType"], message["content"] = event["activityType"], event["content"]

    def _messages_snapshot(self, event: dict[str, Any]) -> None:
        new = {message["id"]: message for message in event["messages"]}
        about = event.get("metadata", {}).get("@ag-ui/client", {}).get("authoritativeActivityTypes")
        reasoning = any(message["role"] == "reasoning" for message in new.values())

        def kept(message: dict[str, Any]) -> bool:
            if message["id"] in new:
                return True
            if message["role"] == "activity":
                return about is not None and message["activityType"] not in about
            return message["role"] == "reasoning" and not reasoning

        self.messages = [new.get(message["id"], message) for message in self.messages if kept(message)]
        known = {message["id"] for message in self.messages}
        self.messages += [message for message in event["messages"] if message["id"] not in known]

    def _state_snapshot(self, event: dict[str, Any]) -> None:
        self.state, self.patches = event["snapshot"], []

    def _state_delta(self, event: dict[str, Any]) -> None:
        self.patches.append(event["delta"])

    def _custom(self, event: dict[str, Any]) -> None:
        self.customs.append((event["name"], event["value"]))
