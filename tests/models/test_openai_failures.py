"""What goes wrong between a provider and `OpenAIChatModel`, over the real client and real HTTP.

Where the SDK's own stream would say nothing, or something else, the test shows that too.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx2
import openai
import pytest

from streamchat.errors import InvalidInput, ModelError
from streamchat.models import (
    ContentDelta,
    ModelResult,
    ModelRetry,
    OpenAIChatModel,
    OpenAIResponsesModel,
    RetryPolicy,
    retries_off,
)
from streamchat.models.failures import retry_after
from streamchat.testing import Answer, Call, Reply, ScriptedProvider, Stall, Step, failure
from tests.models.support import AT_ONCE, OFF, Heard, ask, asking

pytestmark = pytest.mark.anyio

STEP = Step("one two three", calls=[Call("weather", {"city": "Oslo"})])


async def sdk_stream(client: openai.AsyncOpenAI) -> AsyncIterator[Any]:
    """What the SDK's own stream gives."""
    messages: Any = [{"role": "user", "content": "hi"}]
    async with await client.chat.completions.create(model="gpt", messages=messages, stream=True) as stream:
        async for chunk in stream:
            yield chunk


# ------------------------------------------------------------------------------------- before the first token


async def test_the_clients_own_retries_do_not_multiply_ours() -> None:
    async with (
        ScriptedProvider([Step(error="server_error")], repeat=True) as provider,
        provider.client(max_retries=2) as client,
    ):
        heard = await ask(OpenAIChatModel(client, "gpt", retry=AT_ONCE))
        assert heard.failure.code == "server_error"
        assert len(provider.requests) == 3
        assert [request.headers["x-stainless-retry-count"] for request in provider.requests] == ["0"] * 3


@pytest.mark.parametrize(
    ("status", "error", "code", "retried"),
    [
        (400, {"message": "no"}, "bad_request", False),
        (401, {"message": "no"}, "authentication", False),
        (403, {"message": "no"}, "authentication", False),
        (404, {"message": "no"}, "bad_request", False),
        (408, {"message": "no"}, "timeout", True),
        (409, {"message": "no"}, "provider_error", True),
        (413, {"message": "no"}, "bad_request", False),
        (422, {"message": "no"}, "bad_request", False),
        (429, {"message": "no", "code": "rate_limit_exceeded"}, "rate_limited", True),
        (429, {"message": "no", "code": "insufficient_quota"}, "rate_limited", False),
        (429, {"message": "no", "type": "insufficient_quota", "code": None}, "rate_limited", False),
        (500, {"message": "no"}, "server_error", True),
        (503, "overloaded", "server_error", True),
        (529, {"message": "no"}, "server_error", True),
    ],
)
async def test_statuses_are_retried_or_not(status: int, error: Any, code: str, retried: bool) -> None:
    async with (
        ScriptedProvider([Reply(json={"error": error}, status=status)], repeat=True) as provider,
        provider.client() as client,
    ):
        heard = await ask(OpenAIChatModel(client, "gpt", retry=AT_ONCE))
    assert (heard.failure.code, heard.failure.retryable, heard.failure.status) == (code, retried, status)
    assert isinstance(heard.failure.__cause__, openai.APIStatusError)
    assert len(provider.requests) == (3 if retried else 1)
    assert [notice.code for notice in heard.notices] == [code] * (len(provider.requests) - 1)


@pytest.mark.parametrize("told", ["true", "false"])
async def test_a_server_that_says_whether_to_retry_is_believed(told: str) -> None:
    reply = Reply(json={}, status=500 if told == "false" else 400, headers={"x-should-retry": told})
    async with ScriptedProvider([reply], repeat=True) as provider, provider.client() as client:
        await ask(OpenAIChatModel(client, "gpt", retry=AT_ONCE))
    assert len(provider.requests) == (3 if told == "true" else 1)


async def test_a_retry_is_announced_before_its_wait_and_then_the_answer_comes() -> None:
    script: list[Answer] = [Step(error="server_error"), Step(error="rate_limited"), "ok"]
    async with ScriptedProvider(script) as provider, provider.client() as client:
        stream = OpenAIChatModel(client, "gpt", retry=AT_ONCE).stream(asking())
        assert await anext(stream) == [ModelRetry(1, 0.0, "server_error")]
        assert len(provider.requests) == 1  # the next request has not been sent
        rest = [item async for batch in stream for item in batch]
    assert rest[0] == ModelRetry(2, 0.0, "rate_limited")
    assert isinstance(rest[-1], ModelResult)


async def test_a_server_that_cannot_be_reached_is_retried() -> None:
    async with ScriptedProvider() as provider:
        base_url = provider.base_url
    async with openai.AsyncOpenAI(api_key="x", base_url=base_url) as client:
        heard = await ask(OpenAIChatModel(client, "gpt", retry=AT_ONCE))
    assert heard.failure.code == "connection"
    assert len(heard.notices) == 2
    assert isinstance(heard.failure.__cause__, openai.APIConnectionError)


