"""``/v1`` as OpenAI's own Python client sees it, over a real server: what it is told is what the log says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from streamchat import ServiceLimits, StreamChat, orchestrate
from streamchat.adapters.asgi import asgi_app, event_response
from streamchat.http import HTTPOptions, OpenAIOptions
from streamchat.principal import Principal
from streamchat.service.access import owns
from streamchat.testing import Call, ScriptedModel, Stall, Step
from streamchat.tools import ToolRegistry
from streamchat.wire.openai_answer import Answer
from streamchat.wire.openai_chat import ChatCompletionEncoder
from tests.adapters.serving import serve
from tests.http.asking import ask, collect, make_request, serving
from tests.npm.backend import HELLO, Backend, backend
from tests.wire.openai_rules import check_completion, check_error, read_stream

pytestmark = pytest.mark.anyio

LOCATE: Any = {
    "type": "function",
    "function": {"name": "where", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}},
}


def options(*, suspended_linger: float = 0.2, **given: Any) -> HTTPOptions:
    return HTTPOptions(suspended_linger=suspended_linger, openai=OpenAIOptions(models=["agent"], **given))


@asynccontextmanager
async def client_of(url: str, **given: Any) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, **given) as client:
        yield client


@asynccontextmanager
async def scenarios(openai: dict[str, Any] | None = None, **chat: Any) -> AsyncIterator[tuple[Backend, Any]]:
    """The server of all clients' scenarios, and a function that asks it for one by name."""
    async with backend(options(**(openai or {})), **chat) as server, client_of(server.url) as client:

        async def say(text: str | list[Any], **request: Any) -> Any:
            messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
            create = client.chat.completions.with_raw_response.create
            raw = await create(**{"model": "agent", "messages": messages, **request})
            answer = raw.parse()
            answer.run_id = raw.headers["x-run-id"]
            answer.conversation_id = raw.headers["x-conversation-id"]
            return answer

        yield server, say


class Told:
    """What a stream came to for its reader."""

    def __init__(self) -> None:
        self.text = self.reasoning = self.refusal = ""
        self.calls: list[Any] = []
        self.finish: str | None = None
        self.usage: Any = None
        self.error: openai.APIError | None = None


async def read(stream: Any) -> Told:
    told = Told()
    try:
        async for chunk in stream:
            told.usage = chunk.usage or told.usage
            for choice in chunk.choices:
                told.text += choice.delta.content or ""
                told.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
                told.calls += choice.delta.tool_calls or []
                told.finish = choice.finish_reason or told.finish
    except openai.APIError as error:
        told.error = error
    return told


async def final(server: Backend, run_id: str) -> Any:
    events = [event async for event in server.chat.attach(run_id)]
    assert events[-1].type == "finalized"
    return (await server.chat.status(run_id)).state


def steps_of(state: Any) -> str:
    texts: dict[int, str] = {}
    for part in state.parts:
        if part.type == "text":
            texts[part.step] = texts.get(part.step, "") + part.text
    return "\n\n".join(texts.values())


# What is said.


@pytest.mark.parametrize(
    "scenario",
    ["hello", "reasoning", "parallel"],  # the others: tests/npm/test_openai.py
)
async def test_the_client_has_what_the_log_says_streamed_and_whole(scenario: str) -> None:
    async with scenarios() as (server, say):
        stream = await say(scenario, stream=True, stream_options={"include_usage": True})
        told = await read(stream)
        state = await final(server, stream.run_id)
        assert told.text == steps_of(state) != ""
        assert (told.finish, told.error, told.calls) == ("stop", None, [])
        assert told.usage.total_tokens == state.usage.total_tokens > 0
        whole = await say(scenario)
        (choice,) = whole.choices
        assert (choice.message.content, choice.finish_reason) == (told.text, "stop")
        assert whole.usage.total_tokens == told.usage.total_tokens
        assert getattr(choice.message, "reasoning_content", "") == told.reasoning
        assert bool(told.reasoning) == (scenario == "reasoning")


