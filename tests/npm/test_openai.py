"""OpenAI's own clients, npm's and Python's, against ``/v1``: they are told what the run's log says."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest

from streamchat.http import HTTPOptions, OpenAIOptions
from tests.npm.backend import HELLO, Backend, backend
from tests.npm.matrix import YES, tell
from tests.npm.openai_python import come_back, run_scenarios
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
    "approvalYes": "approval: yes",
    "approvalNo": "approval: no",
    "approvalEdited": "approval: edited",
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
_DECIDED = "the stream stays open; somebody decides by `POST /runs/{id}/approvals`"
INSTEAD = {
    "progress": "nothing is shown; comments keep the connection",
    **dict.fromkeys(("approvalYes", "approvalNo", "approvalEdited"), _DECIDED),
    "forgedResult": "refused, 400 `unknown_tool_call`",
    "cancel": "an error, `run_cancelled`, after the text so far",
    "leaves": "the run goes on (`on_disconnect`)",
    "reset": "an error, `step_reset`; the whole answer when asked again with an `Idempotency-Key`, "
    "in one piece, or with `hold_steps`",
    "comesBack": "the same run from its beginning, with an `Idempotency-Key`; results of tools need none",
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
    outcomes = []
    for name in ("approvalYes", "approvalNo", "approvalEdited"):
        (call,) = (await same(server, got[name]["stream"])).calls
        outcomes.append((call.outcome, call.output, call.error))
    assert outcomes == [
        ("ok", "deleted a.txt", None),
        ("denied", None, "Not that one."),
        ("ok", "deleted b.txt", None),
    ]
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
    await check_ends(server, got["comesBack"])


async def check_ends(server: Backend, ends: list[dict[str, Any]]) -> None:
    """Who was cut off and has asked again has the answer, and how it ended."""
    for end in ends:
        if end["scenario"] == "error-mid":
            state = await of_log(server, end["runId"])
            assert (end["text"], end["error"]["code"]) == (state.text, state.error.code), end
        elif end["scenario"] == "client-tool":
            assert (end["text"], end["finish"], end["error"]) == ("That is it.", "stop", None), end
        else:
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


_CUT = ["reasoning", "parallel", "tool-error", "client-tool", "error-mid", "reset:*"]


@pytest.mark.slow
async def test_npms_client_that_is_cut_off_after_any_frame_gets_the_whole_answer_when_it_asks_again() -> None:
    async with backend(OPTIONS) as server:
        got = await run_node("openai.mjs", url=server.url, scenarios=["comesBack"], every=1, cut=_CUT)
        await check_ends(server, got["comesBack"])
    check_cuts(got["comesBack"])


@pytest.mark.slow
async def test_pythons_client_that_is_cut_off_after_any_frame_gets_the_whole_answer_too() -> None:
    async with backend(OPTIONS) as server:
        ends = await come_back(server, _CUT)
        await check_ends(server, ends)
    check_cuts(ends)


def check_cuts(ends: list[dict[str, Any]]) -> None:
    """Each scenario was cut off at the beginning, at the end, and often in between."""
    for scenario in _CUT:
        cut = [end["frames"] for end in ends if end["scenario"] == scenario]
        assert cut == list(range(len(cut)))
        assert len(cut) >= 3
