"""The models on asyncio and on trio; the provider runs in a thread under trio."""

from __future__ import annotations

import anyio
import pytest

from streamchat.models import FallbackModel, OpenAIChatModel, OpenAIResponsesModel
from streamchat.testing import Answer, Call, Reply, ScriptedModel, ScriptedProvider, Stall, Step
from tests.models.support import AT_ONCE, OFF, ask, asking

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]

STEP = Step("one two three", calls=[Call("weather", {"city": "Oslo"})])


@pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])
async def test_an_answer_after_a_retry(kind: type[OpenAIChatModel] | type[OpenAIResponsesModel]) -> None:
    script: list[Answer] = [Step(error="server_error"), STEP, Reply(STEP, split=0)]
    async with ScriptedProvider(script) as provider, provider.client() as client:
        model = kind(client, "gpt", retry=AT_ONCE)
        for _ in range(2):
            heard = await ask(model)
            assert heard.text() == "one two three"
            assert heard.result.finish_reason == "tool_calls"
    provider.assert_used_up()


async def test_a_long_answer_in_single_chunks_and_in_bursts() -> None:
    step = Step("x" * 400, pieces_of=1)
    script: list[Answer] = [Reply(step, split=split) for split in (None, 0, 5)]
    async with ScriptedProvider(script) as provider, provider.client() as client:
        for _ in script:
            assert (await ask(OpenAIChatModel(client, "gpt"))).text() == "x" * 400


async def test_the_idle_timeout_and_the_first_token_timeout() -> None:
    script: list[Answer] = [
        Reply(Step("one two", stall_after=1), comments=0.01),
        Reply(Step("one two", stall_after=0), comments=0.01),
    ]
    async with ScriptedProvider(script) as provider, provider.client() as client:
        model = OpenAIChatModel(client, "gpt", idle_timeout=0.1)
        assert (await ask(model)).failure.code == "idle_timeout"
        model = OpenAIChatModel(client, "gpt", first_token_timeout=0.1, retry=OFF)
        assert (await ask(model)).failure.code == "first_token_timeout"


async def test_a_cancelled_consumer_closes_the_response() -> None:
    stall = Stall()
    async with (
        ScriptedProvider([Step("one two", stall_after=1, stall=stall)]) as provider,
        provider.client() as client,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, OpenAIChatModel(client, "gpt"))
            await stall.reached()
            tasks.cancel_scope.cancel()
        await provider.hung_up()


async def test_a_consumer_may_hold_a_scope_of_its_own_around_each_batch() -> None:
    # A model that held a scope across its yields would corrupt the consumer's.
    async with ScriptedProvider([STEP]) as provider, provider.client() as client:
        stream = OpenAIChatModel(client, "gpt").stream(asking())
        batches = 0
        while True:
            with anyio.fail_after(30):
                try:
                    await anext(stream)
                except StopAsyncIteration:
                    break
            batches += 1
        assert batches


async def test_a_fallback_over_scripted_models() -> None:
    model = FallbackModel([ScriptedModel([Step(error="server_error")]), ScriptedModel(["ok"])])
    assert (await ask(model)).text() == "ok"