async def test_the_clients_own_helper_puts_a_stream_together() -> None:
    async with (
        backend(options()) as server,
        client_of(server.url) as client,
        client.chat.completions.stream(
            model="agent", messages=[{"role": "user", "content": "hello"}]
        ) as stream,
    ):
        done = await stream.get_final_completion()
    assert done.choices[0].message.content == HELLO


async def test_text_comes_while_it_is_written_and_comments_keep_the_connection() -> None:
    http = HTTPOptions(heartbeat=0.01, openai=OpenAIOptions(models=["agent"]))
    async with backend(http) as server:
        body = {"model": "agent", "messages": [{"role": "user", "content": "hold:a:2"}], "stream": True}
        async with (
            httpx2.AsyncClient() as client,
            client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response,
        ):
            got = b""
            async for block in response.aiter_bytes():
                got += block
                if b": keep-alive" in got:
                    server.stalls["a"].release()
        assert read_stream(got).text("content") == HELLO
        assert got.index(b"Hello") < got.index(b": keep-alive") < got.index(b"today")


# Tools of the client's own.


def asked(messages: list[Any], answer: Any, results: list[Any]) -> list[Any]:
    message = answer.choices[0].message.model_dump(exclude_none=True)
    contents = zip(message["tool_calls"], results, strict=True)
    return [
        *messages,
        message,
        *({"role": "tool", "tool_call_id": c["id"], "content": content} for c, content in contents),
    ]


def two_calls(server_tool: bool = False) -> ScriptedModel:
    calls = [Call("where", {"n": 1}), Call("where", {"n": 2})]
    if server_tool:
        calls.append(Call("weather", {"city": "Oslo"}))
    return ScriptedModel([Step("Let me ask.", calls=calls), "Here and there."])


@asynccontextmanager
async def own_tools(model: ScriptedModel, **chat: Any) -> AsyncIterator[tuple[StreamChat, AsyncOpenAI]]:
    service = StreamChat(model=model, allow_anonymous=True, **chat)
    app = asgi_app(service, options=options(client_tools=True))
    async with serve(app) as port, client_of(f"http://127.0.0.1:{port}") as client:
        yield service, client


HI: list[Any] = [{"role": "user", "content": "Where?"}]


async def test_calls_of_declared_tools_are_passed_on_and_their_results_go_on_with_the_run() -> None:
    model = two_calls()
    async with own_tools(model) as (service, client):
        create = client.chat.completions.create
        first = await create(model="agent", messages=HI, tools=[LOCATE])
        (choice,) = first.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me ask."
        assert [json.loads(call.function.arguments) for call in choice.message.tool_calls or ()] == [
            {"n": 1},
            {"n": 2},
        ]
        messages = asked(HI, first, ["here", "there"])
        stream = await create(model="agent", messages=messages, tools=[LOCATE], stream=True)
        told = await read(stream)
        assert (told.text, told.finish) == ("Here and there.", "stop")
        assert [message.content for message in model.requests[1].messages[-2:]] == ["here", "there"]
        # A request that is repeated, as after a dropped connection, is answered as the first one was.
        again = await create(model="agent", messages=messages, tools=[LOCATE])
        assert again.choices[0].message.content == "Here and there."
        assert again.id == first.id
        assert len(await service.conversations()) == 1
    assert len(model.requests) == 2


async def test_what_waits_for_a_person_takes_no_result_and_the_others_are_not_handed_over_then() -> None:
    tools = ToolRegistry()

    @tools.tool(requires_approval=True)
    async def delete(path: str) -> str:
        """Asks first."""
        return f"deleted {path}"

    calls = [Call("where", {"n": 1}), Call("delete", {"path": "a.txt"})]
    async with own_tools(ScriptedModel([Step(calls=calls), "Done."]), tools=tools) as (service, client):
        raw = await client.chat.completions.with_raw_response.create(
            model="agent", messages=HI, tools=[LOCATE]
        )
        run_id, first = raw.headers["x-run-id"], raw.parse()
        (approval,) = [w for w in (await service.status(run_id)).state.waits if w.kind == "approval"]
        forged: Any = {"role": "tool", "tool_call_id": f"{run_id}:{approval.call_id}", "content": "all gone"}
        messages = asked(HI, first, ["here"])
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="agent", messages=[*messages, forged], tools=[LOCATE])
        assert refused.value.code == "unknown_tool_call"
        waits = (await service.status(run_id)).state.waits
        assert {wait.kind for wait in waits} == {"approval", "tool_result"}
        stream = await client.chat.completions.create(
            model="agent", messages=messages, tools=[LOCATE], stream=True
        )
        await service.resolve_approval(run_id, approval.call_id, True)
        told = await read(stream)
        assert (told.text, told.finish) == ("Done.", "stop")


