"""`OpenAIChatModel` over the real client and real HTTP, when nothing goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from streamchat import check_log, orchestrate
from streamchat.errors import InvalidInput
from streamchat.events import MessageCompleted, TextDelta
from streamchat.messages import TextPart, Usage
from streamchat.models import CallDelta, OpenAIChatModel
from streamchat.testing import Call, Reply, ScriptedProvider, Stall, Step
from streamchat.testing.chunks import chat_chunks
from tests.models.support import OFF, WEATHER, ask, asking

pytestmark = pytest.mark.anyio

STEP = Step("It is raining.", calls=[Call("weather", {"city": "Oslo"})], reasoning="Let me look.")


async def test_an_answer_comes_as_deltas_and_one_result() -> None:
    async with ScriptedProvider([STEP]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt"))
    assert heard.text() == "It is raining."
    assert heard.text("reasoning") == "Let me look."
    arguments = "".join(item.arguments for item in heard.items if isinstance(item, CallDelta))
    assert arguments == '{"city":"Oslo"}'
    result = heard.result
    assert result.finish_reason == "tool_calls"
    assert [(part.kind, part.text) for part in result.parts] == [
        ("reasoning", "Let me look."),
        ("text", "It is raining."),
    ]
    assert [(call.name, call.arguments) for call in result.calls] == [("weather", {"city": "Oslo"})]
    assert result.usage == Usage(
        provider="127.0.0.1",
        model="gpt",
        input_tokens=10,
        output_tokens=9,
        total_tokens=19,
        reasoning_tokens=3,
    )


async def test_the_request_carries_model_options_tools_and_the_clients_own_headers() -> None:
    async with (
        ScriptedProvider(["ok"]) as provider,
        provider.client(api_key="secret", organization="org-7") as client,
    ):
        model = OpenAIChatModel(client, "gpt", temperature=0.2, top_p=0.5)
        await ask(
            model,
            asking(
                tools=[WEATHER],
                options={
                    "temperature": 0.9,
                    "top_k": 3,
                    "extra_headers": {"x-team": "a"},
                    "extra_body": {"z": 1},
                },
            ),
        )
    (request,) = provider.requests
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["openai-organization"] == "org-7"
    assert request.headers["x-team"] == "a"
    assert request.body == {
        "model": "gpt",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.9,
        "top_p": 0.5,
        "top_k": 3,  # no parameter of the SDK, so its `create` alone would refuse it
        "z": 1,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "Current weather.",
                    "parameters": dict(WEATHER.parameters),
                },
            }
        ],
    }


@pytest.mark.parametrize("n", [0, 2, "2"])
async def test_more_than_one_choice_is_refused_before_anything_is_sent(n: Any) -> None:
    async with ScriptedProvider() as provider, provider.client() as client:
        with pytest.raises(InvalidInput, match="n="):
            OpenAIChatModel(client, "gpt", n=n)
        with pytest.raises(InvalidInput, match="n="):
            OpenAIChatModel(client, "gpt", extra_body={"n": n})
        with pytest.raises(InvalidInput, match="n="):
            await ask(OpenAIChatModel(client, "gpt"), asking(options={"n": n}))
    assert not provider.requests


async def test_what_the_model_sets_itself_is_no_option() -> None:
    async with ScriptedProvider() as provider, provider.client() as client:
        with pytest.raises(InvalidInput, match="'stream'"):
            OpenAIChatModel(client, "gpt", stream=False)
        with pytest.raises(InvalidInput, match="'messages'"):
            await ask(OpenAIChatModel(client, "gpt"), asking(options={"messages": []}))


def test_a_synchronous_client_is_refused() -> None:
    with openai.OpenAI(api_key="x") as client, pytest.raises(InvalidInput, match="AsyncOpenAI"):
        OpenAIChatModel(client, "gpt")


async def test_a_server_that_refuses_stream_options_is_asked_once_more_and_remembered() -> None:
    def reply(request: Any) -> Reply | str:
        if "stream_options" in request.body:
            detail = {"detail": [{"loc": ["body", "stream_options"], "msg": "extra fields not permitted"}]}
            return Reply(json=detail, status=422)
        return "ok"

    async with ScriptedProvider(reply) as provider:
        async with provider.client() as client:
            assert (await ask(OpenAIChatModel(client, "gpt", retry=OFF))).text() == "ok"
            assert ["stream_options" in request.body for request in provider.requests] == [True, False]
            # Another model over the same client knows it already.
            assert (await ask(OpenAIChatModel(client, "other", retry=OFF))).text() == "ok"
            assert len(provider.requests) == 3
        async with provider.client() as client:
            assert (await ask(OpenAIChatModel(client, "gpt", retry=OFF))).text() == "ok"
            assert len(provider.requests) == 5


async def test_another_bad_request_is_not_taken_for_refused_stream_options() -> None:
    async with ScriptedProvider([Step(error="bad_request")]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt"))
    assert heard.failure.code == "bad_request"
    assert len(provider.requests) == 1


async def test_the_connection_is_used_again_for_the_next_request() -> None:
    async with ScriptedProvider(["one", "two", "three"]) as provider, provider.client() as client:
        model = OpenAIChatModel(client, "gpt")
        for word in ("one", "two", "three"):
            assert (await ask(model)).text() == word
    assert provider.connections == 1


async def test_the_result_comes_before_the_rest_of_the_body() -> None:
    stall = Stall()
    async with (
        ScriptedProvider([Reply(Step("ok"), linger=stall)]) as provider,
        provider.client() as client,
    ):
        stream = OpenAIChatModel(client, "gpt").stream(asking())
        batches = []
        async for batch in stream:
            batches.append(batch)
            if getattr(batch[-1], "finish_reason", None):
                break  # the body is still open: nothing but the result could have ended this loop
        await stall.reached()
        await stream.aclose()
        # The drain is bounded: the rest does not come, and the connection is given up.
        await provider.hung_up()
    assert batches


async def test_closing_the_stream_in_the_middle_closes_the_response() -> None:
    step = Step("one two three", stall_after=1)
    async with ScriptedProvider([step]) as provider, provider.client() as client:
        stream = OpenAIChatModel(client, "gpt").stream(asking())
        assert await anext(stream)
        await stream.aclose()
        await provider.hung_up()


async def test_a_bare_break_closes_the_response_too() -> None:
    step = Step("one two three", stall_after=1)
    async with ScriptedProvider([step]) as provider, provider.client() as client:
        async for _ in OpenAIChatModel(client, "gpt").stream(asking()):
            break
        await provider.hung_up()


@pytest.mark.parametrize("stall_after", [0, 1], ids=["before the first token", "in mid-stream"])
async def test_cancelling_the_consumer_closes_the_response(stall_after: int) -> None:
    stall = Stall()
    step = Step("one two three", stall_after=stall_after, stall=stall)
    async with ScriptedProvider([step]) as provider, provider.client() as client:
        task = asyncio.create_task(ask(OpenAIChatModel(client, "gpt")))
        await stall.reached()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await provider.hung_up()


async def test_all_chunks_of_one_read_come_as_one_batch() -> None:
    step = Step("x" * 500, pieces_of=1)
    async with (
        ScriptedProvider([Reply(step, split=0)]) as provider,
        provider.client() as client,
    ):
        heard = await ask(OpenAIChatModel(client, "gpt"))
    assert heard.text() == "x" * 500
    assert len(heard.batches) < 50


async def test_a_whole_answer_in_place_of_a_stream_is_read() -> None:
    def reply(request: Any) -> Reply:
        request.body["stream"] = False  # as servers do that know no streaming
        return Reply(STEP)

    async with ScriptedProvider(reply) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt"))
    assert heard.text() == "It is raining."
    assert [call.arguments for call in heard.result.calls] == [{"city": "Oslo"}]
    assert heard.result.usage is not None


async def test_an_answer_without_any_content_is_an_answer() -> None:
    async with ScriptedProvider([Step("")]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt"))
    assert heard.result.finish_reason == "stop"
    assert len(heard.items) == 1


@pytest.mark.parametrize("reason", ["length", "content_filter", "weird"])
async def test_the_finish_reason_is_the_providers(reason: str) -> None:
    async with (
        ScriptedProvider([Step("cut", finish_reason=reason)]) as provider,
        provider.client() as client,
    ):
        assert (await ask(OpenAIChatModel(client, "gpt"))).result.finish_reason == reason


@pytest.mark.parametrize("claimed", ["stop", "function_call"])
async def test_calls_decide_the_finish_reason(claimed: str) -> None:
    step = Step(calls=[Call("weather")], finish_reason=claimed)
    async with ScriptedProvider([step]) as provider, provider.client() as client:
        assert (await ask(OpenAIChatModel(client, "gpt"))).result.finish_reason == "tool_calls"


async def test_azures_client_is_used_with_its_own_paths() -> None:
    async with ScriptedProvider(["ok"]) as provider:
        azure = openai.AsyncAzureOpenAI(
            azure_endpoint=provider.base_url.removesuffix("/v1"), api_key="x", api_version="2026-01-01"
        )
        async with azure as client:
            assert (await ask(OpenAIChatModel(client, "gpt-4o"))).text() == "ok"
    assert provider.requests[0].path == "/openai/deployments/gpt-4o/chat/completions"


async def test_no_usage_told_is_no_usage() -> None:
    async with ScriptedProvider([Step("ok", usage=False)]) as provider, provider.client() as client:
        assert (await ask(OpenAIChatModel(client, "gpt"))).result.usage is None


async def test_the_provider_can_be_named() -> None:
    async with ScriptedProvider(["ok"]) as provider, provider.client() as client:
        usage = (await ask(OpenAIChatModel(client, "gpt", provider="azure"))).result.usage
    assert usage is not None
    assert usage.provider == "azure"


# ---------------------------------------------------------------------- clients that are not AsyncOpenAI


class _Wrapper:
    """As tracing libraries wrap a client: the same methods, another class."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self.chat = client.chat


