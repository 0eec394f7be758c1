"""What a run is judged by and given holds in whichever process works on it: guards, budgets, a declared type,
what was attached, a title.

One process begins the run, and is killed while it waits; another one takes the answer and goes on.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from streamchat import Hooks, Limits, StreamChat
from streamchat.events import CustomEvent
from streamchat.messages import ModelMessage
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Refuse
from streamchat.service.status import RunStatus
from streamchat.testing import Call, Reply, Stall, Step

from .support import drain, log_of
from .world import World, ended, options, suspended

pytestmark = pytest.mark.anyio

PAY = Call("pay", {"amount": 7}, id="p")
SECRET = "My number is 42."


async def asked(world: World, message: Any = "Go on", **more: Any) -> tuple[StreamChat, str]:
    """Begin a run that waits for a person, and kill the process; return another one, and the run."""
    chat = await world.process(**more)
    run_id = (await chat.start("c", message)).run_id
    await suspended(chat, run_id)
    await world.end(chat, killed=True)
    return await world.process(**more), run_id


async def agreed(chat: StreamChat, run_id: str) -> RunStatus:
    """Agree, and wait until the run is over."""
    await chat.resolve_approval(run_id, "p", True)
    return await ended(chat, run_id)


async def goes_on(world: World, chat: StreamChat) -> None:
    """The next turn is taken by the strict provider."""
    world.provider.add("Next.")
    assert (await chat.reply("c", "And then?")).text == "Next."
    await world.end(chat, killed=False)


def contents(world: World, number: int) -> list[Any]:
    """What the messages of a request hold."""
    return [message.get("content") for message in world.provider.requests[number].messages]


# Guards.


async def test_what_the_input_guard_replaced_is_what_every_process_sends(world: World) -> None:
    seen: list[list[Any]] = []

    async def hide(context: RunContext, messages: list[ModelMessage]) -> list[ModelMessage]:
        seen.append([message.content for message in messages])
        return [ModelMessage(role="user", content="My number is hidden."), *messages[1:]]

    world.provider.add(Step(calls=[PAY]), "Done.")
    chat, run_id = await asked(world, SECRET, options=options(hooks=Hooks(guard_input=hide)))
    assert (await agreed(chat, run_id)).text == "Done."
    assert seen == [[SECRET], [SECRET]], "each process asks, with what the user said"
    await goes_on(world, chat)
    assert [contents(world, number)[0] for number in range(3)] == ["My number is hidden."] * 3


async def test_an_input_guard_that_refuses_after_the_restart_ends_the_run_behind_its_calls(
    world: World,
) -> None:
    allowed = True

    def guard(context: RunContext, messages: list[ModelMessage]) -> Refuse | None:
        return None if allowed else Refuse("Not any more.", code="closed")

    world.provider.add(Step("Let me see. ", calls=[PAY]))
    chat, run_id = await asked(world, options=options(hooks=Hooks(guard_input=guard)))
    allowed = False
    status = await agreed(chat, run_id)
    assert status.status == "error"
    assert status.state.error is not None
    assert (status.state.error.code, status.text) == ("closed", "Let me see. ")
    assert [call.output for call in status.state.calls] == ["paid 7"]
    allowed = True
    await goes_on(world, chat)


async def test_what_the_output_guard_replaced_stands_before_and_behind_the_restart(world: World) -> None:
    def hide(context: RunContext, text: str) -> str | None:
        return text.replace("42", "…") if "42" in text else None

    world.provider.add(Step("It is 42. ", calls=[PAY]), "Still 42.")
    chat, run_id = await asked(world, options=options(hooks=Hooks(guard_output=hide)))
    assert (await agreed(chat, run_id)).text == "It is …. Still …."
    assert "It is …. " in contents(world, 1)
    await goes_on(world, chat)
    assert not any("42" in str(content) for content in contents(world, 2))
    texts = [part["text"] for row in await world.store.messages("c") for part in _parts(row.content)]
    assert texts[1:3] == ["It is …. ", "Still …."]


async def test_an_output_that_is_refused_after_the_restart_is_withdrawn_and_its_calls_never_run(
    world: World,
) -> None:
    def guard(context: RunContext, text: str) -> Refuse | None:
        return Refuse("That cannot be said.") if "42" in text else None

    world.provider.add(Step("Let me see. ", calls=[PAY]), Step("It is 42.", calls=[Call("note", id="n")]))
    chat, run_id = await asked(world, options=options(hooks=Hooks(guard_output=guard)))
    status = await agreed(chat, run_id)
    assert (status.status, status.text) == ("error", "Let me see. ")
    assert [call.call_id for call in status.state.calls] == ["p"]
    resets = [event.reason for event in await log_of(chat, run_id) if event.type == "step_reset"]
    assert resets == ["guard"]
    assert f"{run_id}:n" not in world.effects
    await goes_on(world, chat)


# Budgets.


@pytest.mark.parametrize(
    ("code", "given"),
    [
        ("max_tokens_total", {"limits": Limits(max_tokens_total=12)}),
        ("max_cost", {"limits": Limits(max_cost=0.12), "cost": lambda usage: usage.total_tokens * 0.01}),
    ],
    ids=["tokens", "cost"],
)
async def test_what_a_dead_process_has_spent_counts(world: World, code: str, given: dict[str, Any]) -> None:
    world.provider.add(Step("Let me see. ", calls=[PAY]))
    chat, run_id = await asked(world, options=options(**given))
    status = await agreed(chat, run_id)
    assert status.state.error is not None
    assert (status.state.error.phase, status.state.error.code) == ("limit", code)
    assert [call.output for call in status.state.calls] == ["paid 7"], "what was agreed to is done"
    await goes_on(world, chat)


async def test_the_calls_of_a_dead_process_count(world: World) -> None:
    world.provider.add(Step(calls=[PAY]), Step(calls=[Call("note", id="n")]))
    chat, run_id = await asked(world, options=options(limits=Limits(max_tool_calls=1)))
    status = await agreed(chat, run_id)
    assert status.state.error is not None
    assert status.state.error.code == "max_tool_calls"
    assert [(call.call_id, call.outcome) for call in status.state.calls] == [("p", "ok"), ("n", "cancelled")]
    await goes_on(world, chat)


async def test_the_time_in_which_a_run_was_suspended_is_not_its_own(later_world: World) -> None:
    world = later_world
    world.provider.add(Step(calls=[PAY]), "Done.")
    given = options(limits=Limits(deadline=600.0))
    chat = await world.process(options=given)
    run_id = (await chat.start("c", "Go on")).run_id
    await suspended(chat, run_id)
    await world.end(chat, killed=True)
    world.backend.clock.jump(3600)
    chat = await world.process(options=given)
    assert (await agreed(chat, run_id)).status == "success"
    await goes_on(world, chat)


async def test_the_time_since_a_process_died_is_the_runs_own(later_world: World) -> None:
    world = later_world
    busy = Reply(json={"error": {"message": "slow down"}}, status=429, headers={"retry-after": "60"})
    world.provider.add(Step(calls=[Call("note")]), busy)
    given = options(limits=Limits(deadline=600.0))
    chat = await world.process(options=given)
    run_id = (await chat.start("c", "Go on")).run_id
    while not any(e.type == "status" and e.status == "retrying" for e in await log_of(chat, run_id)):
        await asyncio.sleep(0.01)
    await world.end(chat, killed=True)
    world.backend.clock.jump(3600)
    chat = await world.process(options=given)
    await drain(chat, run_id)
    status = await chat.status(run_id)
    assert status.state.error is not None
    assert (status.state.error.phase, status.state.error.code) == ("limit", "deadline")
    await goes_on(world, chat)


# What the run is given, and what it comes to.


async def test_an_image_and_a_file_reach_the_provider_from_every_process(world: World) -> None:
    pixels = base64.b64encode(bytes(range(256))).decode()
    parts = [
        {"type": "text", "text": "See:"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixels}"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{pixels}", "filename": "a.pdf"}},
    ]
    world.provider.add(Step(calls=[PAY]), "A cat.")
    chat, run_id = await asked(world, parts)
    assert (await agreed(chat, run_id)).text == "A cat."
    await goes_on(world, chat)
    assert [contents(world, number)[0] for number in range(3)] == [parts] * 3


async def test_a_tool_that_the_client_declared_is_known_in_every_process(world: World) -> None:
    find = {"name": "find", "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}}
    world.provider.add(Step(calls=[Call("find", {"what": "Ann"}, id="f")]), "Done.")
    chat = await world.process()
    run_id = (await chat.start("c", "Find Ann", client_tools=[find])).run_id
    await suspended(chat, run_id)
    await world.end(chat, killed=True)
    chat = await world.process()
    await chat.submit_tool_result(run_id, "f", {"at": "home"})
    await drain(chat, run_id)
    assert (await chat.status(run_id)).text == "Done."
    await goes_on(world, chat)
    offered = [{tool["function"]["name"] for tool in r.body["tools"]} for r in world.provider.requests]
    assert [names - offered[2] for names in offered] == [{"find"}, {"find"}, set()]
    assert contents(world, 1)[-1] == '{"at":"home"}'


class Film(BaseModel):
    title: str
    minutes: int = 1


@pytest.mark.parametrize("named", [False, True], ids=["all", "this_one"])
async def test_a_declared_type_is_asked_for_and_judged_by_every_process(world: World, named: bool) -> None:
    stall = Stall()
    fits = Step('{"title": "Ran", "minutes": 160}', stall_after=3, stall=stall)
    world.provider.add(Step(calls=[PAY]), '{"title": "Ran", "minutes": "many"}', fits)
    own = {"options": options(output_interval=0.0), "output_types": [Film]}
    every = {"options": options(output_interval=0.0, output_type=Film)}
    more: dict[str, Any] = own if named else every
    chat = await world.process(**more)
    started = await chat.start("c", "Go on", output_type="Film" if named else None)
    await suspended(chat, started.run_id)
    await world.end(chat, killed=True)
    chat = await world.process(**more)
    run_id = started.run_id
    await chat.resolve_approval(run_id, "p", True)
    while ("output_partial", {"title": "Ran"}) not in await customs(chat, run_id):
        await asyncio.sleep(0.01)
    stall.release()
    status = await agreed(chat, run_id)
    assert (status.status, status.output) == ("success", {"title": "Ran", "minutes": 160})
    assert [r.body["response_format"]["json_schema"]["name"] for r in world.provider.requests] == ["Film"] * 3
    told = [name for name, _ in await customs(chat, run_id) if name != "output_partial"]
    assert told == ["output_invalid", "output"]
    await world.end(chat, killed=False)


async def customs(chat: StreamChat, run_id: str) -> list[tuple[str, Any]]:
    log = await log_of(chat, run_id)
    return [(event.name, event.data) for event in log if isinstance(event, CustomEvent)]


async def test_the_title_is_asked_once_by_the_process_that_ends_the_first_run(world: World) -> None:
    titled = asyncio.Event()
    told: list[list[Any]] = []

    async def title(context: RunContext, messages: Sequence[ModelMessage]) -> str:
        told.append([message.content for message in messages])
        titled.set()
        return "Paying"

    world.provider.add(Step("Let me see. ", calls=[PAY]), "Done.")
    chat, run_id = await asked(world, title=title)
    assert told == []
    assert (await chat.conversation("c")).title == "Go on"
    await agreed(chat, run_id)
    await titled.wait()
    while (await chat.conversation("c")).title != "Paying":
        await asyncio.sleep(0.01)
    await goes_on(world, chat)
    assert len(told) == 1
    assert told[0][0] == "Go on"


def _parts(content: bytes) -> list[dict[str, Any]]:
    return [part for part in json.loads(content) if part.get("type") == "text"]
