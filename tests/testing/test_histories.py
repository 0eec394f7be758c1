"""`check_history` and `check_items` refuse what strict providers refuse, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from streamchat.messages import MessageCall, ModelMessage
from streamchat.testing import HistoryError, check_history, check_items


def call(call_id: str, name: str = "f", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def answer(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "x"}


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    "history",
    [
        [],
        [USER],
        [USER, calling(call("a"), call("b")), answer("b"), answer("a"), USER],
        [calling(call("a")), answer("a"), calling(call("a")), answer("a")],
    ],
)
def test_whole_histories_pass(history: list[dict[str, Any]]) -> None:
    check_history(history)


@pytest.mark.parametrize(
    ("history", "position"),
    [
        ([calling(call("a"))], 0),
        ([USER, calling(call("a")), USER], 1),
        ([calling(call("a"), call("b")), answer("a"), USER], 0),
        ([USER, answer("a")], 1),
        ([calling(call("a")), answer("a"), answer("a")], 2),
        ([calling(call("a")), answer("a"), USER, answer("a")], 3),
        ([calling(call("a"), call("a")), answer("a")], 0),
        ([calling(call("a", arguments='{"x":')), answer("a")], 0),
        ([calling(call("a", arguments=None)), answer("a")], 0),
        ([calling(call("a", name="")), answer("a")], 0),
    ],
)
def test_broken_histories_are_refused_by_position(history: list[dict[str, Any]], position: int) -> None:
    with pytest.raises(HistoryError) as raised:
        check_history(history)
    assert raised.value.position == position


def test_model_messages_are_checked_by_our_own_ids() -> None:
    made = MessageCall(call_id="ours", provider_call_id="theirs", name="f", arguments="{}")
    said = ModelMessage(role="assistant", calls=(made,))
    check_history([said, ModelMessage(role="tool", call_id="ours", content="x")])
    with pytest.raises(HistoryError):
        check_history([said, ModelMessage(role="tool", call_id="theirs", content="x")])


CALL = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "a", "output": "x"}
REASONING = {"type": "reasoning", "id": "rs", "summary": []}
SAID = {"type": "message", "role": "assistant", "content": "x"}


def test_items_may_be_answered_at_any_later_place() -> None:
    check_items([REASONING, CALL, SAID, OUTPUT])


@pytest.mark.parametrize(
    "items",
    [[CALL], [OUTPUT], [OUTPUT, CALL], [REASONING], [REASONING, OUTPUT], [CALL | {"arguments": ""}, OUTPUT]],
)
def test_broken_items_are_refused(items: list[dict[str, Any]]) -> None:
    with pytest.raises(HistoryError):
        check_items(items)
