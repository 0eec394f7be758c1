"""What a provider wants back on the next turn comes back, by way of the store, and no client sees it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from streamchat import EventBuffer, StreamChat, ToolRegistry
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.models import OpenAIChatModel, OpenAIResponsesModel
from streamchat.testing import Call, Reply, ScriptedProvider, Step

from .support import WatchedBuffer, drain

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:SQLite .* has the WAL-reset bug")]


def weather(**options: Any) -> ToolRegistry:
    tools = ToolRegistry()

    @tools.tool(**options)
    async def weather(city: str) -> str:
        """The weather.

        Args:
            city: Where.
        """
        return f"wet in {city}"

    return tools


async def seen_by_clients(chat: StreamChat, run_id: str, conversation_id: str) -> bytes:
    """All that a client can get of a run: its events, its status and its messages."""
    page = await chat.events(run_id, limit=1000)
    status = json.dumps((await chat.status(run_id)).as_json()).encode()
    messages = await chat.history(conversation_id)
    return b"".join([*(event.public_json() for event in page.events), status, *(m.content for m in messages)])


async def test_encrypted_reasoning_goes_back_on_the_next_turn_and_through_a_restart(tmp_path: Path) -> None:
    step = Step("It rains.", calls=[Call("weather", {"city": "Oslo"})], reasoning="Let me look.")
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    async with ScriptedProvider([step, "Wet.", "As I said."]) as provider, provider.client() as client:

        def service() -> StreamChat:
            model = OpenAIResponsesModel(client, "gpt")
            return StreamChat(model=model, tools=weather(), buffer=SQLEventBuffer(url), allow_anonymous=True)

        async with service() as chat:
            first = await chat.reply(None, "Weather?")
            assert b"encrypted-" not in await seen_by_clients(chat, first.run_id, first.conversation_id)
        async with service() as chat:  # another process, by all that it can know
            await chat.reply(first.conversation_id, "Really?")
    items = provider.requests[-1].body["input"]
    assert [item["type"] for item in items] == [
        *("message", "reasoning", "message", "function_call", "function_call_output"),
        *("message", "message"),
    ]
    assert items[1]["encrypted_content"] == "encrypted-1_0"
    # The same as was sent within the first turn.
    assert items[:5] == provider.requests[1].body["input"]


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


SIGNATURE = {"google": {"thought_signature": "c2lnbmVk"}}
DETAILS = [{"type": "reasoning.encrypted", "data": "opaque", "index": 0}]


def signed() -> Reply:
    """A call of the weather with what a provider of chat completions wants back."""
    call = {
        "index": 0,
        "id": "call-1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
        "extra_content": SIGNATURE,
    }
    chunks = [
        _chunk({"role": "assistant", "content": "Hm.", "reasoning_details": DETAILS}),
        _chunk({"tool_calls": [call]}),
        _chunk({}, "tool_calls"),
        b"data: [DONE]\n\n",
    ]
    return Reply(body=b"".join(chunks))


async def test_thought_signatures_of_a_chat_provider_go_back_with_their_call(buffer: EventBuffer) -> None:
    replies: list[Step | Reply] = [signed(), Step("Wet."), Step("As I said.")]
    async with ScriptedProvider(replies) as provider, provider.client() as client:
        model = OpenAIChatModel(client, "gemini")
        watched: Any = WatchedBuffer(buffer)
        async with StreamChat(model=model, tools=weather(), buffer=watched, allow_anonymous=True) as chat:
            first = await chat.reply(None, "Weather?")
            seen = await seen_by_clients(chat, first.run_id, first.conversation_id)
            assert b"c2lnbmVk" not in seen
            assert b"opaque" not in seen
            await chat.reply(first.conversation_id, "Really?")
    within, after = (request.messages for request in provider.requests[1:])
    assert within[1]["tool_calls"][0]["extra_content"] == SIGNATURE
    assert within[1]["reasoning_details"] == DETAILS
    assert after[: len(within)] == within


async def test_what_a_provider_wants_back_survives_a_cancel_of_a_run_that_nobody_holds(
    any_store: EventBuffer,
) -> None:
    replies: list[Step | Reply] = [signed(), Step("As you like.")]
    async with ScriptedProvider(replies) as provider, provider.client() as client:
        given: dict[str, Any] = {"tools": weather(requires_approval=True), "allow_anonymous": True}
        given["model"] = OpenAIChatModel(client, "gemini")
        watched: Any = WatchedBuffer(any_store)
        async with StreamChat(buffer=watched, **given) as chat:
            first = await chat.reply("c", "Weather?")
            while (await watched.get(first.run_id)).status != "suspended":
                await asyncio.sleep(0.01)
        async with StreamChat(buffer=watched, **given) as other:
            await other.cancel(first.run_id)
            await drain(other, first.run_id)
            await other.reply("c", "Never mind")
            assert b"c2lnbmVk" not in await seen_by_clients(other, first.run_id, "c")
    (_, asked, *_) = provider.requests[1].messages
    assert asked["tool_calls"][0]["extra_content"] == SIGNATURE
    assert asked["reasoning_details"] == DETAILS