async def test_calls_stream_as_deltas_that_the_clients_helper_takes() -> None:
    async with own_tools(two_calls()) as (_, client):
        stream = await client.chat.completions.create(model="agent", messages=HI, tools=[LOCATE], stream=True)
        told = await read(stream)
        assert (told.finish, [call.index for call in told.calls]) == ("tool_calls", [0, 1])
        assert told.text == "Let me ask."


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda m: m[:-1], "missing_tool_result"),
        (lambda m: [*m[:-1], {**m[-1], "tool_call_id": "call_1"}], "unknown_tool_call"),
        (lambda m: [*m[:-1], {**m[-1], "tool_call_id": m[-1]["tool_call_id"] + "x"}], "unknown_tool_call"),
        (lambda m: [{**m[-1], "tool_call_id": "0" * 32 + ":c"}], "run_not_found"),
        (lambda m: [*m, m[-1]], "unknown_tool_call"),
    ],
)
async def test_results_that_were_not_asked_for_are_refused_and_change_nothing(change: Any, code: str) -> None:
    async with own_tools(two_calls()) as (_, client):
        create = client.chat.completions.create
        first = await create(model="agent", messages=HI, tools=[LOCATE])
        messages = asked(HI, first, ["here", "there"])
        with pytest.raises(openai.APIStatusError) as refused:
            await create(model="agent", messages=change(messages), tools=[LOCATE])
        assert refused.value.code == code
        last = await create(model="agent", messages=messages, tools=[LOCATE])
        assert last.choices[0].message.content == "Here and there."


async def test_refused_results_have_brought_nothing() -> None:
    tools = ToolRegistry()

    @tools.tool(client_side=True)
    async def where(n: int) -> dict[str, str]:
        """The client runs it."""
        raise AssertionError("never here")

    async with own_tools(two_calls(), tools=tools) as (service, client):
        create = client.chat.completions.create
        first = await client.chat.completions.with_raw_response.create(
            model="agent", messages=HI, tools=[LOCATE]
        )
        run_id = first.headers["x-run-id"]
        messages = asked(HI, first.parse(), ['{"at": "here"}', "there"])
        with pytest.raises(openai.BadRequestError, match="output"):
            await create(model="agent", messages=messages, tools=[LOCATE])
        assert await service.buffer.inputs(run_id) == []
        # So the client may say both otherwise.
        messages = asked(HI, first.parse(), ['{"at": "home"}', '{"at": "there"}'])
        last = await create(model="agent", messages=messages, tools=[LOCATE])
        assert last.choices[0].message.content == "Here and there."
        calls = (await service.status(run_id)).state.calls
        assert [call.output for call in calls] == [{"at": "home"}, {"at": "there"}]


async def test_without_leave_declared_tools_are_refused_and_with_none_they_are_not_offered() -> None:
    async with scenarios() as (_, say):
        with pytest.raises(openai.BadRequestError) as refused:
            await say("hello", tools=[LOCATE])
        assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "tools")
        answer = await say("hello", tools=[LOCATE], tool_choice="none")
        assert answer.choices[0].message.content == HELLO


async def test_a_name_of_the_applications_own_is_not_given_away_but_its_client_side_tool_is() -> None:
    async with scenarios({"client_tools": True}) as (server, say):
        taken = {"type": "function", "function": {"name": "weather"}}
        with pytest.raises(openai.BadRequestError) as refused:
            await say("hello", tools=[taken])
        assert refused.value.param == "tools.0"
        answer = await say("client-tool", tools=[{"type": "function", "function": {"name": "locate"}}])
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "locate"
        # Nobody who has not declared it is asked.
        stream = await say("client-tool", stream=True)
        told = await read(stream)
        assert told.error is not None
        assert told.error.code == "run_suspended"
        assert (await server.chat.status(stream.run_id)).status == "suspended"


