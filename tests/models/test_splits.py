"""However a body is cut on its way, compressed, and over whichever transport: the same answer."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamchat.models import ModelResult, OpenAIChatModel, OpenAIResponsesModel
from streamchat.testing import Call, Reply, ScriptedProvider, Step, accumulate_sse
from tests.models.support import OFF, Heard, ask, asking

pytestmark = pytest.mark.anyio

STEP = Step("Grüße, 世界 \U0001f600!", calls=[Call("weather", {"city": "Ålesund"})], reasoning="hmm …")
RECORDED = Path(__file__).parents[3] / "shared" / "streams"


def told(heard: Heard) -> tuple[Any, ...]:
    """What an answer comes to, whichever batches it came in; ids and numbers of the request left out."""
    result = heard.result
    return (
        heard.text(),
        heard.text("reasoning"),
        result.parts,
        [(call.name, call.arguments) for call in result.calls],
        result.finish_reason,
        result.usage,
    )


replies = st.builds(
    Reply,
    step=st.just(STEP),
    split=st.none() | st.integers(0, 40),
    gzip=st.booleans(),
)


@given(replies, st.sampled_from([OpenAIChatModel, OpenAIResponsesModel]))
@example(Reply(STEP, split=1), OpenAIChatModel)
@example(Reply(STEP, split=1, gzip=True), OpenAIResponsesModel)
def test_splits_and_compression_change_nothing(
    reply: Reply, kind: type[OpenAIChatModel] | type[OpenAIResponsesModel]
) -> None:
    async def main() -> None:
        async with ScriptedProvider([STEP, reply]) as provider, provider.client() as client:
            model = kind(client, "gpt", retry=OFF)
            assert told(await ask(model)) == told(await ask(model))

    asyncio.run(main())


def transport(name: Literal["httpx2", "aiohttp"]) -> dict[str, Any]:
    if name == "httpx2":
        return {}
    pytest.importorskip("aiohttp")
    return {"http_client": openai.DefaultAioHttpClient()}


@pytest.mark.parametrize("name", ["httpx2", "aiohttp"])
@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])
async def test_each_transport_gives_the_same_answer(name: Any, gzipped: bool, kind: Any) -> None:
    script = [Reply(STEP, gzip=gzipped, split=split) for split in (None, 0, 7)]
    async with ScriptedProvider(script) as provider, provider.client(**transport(name)) as client:
        answers = [told(await ask(kind(client, "gpt", retry=OFF))) for _ in script]
    assert answers[0][0] == STEP.text
    assert answers[0] == answers[1] == answers[2]
    assert provider.connections == 1


@pytest.mark.parametrize("name", ["httpx2", "aiohttp"])
@pytest.mark.parametrize(
    ("cut", "codes"),
    [("end", {"incomplete_stream"}), ("close", {"connection"}), ("reset", {"connection", "timeout"})],
)
async def test_each_transport_tells_of_a_death_in_mid_stream(name: Any, cut: Any, codes: set[str]) -> None:
    reply = Reply(STEP, cut_at=700, cut=cut)
    async with ScriptedProvider([reply]) as provider, provider.client(**transport(name)) as client:
        heard = await ask(OpenAIChatModel(client, "gpt", retry=OFF))
    # The vendored aiohttp transport takes a reset for a timeout of the connection.
    assert heard.failure.code in codes
    assert heard.failure.retryable
    assert heard.text("reasoning")


@pytest.mark.parametrize("name", ["httpx2", "aiohttp"])
async def test_each_transport_is_let_go_when_the_stream_is_closed(name: Any) -> None:
    step = Step("one two", stall_after=1)
    async with ScriptedProvider([step]) as provider, provider.client(**transport(name)) as client:
        stream = OpenAIChatModel(client, "gpt").stream(asking())
        await anext(stream)
        await stream.aclose()
        await provider.hung_up()


@pytest.mark.parametrize("name", ["httpx2", "aiohttp"])
async def test_each_transport_is_held_to_the_idle_timeout(name: Any) -> None:
    reply = Reply(Step("one two", stall_after=1), comments=0.01)
    async with ScriptedProvider([reply]) as provider, provider.client(**transport(name)) as client:
        heard = await ask(OpenAIChatModel(client, "gpt", idle_timeout=0.1))
        await provider.hung_up()
    assert heard.failure.code == "idle_timeout"


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_recorded_bodies_come_to_what_the_accumulator_makes_of_them(api: Any) -> None:
    path = RECORDED / f"recorded_{api}.jsonl.gz"
    if not path.exists():
        pytest.skip("the recorded streams are kept beside the checkout")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        bodies = [json.loads(line)["sse"].encode("utf-8", "surrogatepass") for line in lines][::5]
    kind = OpenAIChatModel if api == "chat" else OpenAIResponsesModel
    async with ScriptedProvider(bodies) as provider, provider.client() as client:
        for body in bodies:
            heard = await ask(kind(client, "gpt", retry=OFF))
            wanted = accumulate_sse(body, api)
            if wanted.error in ("stream_error", "incomplete_stream"):
                assert heard.failure.code in {wanted.error, "provider_error", "bad_request", "rate_limited"}
                continue
            assert isinstance(heard.result, ModelResult)
            choice = wanted.choices[0]
            assert "".join(part.text for part in heard.result.parts if part.kind == "text") == choice.text
            assert list(heard.result.calls) == choice.tool_calls
    provider.assert_used_up()
