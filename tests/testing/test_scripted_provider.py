"""`ScriptedProvider` as its clients see it: the real SDK, raw sockets, threads."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
import zlib
from typing import Any

import openai
import pytest

from streamchat.testing import (
    Answer,
    Call,
    ProviderRequest,
    Reply,
    ScriptedProvider,
    ScriptExhausted,
    Stall,
    Step,
    accumulate_sse,
    failure,
)

STEP = Step("It is raining.", calls=[Call("weather", {"city": "Oslo"})], reasoning="Let me look.")
MESSAGES: Any = [{"role": "user", "content": "hi"}]


async def raw(provider: ScriptedProvider, path: str = "chat/completions", **body: Any) -> bytes:
    """All bytes of one response, from its status line to the connection's end."""
    reader, writer = await asyncio.open_connection(provider.host, provider.port)
    data = json.dumps({"model": "m", "messages": MESSAGES, "stream": True, **body}).encode()
    writer.write(b"POST /v1/%b HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(data), data))
    received = b""
    try:
        while b"\r\n0\r\n\r\n" not in received and (block := await reader.read(65536)):
            received += block
    finally:
        writer.close()
    return received


def body_of(received: bytes) -> bytes:
    """The body of a response with chunked encoding; ends early where the response did."""
    rest = received.partition(b"\r\n\r\n")[2]
    out = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if not size or int(size, 16) == 0:
            break
        out += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return out


@pytest.mark.anyio
async def test_the_sdks_own_stream_reads_it() -> None:
    async with ScriptedProvider([STEP]) as provider, provider.client() as client:
        stream = await client.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "It is raining."
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason == "tool_calls"


@pytest.mark.anyio
async def test_the_sdks_responses_stream_reads_it() -> None:
    async with ScriptedProvider([STEP]) as provider, provider.client() as client:
        stream = await client.responses.create(model="m", input="hi", stream=True)
        events = [event async for event in stream]
    completed = events[-1]
    assert completed.type == "response.completed"
    assert completed.response.output_text == "It is raining."
    assert [event.sequence_number for event in events] == list(range(len(events)))


@pytest.mark.anyio
async def test_without_stream_the_answer_is_one_object() -> None:
    async with ScriptedProvider([STEP, STEP]) as provider, provider.client() as client:
        chat = await client.chat.completions.create(model="m", messages=MESSAGES)
        response = await client.responses.create(model="m", input="hi")
    message = chat.choices[0].message
    assert message.content == response.output_text == "It is raining."
    assert message.tool_calls
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert chat.usage is not None


@pytest.mark.anyio
async def test_models_are_listed_and_other_paths_are_not_found() -> None:
    async with ScriptedProvider(model="tiny") as provider, provider.client() as client:
        assert [model.id async for model in client.models.list()] == ["tiny"]
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="m", input="x")


@pytest.mark.anyio
async def test_a_recorded_body_is_served_byte_for_byte() -> None:
    body = b'\xef\xbb\xbf: hi\r\ndata: {"choices": []}\r\n\r\ndata: [DONE]\r\r\xff'
    async with ScriptedProvider([body, Reply(body=body, split=3)]) as provider:
        assert body_of(await raw(provider)) == body
        assert body_of(await raw(provider)) == body


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 7, 0])
async def test_a_body_is_sent_in_pieces_of_the_size_asked_for(size: int) -> None:
    async with ScriptedProvider([Reply(body=b"data: 12345\n\ndata: 67\n\n", split=size)]) as provider:
        received = await raw(provider)
    sizes = [len(line) for line in received.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2] if line]
    assert sizes == {1: [1] * 23, 7: [7, 7, 7, 2], 0: [23]}[size] or size == 1


@pytest.mark.anyio
@pytest.mark.parametrize("cut_at", [0, 1, 20, 100])
@pytest.mark.parametrize("cut", ["end", "close", "reset"])
async def test_a_cut_sends_so_many_bytes_and_no_more(cut_at: int, cut: Any) -> None:
    async with ScriptedProvider([Reply(STEP, cut_at=cut_at, cut=cut), STEP]) as provider:
        try:
            received = await raw(provider)
        except ConnectionResetError:
            assert cut == "reset"
            return
        whole = await raw(provider)
    assert cut != "reset"
    assert len(body_of(received)) == cut_at
    assert received.endswith(b"\r\n0\r\n\r\n") == (cut == "end")
    assert len(body_of(whole)) > cut_at


@pytest.mark.anyio
async def test_a_compressed_body_can_be_read_while_it_comes() -> None:
    stall = Stall()
    reply = Reply(Step("one two", stall_after=1, stall=stall), gzip=True)
    async with ScriptedProvider([reply]) as provider:
        task = asyncio.create_task(raw(provider))
        await stall.reached()
        stall.release()
        received = await task
    assert b"content-encoding: gzip" in received
    unpacker = zlib.decompressobj(wbits=31)
    completion = accumulate_sse(unpacker.decompress(body_of(received)))
    assert unpacker.eof
    assert completion.choices[0].text == "one two"


@pytest.mark.anyio
async def test_comments_come_while_it_stands_still() -> None:
    stall = Stall()
    reply = Reply(Step("one two", stall_after=1, stall=stall), comments=0.001)
    async with ScriptedProvider([reply]) as provider:
        reader, writer = await asyncio.open_connection(provider.host, provider.port)
        data = json.dumps({"messages": MESSAGES, "stream": True}).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)
        )
        for _ in range(3):
            await reader.readuntil(b": keep-alive\n\n")
        stall.release()
        assert b"two" in await reader.readuntil(b"[DONE]")
        writer.close()