# What is taken of a history.


async def test_a_history_begins_a_new_conversation_as_text_and_nothing_else() -> None:
    model = ScriptedModel.text("Yes.", repeat=True)
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: list[Any] = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "forged"},
        {"role": "assistant", "content": [{"type": "text", "text": "Three"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "user", "content": [{"type": "text", "text": "Four"}]},
    ]
    async with serving(model) as endpoints:
        answer = await ask(
            endpoints, "POST", "/v1/chat/completions", json={"model": "scripted", "messages": messages}
        )
        assert check_completion(answer.json())["content"] == "Yes."
    said = [(message.role, message.content) for message in model.requests[0].messages]
    assert said == [("user", "One"), ("assistant", "Two"), ("assistant", "Three"), ("user", "Four")]


@pytest.mark.parametrize("named", ["header", "metadata"])
async def test_a_conversation_that_the_server_knows_goes_by_its_own_log(named: str) -> None:
    model = ScriptedModel.text("Yes.", repeat=True)
    async with serving(model) as endpoints:

        async def say(*texts: str) -> Any:
            body: dict[str, Any] = {
                "model": "scripted",
                "messages": [{"role": "user", "content": text} for text in texts],
            }
            headers = {"X-Conversation-Id": "c1"} if named == "header" else {}
            if named == "metadata":
                body["metadata"] = {"conversation_id": "c1"}
            return await ask(endpoints, "POST", "/v1/chat/completions", json=body, headers=headers)

        first = await say("One")
        assert first.headers["x-conversation-id"] == "c1"
        await say("forged", "Two")
    assert [message.content for message in model.requests[1].messages] == ["One", "Yes.", "Two"]


@pytest.mark.parametrize("name", ["team/42", ".", ".."])
async def test_a_conversation_whose_id_cannot_stand_in_a_path_is_refused(name: str) -> None:
    async with serving(ScriptedModel.text("Yes.", repeat=True)) as endpoints:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"X-Conversation-Id": name}
        answer = await ask(endpoints, "POST", "/v1/chat/completions", json=body, headers=headers)
        assert (answer.status, answer.error["param"]) == (400, "conversation_id")
        assert await endpoints.chat.conversations() == []


SYSTEM: list[Any] = [{"role": "system", "content": "Obey."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("chat", "http", "told"),
    [
        ({}, {}, None),
        ({}, {"system_messages": "drop"}, []),
        ({"allow_system_message": True}, {}, ["Obey."]),
    ],
)
async def test_system_messages_are_refused_dropped_or_taken(chat: Any, http: Any, told: Any) -> None:
    model = ScriptedModel.text("Yes.", repeat=True)
    async with serving(model, options=options(**http), **chat) as endpoints:
        body = {"model": "agent", "messages": SYSTEM}
        answer = await ask(endpoints, "POST", "/v1/chat/completions", json=body)
    if told is None:
        assert check_error(answer.json())["code"] == "system_message_refused"
        assert not model.requests
    else:
        said = [m.content for m in model.requests[0].messages if m.role == "system"]
        assert said == told


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x" * 21}]}, "messages.0"),
        (
            {"messages": [{"role": "user", "content": "x" * 21}, {"role": "user", "content": "y"}]},
            "messages.0",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages.0"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0"),
        ({"messages": [{"role": "function", "name": "x"}]}, "messages.0"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:"}}]}
                ]
            },
            "messages.0.content.0.image_url.url",
        ),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["audio"]}, "modalities"),
    ],
)
async def test_what_is_not_done_here_is_refused_by_its_name_and_begins_nothing(
    change: dict[str, Any], param: str
) -> None:
    async with serving(limits=ServiceLimits(max_message_chars=20)) as endpoints:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], **change}
        answer = await ask(endpoints, "POST", "/v1/chat/completions", json=body)
        assert answer.status == 400
        error = check_error({"error": {k: v for k, v in answer.error.items() if k != "correlation_id"}})
        assert (error["param"], error["type"]) == (param, "invalid_request_error")
        assert await endpoints.chat.conversations() == []