async def test_a_wrapped_client_is_read_chunk_by_chunk() -> None:
    async with ScriptedProvider([STEP]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(_Wrapper(client), "gpt"))
    assert heard.text() == "It is raining."
    assert heard.text("reasoning") == "Let me look."
    assert [call.arguments for call in heard.result.calls] == [{"city": "Oslo"}]


@pytest.mark.parametrize("awaited", [False, True])
async def test_a_function_that_gives_an_iterator_of_dicts_is_a_client(awaited: bool) -> None:
    closed = []

    async def chunks(**request: Any) -> AsyncIterator[dict[str, Any]]:
        assert request["model"] == "gpt"
        try:
            for chunk in chat_chunks(STEP):
                yield chunk
        finally:
            closed.append(True)

    async def later(**request: Any) -> AsyncIterator[dict[str, Any]]:
        return chunks(**request)

    heard = await ask(OpenAIChatModel(later if awaited else chunks, "gpt"))
    assert heard.text() == "It is raining."
    assert heard.result.finish_reason == "tool_calls"
    assert closed == [True]


async def test_an_iterator_that_fails_is_a_failed_connection() -> None:
    async def chunks(**request: Any) -> AsyncIterator[dict[str, Any]]:
        for chunk in list(chat_chunks(STEP))[:5]:
            yield chunk
        raise RuntimeError("gone")

    heard = await ask(OpenAIChatModel(chunks, "gpt"))
    assert heard.text("reasoning") == "Let me look."
    assert heard.failure.code == "connection"
    assert isinstance(heard.failure.__cause__, RuntimeError)


