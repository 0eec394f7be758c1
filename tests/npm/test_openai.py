"""OpenAI's own clients, npm's and Python's, against ``/v1``: they are told what the run's log says."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest

from streamchat.http import HTTPOptions, OpenAIOptions
from tests.npm.backend import HELLO, Backend, backend
from tests.npm.matrix import YES, tell
from tests.npm.openai_python import run_scenarios
from tests.npm.support import package_versions, run_node

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

OPTIONS = HTTPOptions(suspended_linger=60, openai=OpenAIOptions(models=["agent"], client_tools=True))

ROWS = {
    "text": "text",
    "reasoning": "reasoning",
    "parallel": "parallel tools",
    "toolError": "tool error",
    "unknownTool": "a tool that is not there",
    "invalidJson": "arguments that are not JSON",
    "progress": "tool progress",
    "approval": "approval",
    "clientTool": "client-side tool that the client declares",
    "forgedResult": "a result that was never asked for",
    "twoTurns": "a second turn",
    "cancel": "cancel",
    "leaves": "the client leaves",
    "busy": "server error before the stream",
    "errorBefore": "model error before the first token",
    "errorMid": "model error in mid-stream",
    "reset": "retraction",
    "comesBack": "cut off, asked again",
}
INSTEAD = {
    "progress": "nothing is shown; comments keep the connection",
    "approval": "the stream stays open; somebody decides by `POST /runs/{id}/approvals`",
    "forgedResult": "refused, 400 `unknown_tool_call`",
    "cancel": "an error, `run_cancelled`, after the text so far",
    "leaves": "the run goes on (`on_disconnect`)",
    "reset": "an error, `step_reset`; the whole answer where it is not streamed, or with `hold_steps`",
    "comesBack": "the same run from its beginning, with an `Idempotency-Key`",
}


async def of_log(server: Backend, run_id: str) -> Any:
    """The run's state at its end."""
    events = [event async for event in server.chat.attach(run_id)]
    assert events[-1].type == "finalized"
    return (await server.chat.status(run_id)).state


async def same(server: Backend, got: dict[str, Any]) -> Any:
    """The client has the text and the reasoning that the log holds, and the tokens that it counts."""
    state = await of_log(server, got["runId"])
    texts: dict[str, dict[int, str]] = {"text": {}, "reasoning": {}}
    for part in state.parts:
        if part.type in texts:
            steps = texts[part.type]
            steps[part.step] = steps.get(part.step, "") + part.text
    assert got["text"] == "\n\n".join(texts["text"].values()) != ""
    assert got["reasoning"] == "\n\n".join(texts["reasoning"].values())
    assert (got["finish"], got["error"]) == ("stop", None)
    assert got["usage"]["total_tokens"] == state.usage.total_tokens
    return state


async def check(server: Backend, got: dict[str, Any]) -> None:
    """Every scenario came to what the matrix says of it."""
    for name, came_to in got.items():
        assert "failed" not in came_to, (name, came_to)
    plain = ("text", "reasoning", "parallel", "toolError", "unknownTool", "invalidJson", "progress")
    for name in plain:
        for kind in ("stream", "whole"):
            await same(server, got[name][kind])
    assert got["text"]["stream"]["text"] == HELLO
    assert got["reasoning"]["whole"]["reasoning"].startswith("Two and two")
    await same(server, got["approval"]["stream"])
    for name in ("errorBefore", "errorMid"):
        stream, whole = got[name]["stream"], got[name]["whole"]
        state = await of_log(server, stream["runId"])
        assert (stream["error"]["code"], stream["finish"]) == (state.error.code, None)
        assert stream["text"] == state.text
        assert (whole["error"]["code"], whole["error"]["status"]) == (state.error.code, 502)
    await check_tools(server, got)
    assert got["twoTurns"]["stream"]["text"] == HELLO
    requests = [request.messages for request in server.model.requests]
    assert any([m.content for m in messages] == ["hello", HELLO, "hello"] for messages in requests)
    assert got["cancel"]["stream"]["error"]["code"] == "run_cancelled"
    assert got["cancel"]["stream"]["text"] == "Hello, wörld."
    assert (await of_log(server, got["leaves"]["stream"]["runId"])).text == HELLO
    assert (got["busy"]["whole"]["error"]["status"], got["busy"]["stream"]["text"]) == (409, HELLO)
    assert got["reset"]["stream"]["error"]["code"] == "step_reset"
    assert (await of_log(server, got["reset"]["stream"]["runId"])).text == HELLO
    assert got["reset"]["whole"]["text"] == HELLO
    for end in got["comesBack"]:
        await same(server, end)


async def check_tools(server: Backend, got: dict[str, Any]) -> None:
    answered, forged = got["clientTool"], got["forgedResult"]
    assert answered["first"]["finish"] == "tool_calls"
    (call,) = answered["first"]["calls"]
    assert call["function"] == {"name": "locate", "arguments": '{"accuracy":5}'}
    for kind in ("stream", "whole"):
        assert (answered[kind]["text"], answered[kind]["finish"]) == ("That is it.", "stop")
        assert forged[kind]["error"]["code"] == "unknown_tool_call"
    state = await of_log(server, answered["stream"]["runId"])
    assert state.calls[0].output == {"latitude": 1.5}


async def test_npms_client_is_told_what_the_log_says() -> None:
    async with backend(OPTIONS) as server:
        names = [*ROWS, "helper", "models", "refused"]
        got = await run_node("openai.mjs", url=server.url, scenarios=names, every=3)
        assert (got.pop("helper"), got.pop("models")) == ({"text": HELLO}, ["agent"])
        assert got.pop("refused")["error"]["status"] == 404
        assert len(got["comesBack"]) > 1
        await check(server, got)
    tell(
        "openai",
        f"openai {package_versions()['openai']} (npm)",
        {row: INSTEAD.get(name, YES) for name, row in ROWS.items()},
    )


async def test_pythons_client_is_told_what_the_log_says() -> None:
    async with backend(OPTIONS) as server:
        got = await run_scenarios(server, every=3)
        assert len(got["comesBack"]) > 1
        assert set(got) == set(ROWS)
        await check(server, got)
    tell(
        "openai",
        f"openai {version('openai').partition('.')[0]} (Python)",
        {row: INSTEAD.get(name, YES) for name, row in ROWS.items()},
    )


@pytest.mark.slow
async def test_npms_client_that_is_cut_off_after_any_frame_gets_the_whole_answer_when_it_asks_again() -> None:
    async with backend(OPTIONS) as server:
        got = await run_node("openai.mjs", url=server.url, scenarios=["comesBack"], every=1)
        assert len(got["comesBack"]) > 4
        for end in got["comesBack"]:
            await same(server, end)