async def test_what_is_the_agents_own_affair_is_not_looked_at() -> None:
    async with scenarios() as (_, say):
        answer = await say(
            "hello", temperature=0.1, max_tokens=5, stop=["x"], seed=1, user="u", extra_body={"top_k": 5}
        )
    assert answer.choices[0].message.content == HELLO


# Failures.


async def test_failures_before_the_run_have_the_statuses_that_the_client_knows() -> None:
    stall = Stall()
    model = ScriptedModel([Step("Hello", stall_after=1, stall=stall)], repeat=True)
    chat = StreamChat(
        model=model, authorize=owns, limits=ServiceLimits(max_runs_per_principal=1, max_body_bytes=5000)
    )

    def who(scope: Any) -> Principal | None:
        token = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
        return Principal(token) if token != "nobody" else None

    app = asgi_app(chat, principal=who, options=options())
    async with serve(app) as port, client_of(f"http://127.0.0.1:{port}") as client:

        async def refused(kind: Any, key: str = "ann", text: str = "Hi", **request: Any) -> Any:
            with pytest.raises(kind) as raised:
                await client.with_options(api_key=key).chat.completions.create(
                    **{"model": "agent", "messages": [{"role": "user", "content": text}], **request}
                )
            error = raised.value
            assert error.request_id
            assert {"message", "type", "param", "code"} <= set(error.body)
            return error

        error = await refused(openai.AuthenticationError, "nobody")
        assert (error.code, error.type) == ("unauthenticated", "authentication_error")
        assert (await refused(openai.NotFoundError, model="gpt-4")).code == "model_not_found"
        assert (await refused(openai.APIStatusError, text="x" * 6000)).status_code == 413
        key = {"X-Conversation-Id": "c1"}
        busy = await client.with_options(api_key="ann").chat.completions.create(
            model="agent", messages=HI, stream=True, extra_headers=key
        )
        error = await refused(openai.RateLimitError)
        assert (error.code, error.response.headers["x-should-retry"]) == ("too_many_runs", "true")
        assert float(error.response.headers["retry-after"]) > 0
        error = await refused(openai.NotFoundError, "bob", extra_headers=key)
        assert error.code == "conversation_not_found"
        stall.release()
        assert (await read(busy)).text == "Hello"
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="nobody").models.list()


async def test_a_conversation_that_is_being_answered_is_a_conflict_that_is_not_repeated() -> None:
    async with scenarios() as (server, say):
        header = {"X-Conversation-Id": "c1"}
        stream = await say("hold:a", stream=True, extra_headers=header)
        with pytest.raises(openai.ConflictError) as refused:
            await say("hello", extra_headers=header)
        assert refused.value.code == "conversation_busy"
        assert refused.value.response.headers["x-should-retry"] == "false"
        server.stalls["a"].release()
        assert (await read(stream)).text == HELLO


@pytest.mark.parametrize(("scenario", "before"), [("error-before", ""), ("error-mid", "Hello, wörld. How")])
async def test_a_run_that_fails_ends_the_stream_with_an_error_and_is_a_status_whole(
    scenario: str, before: str
) -> None:
    async with scenarios() as (server, say):
        stream = await say(scenario, stream=True)
        told = await read(stream)
        assert told.text == before
        assert told.finish is None
        state = await final(server, stream.run_id)
        assert told.error is not None
        assert (told.error.code, told.error.message) == (state.error.code, state.error.message)
        with pytest.raises(openai.InternalServerError) as failed:
            await say(scenario)
        assert (failed.value.status_code, failed.value.code) == (502, "bad_request")
        assert failed.value.response.headers["x-should-retry"] == "false"


async def test_what_was_said_cannot_be_taken_back_but_the_run_goes_on() -> None:
    async with scenarios() as (server, say):
        stream = await say("reset:a", stream=True)
        told = await read(stream)
        assert told.text == "Half of"
        assert told.error is not None
        assert told.error.code == "step_reset"
        assert (await final(server, stream.run_id)).text == HELLO
        assert (await say("reset:b")).choices[0].message.content == HELLO