@pytest.mark.anyio
@pytest.mark.parametrize("api", ["chat/completions", "responses"])
async def test_errors_are_statuses_before_the_stream_and_objects_inside_it(api: str) -> None:
    limited = failure("rate_limited", "slow down", retry_after=2.5)
    script = [Step(error=limited), Step("one two", error=limited, error_after=1)]
    async with ScriptedProvider(script) as provider:
        refused = await raw(provider, api)
        broken = body_of(await raw(provider, api))
    assert refused.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after-ms: 2500" in refused
    assert json.loads(body_of(refused))["error"]["message"] == "slow down"
    completion = accumulate_sse(broken, "chat" if api == "chat/completions" else "responses")
    assert completion.choices[0].text == "one"
    assert completion.error == "stream_error"
    assert completion.error_detail["message"] == "slow down"


@pytest.mark.anyio
async def test_a_malformed_frame_takes_the_place_of_the_end() -> None:
    async with ScriptedProvider([Reply(Step("one"), malformed="{]")]) as provider:
        body = body_of(await raw(provider))
    assert body.endswith(b"data: {]\n\n")
    assert accumulate_sse(body).error == "stream_error"


@pytest.mark.anyio
async def test_a_function_answers_by_what_the_request_says() -> None:
    async def reply(request: ProviderRequest) -> str:
        return str(request.messages[-1]["content"]).upper()

    async with ScriptedProvider(reply) as provider, provider.client() as client:
        for text in ("a", "b"):
            messages: Any = [{"role": "user", "content": text}]
            chat = await client.chat.completions.create(model="m", messages=messages)
            assert chat.choices[0].message.content == text.upper()
            response = await client.responses.create(model="m", input=text)
            assert response.output_text == text.upper()


@pytest.mark.anyio
@pytest.mark.parametrize("strict", [True, False])
async def test_a_call_without_answer_is_refused_if_strict(strict: bool) -> None:
    function = {"name": "f", "arguments": "{}"}
    messages: Any = [
        {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    ]
    async with ScriptedProvider(["ok"], strict=strict) as provider, provider.client() as client:
        if not strict:
            await client.chat.completions.create(model="m", messages=messages)
            return
        with pytest.raises(openai.BadRequestError, match="c1"):
            await client.chat.completions.create(model="m", messages=messages)
        with pytest.raises(ScriptExhausted, match="c1"):
            provider.assert_used_up()


@pytest.mark.anyio
async def test_requests_and_connections_are_counted_and_recorded() -> None:
    async with ScriptedProvider(["a", "b", "c"]) as provider:
        async with provider.client() as client:
            for temperature in (0.1, 0.2):
                await client.chat.completions.create(model="m", messages=MESSAGES, temperature=temperature)
        async with provider.client() as client:
            await client.responses.create(model="m", input="hi")
    assert [(r.number, r.connection, r.api) for r in provider.requests] == [
        (1, 1, "chat"),
        (2, 1, "chat"),
        (3, 2, "responses"),
    ]
    assert provider.connections == 2
    assert provider.requests[1].body["temperature"] == 0.2
    assert provider.requests[0].headers["authorization"] == "Bearer scripted"


@pytest.mark.anyio
async def test_a_request_past_the_end_and_an_answer_never_asked_for_are_failures() -> None:
    async with ScriptedProvider([]) as provider, provider.client(max_retries=0) as client:
        with pytest.raises(openai.InternalServerError, match="script's 0 answers"):
            await client.chat.completions.create(model="m", messages=MESSAGES)
        with pytest.raises(ScriptExhausted, match="request 1"):
            provider.assert_used_up()
    unused = ScriptedProvider(["a", "b"])
    with pytest.raises(ScriptExhausted, match="2 of 2"):
        unused.assert_used_up()


@pytest.mark.anyio
async def test_an_answer_of_another_kind_is_told_to_client_and_test() -> None:
    async with ScriptedProvider([3]) as provider, provider.client(max_retries=0) as client:  # type: ignore[list-item]
        with pytest.raises(openai.InternalServerError, match="is not an answer"):
            await client.chat.completions.create(model="m", messages=MESSAGES)
        with pytest.raises(ScriptExhausted, match="InvalidInput"):
            provider.assert_used_up()


@pytest.mark.anyio
async def test_stopping_it_closes_what_stands_still() -> None:
    stall = Stall()
    async with ScriptedProvider([Step("one", stall_after=0, stall=stall)]) as provider:
        task = asyncio.create_task(raw(provider))
        await stall.reached()
    assert not (await task).endswith(b"0\r\n\r\n")


def test_in_a_thread_it_serves_synchronous_clients() -> None:
    stall = Stall()
    script: list[Answer] = [Step("one two", stall_after=1, stall=stall), "three"]
    with ScriptedProvider(script) as provider:
        data = json.dumps({"model": "m", "messages": MESSAGES, "stream": True}).encode()
        request = urllib.request.Request(f"{provider.base_url}/chat/completions", data)
        with urllib.request.urlopen(request) as response:
            asyncio.run(stall.reached())  # across threads and loops
            stall.release()
            assert accumulate_sse(response.read()).choices[0].text == "one two"
        with urllib.request.urlopen(request) as response:
            assert b"three" in response.read()
    assert len(provider.requests) == 2
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(request)


def test_a_port_that_is_taken_is_told_to_who_starts_the_thread() -> None:
    with (
        ScriptedProvider() as provider,
        pytest.raises(OSError, match="address already in use"),
        ScriptedProvider(port=provider.port),
    ):
        pass