async def test_a_stream_that_breaks_before_its_first_token_is_asked_again() -> None:
    script: list[Answer] = [Reply(STEP, cut_at=40, cut="reset"), Reply(STEP, cut_at=0), "ok"]
    async with ScriptedProvider(script) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt", retry=AT_ONCE))
    assert heard.text() == "ok"
    assert [notice.code for notice in heard.notices] == ["connection", "connection"]


async def test_retry_after_is_waited_for() -> None:
    async with (
        ScriptedProvider([Step(error=failure("rate_limited", retry_after=0.01)), "ok"]) as provider,
        provider.client() as client,
    ):
        heard = await ask(OpenAIChatModel(client, "gpt", retry=RetryPolicy(initial=0.0, maximum=0.0)))
    assert heard.notices == [ModelRetry(1, 0.01, "rate_limited")]
    assert heard.text() == "ok"


async def test_a_retry_after_beyond_the_deadline_ends_the_retries_and_is_told() -> None:
    async with (
        ScriptedProvider([Reply(json={}, status=429, headers={"retry-after": "3600"})]) as provider,
        provider.client() as client,
    ):
        heard = await ask(OpenAIChatModel(client, "gpt"))
    assert heard.failure.retry_after == 3600
    assert not heard.notices


def test_retry_after_is_read_in_all_its_forms() -> None:
    soon = email.utils.formatdate(time.time() + 100, usegmt=True)
    past = email.utils.formatdate(time.time() - 100, usegmt=True)
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after": "9"}) == 9.0
    assert retry_after({"retry-after": "0.5"}) == 0.5
    assert 90 < (retry_after({"retry-after": soon}) or 0) <= 100
    assert retry_after({"retry-after": past}) == 0.0
    assert retry_after({"retry-after-ms": "soon", "retry-after": "2"}) == 2.0
    for nonsense in ("", "soon", "-1", "nan", "inf", "1e999", "Wed, 99 Foo 2026"):
        assert retry_after({"retry-after": nonsense}) is None
    assert retry_after({}) is None


async def test_no_attempt_starts_after_the_deadline() -> None:
    policy = RetryPolicy(attempts=100, initial=0.0, maximum=0.0, deadline=0.0)
    async with (
        ScriptedProvider([Step(error="server_error")], repeat=True) as provider,
        provider.client() as client,
    ):
        await ask(OpenAIChatModel(client, "gpt", retry=policy))
    assert len(provider.requests) == 1


async def test_retries_are_off_with_one_call() -> None:
    async with (
        ScriptedProvider([Step(error="server_error")], repeat=True) as provider,
        provider.client() as client,
    ):
        model = OpenAIChatModel(client, "gpt", retry=AT_ONCE)
        with retries_off():
            await ask(model)
        assert len(provider.requests) == 1
        await ask(model)
        assert len(provider.requests) == 4


@pytest.mark.parametrize("field", ["attempts", "initial", "maximum", "deadline"])
def test_a_policy_that_makes_no_sense_is_refused(field: str) -> None:
    with pytest.raises(InvalidInput):
        RetryPolicy(**{field: -1})


# --------------------------------------------------------------------------------------------- in mid-stream

Cut = Literal["end", "close", "reset"]


async def frames_of(step: Step) -> list[bytes]:
    """The frames that the scripted provider sends for ``step``."""
    async with ScriptedProvider([step]) as provider, provider.client() as client:
        messages: Any = [{"role": "user", "content": "hi"}]
        create = client.chat.completions.with_streaming_response.create
        options: Any = {"include_usage": True}
        async with create(model="gpt", messages=messages, stream=True, stream_options=options) as response:
            body = b"".join([block async for block in response.iter_bytes()])
    return [frame + b"\n\n" for frame in body.split(b"\n\n") if frame]


@pytest.mark.parametrize("cut", ["end", "close", "reset"])
async def test_a_provider_that_dies_at_any_chunk_is_a_model_error_or_the_whole_answer(cut: Cut) -> None:
    frames = await frames_of(STEP)
    finish = next(i for i, frame in enumerate(frames) if b'"finish_reason":"tool_calls"' in frame)
    borders = [sum(map(len, frames[:count])) for count in range(len(frames))]
    script = [Reply(STEP, cut_at=border, cut=cut) for border in borders]
    async with ScriptedProvider(script) as provider, provider.client() as client:
        model = OpenAIChatModel(client, "gpt", retry=OFF)
        for count in range(len(frames)):
            heard = await ask(model)
            if count > finish:  # all that can still be missing is the usage
                assert heard.result.finish_reason == "tool_calls"
                assert heard.text() == "one two three"
                continue
            assert heard.failure.code == ("incomplete_stream" if cut == "end" else "connection")
            assert heard.failure.retryable
            assert not any(isinstance(item, ModelResult) for item in heard.items)
            assert heard.text() == " ".join(["one", "two", "three"][: max(0, count - 1)])