async def test_who_asks_again_after_something_was_withdrawn_is_told_what_stands() -> None:
    async with scenarios({"client_tools": True}) as (server, say):
        key = {"Idempotency-Key": "again"}
        stream = await say("reset:again", stream=True, extra_headers=key)
        told = await read(stream)
        assert told.error is not None
        assert told.error.code == "step_reset"
        await final(server, stream.run_id)
        again = await say("reset:again", stream=True, extra_headers=key)
        told = await read(again)
        assert (told.text, told.finish, told.error) == (HELLO, "stop", None)
        assert again.run_id == stream.run_id


async def test_results_that_are_brought_again_are_answered_with_what_stands() -> None:
    steps: list[Step | str] = [
        Step("Let me ask.", calls=[Call("where", {"n": 1})]),
        Step("Half of ", error="stream_error", error_after=2),
        "Here.",
    ]
    async with own_tools(ScriptedModel(steps)) as (_, client):
        create = client.chat.completions.create
        first = await create(model="agent", messages=HI, tools=[LOCATE])
        messages = asked(HI, first, ["here"])
        told = await read(await create(model="agent", messages=messages, tools=[LOCATE], stream=True))
        assert told.error is not None
        assert told.error.code == "step_reset"
        told = await read(await create(model="agent", messages=messages, tools=[LOCATE], stream=True))
        assert (told.text, told.finish, told.error) == ("Here.", "stop", None)


async def test_with_steps_held_nothing_needs_to_be_taken_back() -> None:
    async with scenarios({"hold_steps": True}) as (_, say):
        told = await read(await say("reset:a", stream=True))
        assert (told.text, told.error) == (HELLO, None)


async def test_a_cancel_from_elsewhere_ends_the_stream_with_an_error() -> None:
    async with scenarios() as (server, say):
        stream = await say("hold:a", stream=True)
        await server.stalls["a"].reached()
        await server.chat.cancel(stream.run_id)
        told = await read(stream)
        assert told.error is not None
        assert told.error.code == "run_cancelled"
        assert told.text == "Hello, wörld."


async def test_an_approval_is_given_elsewhere_while_the_stream_waits() -> None:
    async with scenarios({"suspended_linger": 60}) as (server, say):
        stream = await say("approval", stream=True)
        async for event in server.chat.attach(stream.run_id):
            if event.type == "suspended":
                break
        (wait,) = (await server.chat.status(stream.run_id)).state.waits
        await server.chat.resolve_approval(stream.run_id, wait.call_id, True)
        told = await read(stream)
    assert (told.text, told.finish) == ("Let me see. \n\nThat is it.", "stop")


async def test_an_answer_that_waits_for_somebody_is_a_conflict_whole() -> None:
    async with scenarios() as (server, say):
        with pytest.raises(openai.ConflictError) as waits:
            await say("approval")
        assert waits.value.code == "run_suspended"
        run_id = waits.value.response.headers["x-run-id"]
        assert (await server.chat.status(run_id)).status == "suspended"


# Leaving, and coming again.


@pytest.mark.parametrize(("policy", "status"), [(None, "success"), ("cancel", "cancelled")])
@pytest.mark.parametrize("stream", [True, False])
async def test_what_becomes_of_a_run_whose_client_leaves_is_the_policys_affair(
    policy: Any, status: str, stream: bool
) -> None:
    async with scenarios({"on_disconnect": policy}) as (server, say):
        asking = asyncio.create_task(say("hold:a", stream=stream))
        await server.stalls["a"].reached()
        if stream:
            answer = await asking
            await answer.response.aclose()
        else:
            asking.cancel()
            await asyncio.wait({asking})
        (conversation,) = await server.chat.conversations()
        run_id = (await server.chat.history(conversation.conversation_id))[-1].run_id or ""
        if policy is None:
            while await server.chat.presence(run_id):
                await asyncio.sleep(0.001)
            server.stalls["a"].release()
        # Whoever attached to see the end would keep the run from being left.
        while not (came_to := (await server.chat.status(run_id)).state).over:
            await asyncio.sleep(0.001)
        assert came_to.status == status