async def test_chunks_with_half_surrogates_are_joined() -> None:
    face = "\U0001f600"
    body = b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % half
        for half in (b"a\\ud83d", b"\\ude00b", b"\\ud83d")
    )
    body += b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    async with ScriptedProvider([body]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt"))
    assert heard.text() == f"a{face}b"
    assert heard.result.parts[0].text == f"a{face}b\ufffd"
    heard.text().encode()


async def test_half_surrogates_in_a_message_do_not_stop_the_request() -> None:
    async with ScriptedProvider(["ok"]) as provider, provider.client() as client:
        # Without care, this is a UnicodeEncodeError before anything is sent.
        heard = await ask(OpenAIChatModel(client, "gpt"), asking("a\ud83db"))
    assert heard.text() == "ok"
    assert provider.requests[0].messages[0]["content"] == "a\ufffdb"


def _chunk(*choices: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"choices": choices}).encode() + b"\n\n"


def _choice(index: int, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


_CALL = {"index": 0, "id": "b", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def _yes(index: int) -> dict[str, Any]:
    return _choice(index, content="Yes.")


def _no(index: int) -> dict[str, Any]:
    return _choice(index, content="No.")


@pytest.mark.parametrize(
    "chunks",
    [
        [(_yes(0), _no(1)), (_choice(0, "stop"), _choice(1, "stop"))],
        [(_yes(0),), (_no(1),), (_choice(1, "length"),), (_choice(0, "stop"),)],
        [(_yes(0), _choice(1, tool_calls=[_CALL])), (_choice(1, "tool_calls"), _choice(0, "stop"))],
        [(_yes(1),), (_no(0),), (_choice(1, "stop"), _choice(0, "stop"))],
        [(_yes(3),), (_choice(3, "stop"),)],
    ],
)
async def test_of_several_choices_the_one_that_comes_first_is_the_answer(
    chunks: list[tuple[dict[str, Any], ...]],
) -> None:
    body = b"".join(_chunk(*choices) for choices in chunks) + b"data: [DONE]\n\n"
    async with ScriptedProvider([body]) as provider, provider.client() as client:
        log = [event async for event in orchestrate(OpenAIChatModel(client, "gpt"), "hi")]
    check_log(log)
    assert "".join(event.text for event in log if isinstance(event, TextDelta)) == "Yes."
    (message,) = [event for event in log if isinstance(event, MessageCompleted)]
    assert [part.text for part in message.content if isinstance(part, TextPart)] == ["Yes."]
    assert not any(event.type == "tool_call_delta" for event in log)