async def test_a_cut_inside_a_chunk_does_not_pass_for_an_answer() -> None:
    frames = await frames_of(Step("one two"))
    body = b"".join(frames)
    end = len(body) - len(frames[-1]) - len(frames[-2]) - len(frames[-3])  # where the finish begins
    script: list[Answer] = [Reply(Step("one two"), cut_at=at, cut="end") for at in (*range(0, end, 7), end)]
    async with ScriptedProvider(script) as provider, provider.client() as client:
        model = OpenAIChatModel(client, "gpt", retry=OFF)
        for _ in script:
            heard = await ask(model)
            assert heard.failure.code == "incomplete_stream"
            assert "one two".startswith(heard.text())


async def test_the_transports_errors_are_none_of_openais_and_become_ours() -> None:
    body = b"".join((await frames_of(STEP))[:3])
    reply = Reply(body=body, cut_at=len(body), cut="reset")
    async with ScriptedProvider([reply, reply]) as provider, provider.client() as client:
        create = client.chat.completions.with_streaming_response.create
        messages: Any = [{"role": "user", "content": "hi"}]
        async with create(model="gpt", messages=messages, stream=True) as response:
            with pytest.raises(httpx2.ReadError) as raised:
                [block async for block in response.iter_bytes()]
        assert not isinstance(raised.value, openai.OpenAIError)
        heard = await ask(OpenAIChatModel(client, "gpt"))
    assert heard.failure.code == "connection"
    assert isinstance(heard.failure.__cause__, httpx2.ReadError)
    assert heard.text() == "one two"
    assert not heard.notices, "after the first token it is the orchestrator who asks again"


async def test_the_transports_read_timeout_is_a_timeout() -> None:
    reply = Reply(STEP, stall_at=400)
    async with ScriptedProvider([reply]) as provider, provider.client(timeout=0.1) as client:
        heard = await ask(OpenAIChatModel(client, "gpt", retry=OFF))
    assert heard.failure.code == "timeout"
    assert isinstance(heard.failure.__cause__, httpx2.ReadTimeout)


async def test_a_clean_end_without_finish_is_incomplete_where_the_sdk_says_nothing() -> None:
    step = Step("one two three", cut_after=2)
    async with ScriptedProvider([step, step]) as provider, provider.client() as client:
        assert [chunk async for chunk in sdk_stream(client)]
        heard = await ask(OpenAIChatModel(client, "gpt"))
    assert heard.text() == "one two"
    assert heard.failure.code == "incomplete_stream"


