"""Tools that a client declares for one run, and a history that only the client knows."""

from __future__ import annotations

from typing import Any

import pytest

from streamchat import StreamChat
from streamchat.errors import InvalidInput
from streamchat.messages import ModelMessage
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import ClientTool, ToolRegistry

pytestmark = pytest.mark.anyio

LOCATE = ClientTool(
    name="locate",
    description="Where the user is.",
    parameters={"type": "object", "properties": {"exact": {"type": "boolean"}}},
)


def tools() -> ToolRegistry:
    registry = ToolRegistry()

    @registry.tool
    async def weather(city: str) -> str:
        """The weather."""
        return "sun"

    return registry


async def test_a_declared_tool_is_offered_beside_the_applications_and_its_call_waits_for_the_client() -> None:
    model = ScriptedModel([Step(calls=[Call("locate", {"exact": True, "more": [1]})]), "You are in Oslo."])
    async with StreamChat(model=model, tools=tools(), allow_anonymous=True) as chat:
        status = await chat.reply(None, "Where am I?", client_tools=[LOCATE])
        (wait,) = status.state.waits
        assert (status.status, wait.kind) == ("suspended", "tool_result")
        assert status.state.calls[0].arguments == {"exact": True, "more": [1]}
        offered = {tool.name: tool for tool in model.requests[0].tools}
        assert set(offered) == {"weather", "locate"}
        assert offered["locate"].parameters == LOCATE.parameters
        await chat.submit_tool_result(status.run_id, wait.call_id, {"city": "Oslo"})
        events = [event async for event in chat.attach(status.run_id)]
        assert events[-1].event.status == "success"
        assert model.requests[1].messages[-1].content == '{"city":"Oslo"}'
        # They were this run's, not the conversation's.
        model._steps.append("Hi.")
        await chat.reply(status.conversation_id, "Thanks")
        assert [tool.name for tool in model.requests[2].tools] == ["weather"]


@pytest.mark.parametrize(
    ("tool", "field"),
    [
        ({"name": "weather"}, "tools.0"),
        ({"name": "no spaces"}, "tools.0"),
        ({"name": "x", "parameters": {"type": "array"}}, "tools.0"),
        ({"name": "x", "description": "y" * 70_000}, "tools"),
    ],
)
async def test_a_declaration_that_cannot_stand_is_refused(tool: dict[str, Any], field: str) -> None:
    async with StreamChat(model=ScriptedModel(), tools=tools(), allow_anonymous=True) as chat:
        with pytest.raises(InvalidInput) as refused:
            await chat.start(None, "Hi", client_tools=[ClientTool(**tool)])
        assert refused.value.field == field
        assert await chat.conversations() == []


async def test_a_clients_history_stands_before_the_message_of_a_new_conversation_only() -> None:
    model = ScriptedModel.text("Yes.", repeat=True)
    before = [ModelMessage(role="user", content="One"), ModelMessage(role="assistant", content="Two")]
    async with StreamChat(model=model, allow_anonymous=True, instructions="Be brief.") as chat:
        first = await chat.reply("c1", "Three", history=before)
        await chat.reply("c1", "Four", history=before)
        said = [[message.content for message in request.messages] for request in model.requests]
        assert said[0] == ["Be brief.", "One", "Two", "Three"]
        assert said[1] == ["Be brief.", "Three", first.text, "Four"]


async def test_an_idempotency_key_stands_for_its_history_too() -> None:
    model = ScriptedModel.text("Yes.", repeat=True)
    before = [ModelMessage(role="user", content="One")]
    async with StreamChat(model=model, allow_anonymous=True) as chat:
        first = await chat.start(None, "Two", history=before, idempotency_key="k")
        again = await chat.start(None, "Two", history=before, idempotency_key="k")
        assert (again.run_id, again.new) == (first.run_id, False)
