"""The real models under `orchestrate()`, over real HTTP: a provider that dies anywhere, and a strict one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from streamchat.models import OpenAIChatModel, OpenAIResponsesModel
from streamchat.models.base import Model
from streamchat.models.retry import RetryPolicy
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.testing import Call, ScriptedProvider, Step
from streamchat.tools import ToolRegistry
from tests.orchestrator.support import Log, assert_whole, asyncio_only, play

pytestmark = [pytest.mark.anyio, asyncio_only]

APIS = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}
STEP = Step("one two three", calls=[Call("look", {"n": 1}), Call("look", "{"), Call("nope")])


def tools() -> ToolRegistry:
    registry = ToolRegistry()

    @registry.tool
    async def look(n: int) -> int:
        return n

    return registry


@asynccontextmanager
async def provided(api: str, *script: Step) -> AsyncIterator[tuple[Model, ScriptedProvider]]:
    async with ScriptedProvider(list(script)) as provider, provider.client() as client:
        yield APIS[api](client, "scripted", retry=RetryPolicy.off()), provider


@pytest.mark.parametrize(
    ("api", "how", "every"), [("chat", "cut", 1), ("responses", "cut", 1), ("chat", "error", 3)]
)
async def test_a_provider_that_dies_at_any_chunk_is_asked_again(api, how, every):
    for after in range(1, len(STEP.pieces()) + 1, every):
        bad = (
            replace(STEP, cut_after=after)
            if how == "cut"
            else replace(STEP, error="server_error", error_after=after)
        )
        async with provided(api, bad, STEP, Step("Done.")) as (model, provider):
            log = await play(model, tools=tools())
            provider.assert_used_up()
        assert_whole(log.events)
        assert (log.status, log.text) == ("success", "one two threeDone."), f"{how} after {after}"
        assert len(log.of("step_reset")) == 1
        assert sorted(log.outcomes()) == ["error", "error", "ok"]


@pytest.mark.parametrize("api", APIS)
async def test_the_last_failure_leaves_the_partial_text(api):
    for after in range(1, 4):
        async with provided(api, replace(STEP, cut_after=after)) as (model, _):
            log = await play(model, options=RunOptions(max_step_restarts=0))
        assert_whole(log.events)
        assert (log.status, log.text) == ("error", " ".join(["one", "two", "three"][:after]))


@pytest.mark.parametrize("api", APIS)
async def test_stop_closes_the_providers_response(api):
    context, log = RunContext(), Log()

    def stop(log: Log) -> None:
        if len(log.of("text_delta")) == 1:
            context.stop()

    with anyio.fail_after(10):
        async with provided(api, replace(STEP, stall_after=2)) as (model, provider):
            await play(model, context=context, log=log, after_each=stop)
            await provider.hung_up()
    assert log.status == "cancelled"
    assert_whole(log.events)


@pytest.mark.parametrize("api", APIS)
async def test_a_run_goes_on_over_a_strict_provider_from_every_cut(api):
    async with provided(api, STEP, Step("Done.")) as (model, _):
        whole = await play(model, tools=tools())
    for cut in whole.borders[:-1]:
        prefix = whole.events[:cut]
        asked = sum(event.type == "model_completed" for event in prefix)
        async with provided(api, *[STEP, Step("Done.")][asked:]) as (model, provider):
            log = await play(model, tools=tools(), history=prefix)
            provider.assert_used_up()
        assert_whole([*prefix, *log.events])
        assert log.status == "success"
