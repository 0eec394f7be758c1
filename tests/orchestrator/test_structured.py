"""`output_type`: the provider is asked for it, it streams as it grows, what does not fit is asked again."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

from streamchat.core.fold import fold
from streamchat.core.jsontext import encode_json
from streamchat.errors import InvalidInput
from streamchat.events import StepReset, StepStarted, TextDelta
from streamchat.models import OpenAIChatModel, OpenAIResponsesModel
from streamchat.models.base import Model
from streamchat.models.retry import RetryPolicy
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.orchestration.structured import PartialOutput, output_type_of
from streamchat.testing import Call, ScriptedModel, ScriptedProvider, Step
from streamchat.testing.scripted import ScriptedStep
from streamchat.tools import Deferred, ToolRegistry
from tests.orchestrator.support import Log, assert_whole, asyncio_only, play, stored

anyio_test = pytest.mark.anyio


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Recipe(BaseModel):
    """What to cook."""

    title: str
    minutes: int = Field(ge=1)
    colour: Colour = Colour.RED
    steps: list[str] = Field(default_factory=list)


class Node(BaseModel):
    name: str
    children: list[Node] = Field(default_factory=list)


GOOD = '{"title": "Soup", "minutes": 20, "colour": "blue", "steps": ["boil", "eat"]}'
BAD = '{"title": "Soup", "minutes": 0}'
OPTIONS = RunOptions(output_type=Recipe, output_interval=0.0, restart_delay=0.0, grace=0.2)
WHOLE = {"title": "Soup", "minutes": 20, "colour": "blue", "steps": ["boil", "eat"]}


def customs(log: Log, name: str) -> list[Any]:
    return [event.data for event in log.of("custom") if event.name == name]


def tools() -> ToolRegistry:
    registry = ToolRegistry()

    @registry.tool
    async def look() -> str:
        return "seen"

    @registry.tool(deferred=True, wait_for_job=False)
    async def build() -> Deferred:
        return Deferred()

    return registry


@anyio_test
async def test_the_object_is_streamed_as_it_grows_and_given_whole_at_the_end():
    with ScriptedModel([GOOD]) as model:
        log = await play(model, options=OPTIONS)
    assert_whole(log.events)
    assert log.status == "success"
    assert customs(log, "output") == [WHOLE]
    partial = customs(log, "output_partial")
    assert partial[0] == {}
    assert {"title": "Soup"} in partial
    assert all(list(WHOLE)[: len(p)] == list(p) for p in partial)


@anyio_test
async def test_within_the_interval_only_one_partial_object_is_told():
    with ScriptedModel([GOOD]) as model:
        log = await play(model, options=RunOptions(output_type=Recipe, output_interval=1e9))
    assert len(customs(log, "output_partial")) <= 1
    assert customs(log, "output") == [WHOLE]


@anyio_test
async def test_a_model_is_told_what_does_not_fit_and_asked_again():
    with ScriptedModel([BAD, "no JSON", GOOD]) as model:
        log = await play(model, options=OPTIONS)
    assert_whole(log.events)
    assert log.status == "success"
    invalid = customs(log, "output_invalid")
    assert [found["attempt"] for found in invalid] == [1, 2]
    assert "minutes" in invalid[0]["message"]
    assert customs(log, "output") == [WHOLE]
    said = model.requests[2].messages
    assert [m.role for m in said] == ["user", "assistant", "user", "assistant", "user"]
    assert "minutes" in str(said[2].content)
    assert said[3].content == "no JSON"
    assert "not one JSON value" in str(said[4].content)


@anyio_test
async def test_an_answer_that_never_fits_is_an_error_of_the_model():
    with ScriptedModel([BAD, BAD, BAD]) as model:
        log = await play(model, options=OPTIONS)
    assert_whole(log.events)
    assert (log.status, log.error.phase, log.error.code) == ("error", "model", "invalid_output")
    assert len(customs(log, "output_invalid")) == 3
    assert customs(log, "output") == []


@anyio_test
async def test_a_refusal_is_not_asked_again():
    with ScriptedModel([Step(refusal="I will not.")]) as model:
        log = await play(model, options=OPTIONS)
    assert_whole(log.events)
    assert (log.status, log.error.phase, log.error.code) == ("error", "model", "refused")


@anyio_test
async def test_a_step_with_calls_is_not_judged():
    with ScriptedModel([Step("I look.", calls=[Call("look")]), GOOD]) as model:
        log = await play(model, tools=tools(), options=OPTIONS)
    assert_whole(log.events)
    assert customs(log, "output_invalid") == []
    assert [(e.step, e.name) for e in log.of("custom")][-1] == (2, "output")


@anyio_test
async def test_an_answer_beside_a_job_is_judged_before_the_run_is_suspended():
    with ScriptedModel([Step(calls=[Call("build")]), BAD, GOOD]) as model:
        log = await play(model, tools=tools(), options=OPTIONS)
    assert log.events[-1].type == "suspended"
    assert [e.name for e in log.of("custom") if e.name != "output_partial"] == ["output_invalid", "output"]


@anyio_test
async def test_from_every_prefix_another_worker_comes_to_the_same():
    script: list[ScriptedStep] = [Step(calls=[Call("look")]), BAD, "{", GOOD]
    with ScriptedModel(script) as model:
        whole = await play(model, tools=tools(), options=OPTIONS)
    for border in whole.borders[:-1]:
        kept = whole.events[:border]
        if kept[-1].type in ("message_completed", "error"):
            continue
        said = sum(event.type == "model_completed" for event in kept)
        with ScriptedModel(script[said:]) as model:
            log = Log(list(kept), [border])
            await play(
                model, tools=tools(), options=OPTIONS, context=RunContext(), history=stored(kept), log=log
            )
        assert_whole(log.events)
        assert customs(log, "output") == [WHOLE]
        assert len(customs(log, "output_invalid")) == 2
        for request in model.requests:
            corrections = [m for m in request.messages if m.role == "user"][1:]
            assert len(corrections) == max(0, request.step - 2)
        assert fold(log.events).text == fold(whole.events).text


APIS = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}


@asynccontextmanager
async def provided(api: str, *script: Step) -> AsyncIterator[tuple[Model, ScriptedProvider]]:
    async with ScriptedProvider(list(script)) as provider, provider.client() as client:
        yield APIS[api](client, "scripted", retry=RetryPolicy.off()), provider


@anyio_test
@asyncio_only
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_a_provider_is_asked_for_the_schema_in_strict_form(api):
    async with provided(api, Step(BAD), Step(GOOD)) as (model, provider):
        log = await play(model, options=OPTIONS)
        bodies = [request.body for request in provider.requests]
    assert_whole(log.events)
    assert customs(log, "output") == [WHOLE]
    for body in bodies:
        if api == "chat":
            assert body["response_format"]["type"] == "json_schema"
            asked = body["response_format"]["json_schema"]
        else:
            asked = body["text"]["format"]
            assert asked["type"] == "json_schema"
        assert (asked["name"], asked["strict"], asked["description"]) == ("Recipe", True, "What to cook.")
        assert asked["schema"]["required"] == ["title", "minutes", "colour", "steps"]
        assert asked["schema"]["additionalProperties"] is False


@anyio_test
@asyncio_only
async def test_options_of_the_application_stand_beside_the_format():
    async with provided("responses", Step(GOOD)) as (model, provider):
        options = RunOptions(output_type=Recipe, model_options={"text": {"verbosity": "low"}})
        await play(model, options=options)
        body = provider.requests[0].body
    assert body["text"]["verbosity"] == "low"
    assert body["text"]["format"]["name"] == "Recipe"


def test_null_for_a_field_with_a_default_means_the_default():
    text = '{"title": "Soup", "minutes": 1, "colour": null, "steps": null}'
    assert output_type_of(Recipe).validate(text) == {
        "title": "Soup",
        "minutes": 1,
        "colour": "red",
        "steps": [],
    }


def test_a_type_that_holds_itself_is_asked_for_as_an_object():
    schema = output_type_of(Node).schema
    assert schema.schema["type"] == "object"
    assert schema.strict
    assert output_type_of(Node).validate('{"name": "a", "children": [{"name": "b", "children": []}]}')


@pytest.mark.parametrize("kind", [int, list[int], object()])
def test_a_type_that_is_no_object_is_refused_at_once(kind):
    with pytest.raises(InvalidInput, match="output_type"):
        RunOptions(output_type=kind)


class Broken(BaseModel):
    a: int

    @field_validator("a")
    @classmethod
    def check(cls, value: int) -> int:
        raise RuntimeError("the application's own")


@anyio_test
async def test_a_validator_that_breaks_ends_the_run_as_one_that_refuses():
    with ScriptedModel(['{"a": 1}']) as model:
        log = await play(model, options=RunOptions(output_type=Broken, output_retries=0))
    assert_whole(log.events)
    assert log.error.code == "invalid_output"
    assert "own" not in str(customs(log, "output_invalid"))


def deltas(text: str) -> list[TextDelta]:
    return [TextDelta(step=1, part=0, text=char) for char in text]


@pytest.mark.parametrize("length", [10, 1_000, 30_000])
def test_partial_objects_cost_at_most_in_proportion_to_the_text(length):
    text = encode_json({"a": "x" * (length // 2), "b": list(range(length // 8))})
    partial = PartialOutput(0.0)
    told = []
    for now, delta in enumerate(deltas(text)):
        assert partial.add([delta]) == 1
        found = partial.look(1, now)
        if found is not None:
            told.append(len(encode_json(found.data)))
    assert told
    assert sum(told) <= 17 * len(text) + 500


def test_what_was_withdrawn_is_in_no_partial_object():
    partial = PartialOutput(0.0)
    partial.add(deltas('{"a": 1'))
    assert partial.look(1, 1.0) is not None
    partial.add([StepReset(step=1, attempt=2, reason="provider")])
    partial.add(deltas('{"b": '))
    found = partial.look(1, 2.0)
    assert found is None or "a" not in found.data
    partial.add([StepStarted(step=2)])
    partial.add(deltas('{"c": 3}'))
    found = partial.look(2, 3.0)
    assert found is not None
    assert found.data == {"c": 3}