async def test_an_error_object_in_the_stream_is_the_providers_error_behind_what_came() -> None:
    step = Step("one two three", error=failure("provider_error", "the backend fell over"), error_after=2)
    async with ScriptedProvider([step]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt"))
    assert heard.text() == "one two"
    assert (heard.failure.code, heard.failure.retryable) == ("provider_error", True)
    assert "the backend fell over" in str(heard.failure)


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        ({"message": "slow down", "code": "rate_limit_exceeded"}, "rate_limited", True),
        ({"message": "slow down", "code": 429}, "rate_limited", True),
        ({"message": "no money", "type": "insufficient_quota"}, "provider_error", False),
        ({"message": "too long", "code": "context_length_exceeded"}, "bad_request", False),
        ({"message": "bad gateway", "code": 502}, "server_error", True),
        ({"message": "no", "code": "401"}, "authentication", False),
        ("it broke", "stream_error", True),
    ],
)
async def test_an_error_objects_words_decide_whether_to_ask_again(
    error: Any, code: str, retryable: bool
) -> None:
    body = f"data: {json.dumps({'error': error})}\n\n"
    async with ScriptedProvider([body.encode()]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt", retry=OFF))
    assert (heard.failure.code, heard.failure.retryable) == (code, retryable)


async def test_an_error_object_counts_even_if_the_connection_breaks_behind_it() -> None:
    body = b'data: {"error": {"message": "no money", "code": "insufficient_quota"}}\n\n'
    async with (
        ScriptedProvider([Reply(body=body, cut_at=len(body), cut="reset")]) as provider,
        provider.client() as client,
    ):
        heard = await ask(OpenAIChatModel(client, "gpt"))
    assert (heard.failure.code, heard.failure.retryable) == ("provider_error", False)


async def test_a_finish_that_is_no_good_end_is_a_failure() -> None:
    error = b'data: {"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": "error"}]}\n\n'
    cancelled = b'data: {"type": "response.cancelled", "response": {"status": "cancelled", "output": []}}\n\n'
    async with ScriptedProvider([error]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt", retry=OFF))
    assert (heard.text(), heard.failure.code, heard.failure.retryable) == ("Hel", "stream_error", True)
    async with ScriptedProvider([cancelled]) as provider, provider.client() as client:
        heard = await ask(OpenAIResponsesModel(client, "gpt", retry=OFF))
    assert (heard.failure.code, heard.failure.retryable) == ("stream_error", False)


async def test_an_error_with_status_200_and_no_stream_is_an_error() -> None:
    reply = Reply(json={"error": {"message": "no such deployment"}})
    async with ScriptedProvider([reply]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt", retry=OFF))
    assert heard.failure.code == "provider_error"
    assert "no such deployment" in str(heard.failure)


async def test_what_is_not_json_is_a_stream_error() -> None:
    reply = Reply(Step("one"), malformed='{"choices": [')
    async with ScriptedProvider([reply]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt", retry=OFF))
    assert heard.text() == "one"
    assert heard.failure.code == "stream_error"


# -------------------------------------------------------------------------------------------------- timeouts


async def test_comments_do_not_prolong_the_silence() -> None:
    # They do reset the transport's read timeout, which alone would wait here for ever.
    reply = Reply(Step("one two", stall_after=1), comments=0.01)
    async with ScriptedProvider([reply]) as provider, provider.client(timeout=0.5) as client:
        heard = await ask(OpenAIChatModel(client, "gpt", idle_timeout=0.2))
        await provider.hung_up()
    assert heard.text() == "one"
    assert (heard.failure.code, heard.failure.retryable) == ("idle_timeout", True)


async def test_data_does_prolong_the_silence() -> None:
    empty = b'data: {"choices":[]}\n\n'
    body = b'data: {"choices":[{"index":0,"delta":{"content":"one"}}]}\n\n' + empty * 40
    body += b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    # Each frame comes well within the timeout, all of them together do not.
    async with ScriptedProvider([Reply(body=body, delay=0.02)]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt", idle_timeout=0.4))
    assert heard.result.finish_reason == "stop"


async def test_no_first_token_in_time_is_retried() -> None:
    script: list[Answer] = [Reply(Step("late", stall_after=0), comments=0.01), "ok"]
    async with ScriptedProvider(script) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt", retry=AT_ONCE, first_token_timeout=0.2))
    assert heard.text() == "ok"
    assert [notice.code for notice in heard.notices] == ["first_token_timeout"]


async def test_the_first_token_timeout_counts_the_wait_for_the_response_itself() -> None:
    waiting = Stall()

    async def never(request: Any) -> str:
        await waiting.wait()
        return "late"

    async with ScriptedProvider(never) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt", retry=OFF, first_token_timeout=0.2))
        waiting.release()
    assert heard.failure.code == "first_token_timeout"


async def test_time_that_the_consumer_takes_is_no_silence_of_the_provider() -> None:
    stall = Stall()
    step = Step("one two", stall_after=1, stall=stall)
    async with ScriptedProvider([step]) as provider, provider.client() as client:
        stream = OpenAIChatModel(client, "gpt", idle_timeout=0.1).stream(asking())
        first = await anext(stream)
        await asyncio.sleep(0.2)  # the consumer's own time, longer than the timeout
        stall.release()
        rest = [item async for batch in stream for item in batch]
    assert isinstance(first[0], ContentDelta)
    assert isinstance(rest[-1], ModelResult)


async def test_silence_after_the_finish_reason_is_no_failure() -> None:
    body = b'data: {"choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":"stop"}]}\n\n'
    reply = Reply(body=body, stall_at=len(body))  # no usage, no end mark, and the connection stays open
    async with ScriptedProvider([reply]) as provider, provider.client() as client:
        heard = await ask(OpenAIChatModel(client, "gpt", idle_timeout=0.1))
    assert heard.result.finish_reason == "stop"


@pytest.mark.parametrize(
    ("error", "code"),
    [(TimeoutError(), "timeout"), (ConnectionError(), "connection"), (httpx2.ReadError(""), "connection")],
)
async def test_a_function_client_that_cannot_connect_is_asked_again(error: Exception, code: str) -> None:
    def client(**request: Any) -> Any:
        raise error

    heard = await ask(OpenAIChatModel(client, "gpt", retry=AT_ONCE))
    assert [notice.code for notice in heard.notices] == [code] * 2


async def test_an_error_of_a_function_client_is_a_model_error_with_its_cause() -> None:
    def client(**request: Any) -> Any:
        raise KeyError("model map")

    heard: Heard = await ask(OpenAIChatModel(client, "gpt"))
    assert isinstance(heard.failure, ModelError)
    assert not heard.failure.retryable
    assert isinstance(heard.failure.__cause__, KeyError)