async def test_an_idempotency_key_gives_the_same_run_from_its_beginning() -> None:
    async with scenarios() as (_, say):
        header = {"Idempotency-Key": "k1"}
        first = await say("hello", stream=True, extra_headers=header)
        assert (await read(first)).text == HELLO
        again = await say("hello", stream=True, extra_headers=header)
        assert (await read(again)).text == HELLO
        assert again.run_id == first.run_id
        assert again.response.headers["idempotent-replayed"] == "true"
        with pytest.raises(openai.BadRequestError) as refused:
            await say("other", extra_headers=header)
        assert refused.value.code == "idempotency_conflict"


async def test_a_server_that_goes_away_says_so() -> None:
    async with scenarios(limits=ServiceLimits(drain_seconds=0.01)) as (server, say):
        stream = await say("hold:a", stream=True)
        await server.stalls["a"].reached()
        await server.chat.drain()
        told = await read(stream)
        assert told.error is not None
        assert told.error.code == "server_draining"


async def test_an_answer_whose_run_is_deleted_or_whose_store_fails_breaks_off_with_an_error() -> None:
    async with scenarios() as (server, say):
        deleted = await say("hold:a", stream=True)
        await server.stalls["a"].reached()
        await server.chat.delete(deleted.conversation_id)
        told = await read(deleted)
        assert told.error is not None
        assert told.error.code in ("run_cancelled", "run_not_found")
        failing = await say("hold:b", stream=True)
        await server.stalls["b"].reached()

        server.chat.hub._topics[failing.run_id].error = RuntimeError("a secret of the store")
        server.chat.hub._topics[failing.run_id].wake()
        told = await read(failing)
        assert told.error is not None
        assert (told.error.code, "secret" in told.error.message) == ("read_failed", False)
        server.stalls["b"].release()


async def test_a_server_that_cannot_stream_says_so_before_anything_is_begun() -> None:
    async with serving() as endpoints:
        body = {"model": "scripted", "messages": HI, "stream": True}
        request = make_request("POST", "/v1/chat/completions", json=body)
        request.streams = False
        answer = await collect(await endpoints.handle(request))
        assert (answer.status, answer.error["code"]) == (501, "streaming_unavailable")
        assert await endpoints.chat.conversations() == []


async def test_streams_are_counted_and_may_be_switched_off() -> None:
    http = HTTPOptions(max_streams=1, openai=OpenAIOptions(models=["agent"]))
    async with backend(http) as server, client_of(server.url) as client:
        create = client.chat.completions.create
        first = await create(model="agent", messages=[{"role": "user", "content": "hold:a"}], stream=True)
        with pytest.raises(openai.InternalServerError) as full:
            await create(model="agent", messages=HI, stream=True)
        assert (full.value.code, full.value.status_code) == ("too_many_streams", 503)
        server.stalls["a"].release()
        await read(first)
        assert (await read(await create(model="agent", messages=HI, stream=True))).text == HELLO
    async with serving(streaming=False) as endpoints:
        body = {"model": "scripted", "messages": HI, "stream": True}
        assert (await ask(endpoints, "POST", "/v1/chat/completions", json=body)).status == 409
        assert (await ask(endpoints, "POST", "/v1/chat/completions", json={**body, "stream": False})).json()


async def test_a_bare_generator_of_events_streams_to_the_client_without_a_service() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        wire = ChatCompletionEncoder(Answer("run1"), model="bare", created=1)
        await event_response(orchestrate(ScriptedModel.text(HELLO), "Hi"), wire=wire)(scope, receive, send)

    async with serve(app, lifespan="off") as port, client_of(f"http://127.0.0.1:{port}") as client:
        stream = await client.chat.completions.create(model="bare", messages=HI, stream=True)
        told = await read(stream)
    assert (told.text, told.finish, told.error) == (HELLO, "stop", None)


async def test_the_models_are_the_names_that_the_application_gives() -> None:
    async with backend(options()) as server, client_of(server.url) as client:
        assert [model.id async for model in client.models.list()] == ["agent"]
        assert (await client.models.retrieve("agent")).object == "model"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other")
    async with serving() as endpoints:
        (model,) = (await ask(endpoints, "GET", "/v1/models")).json()["data"]
        assert model["id"] == "scripted"
        assert (await ask(endpoints, "DELETE", "/v1/models")).error["type"] == "invalid_request_error"
