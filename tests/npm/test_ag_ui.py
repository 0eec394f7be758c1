"""AG-UI's own client from npm against ``POST /ag-ui``: its messages come to be what the run's log says."""

from __future__ import annotations

from typing import Any

import pytest

from streamchat.core.fold import fold
from streamchat.http.incoming import messages_of
from streamchat.messages import parse_content
from streamchat.service.request import conversation_path
from streamchat.wire.ag_ui import Ids, run_messages
from tests.npm.backend import HELLO, Backend, backend
from tests.npm.matrix import YES, tell
from tests.npm.support import package_versions, run_node
from tests.wire.ag_ui_client import check_message
from tests.wire.test_ag_ui import settled

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

CLIENTS = ("@ag-ui/client", "ag-ui-client-0")

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
    "approvalCancelled": "approval: put off",
    "pageTool": "client-side tool",
    "declaredTool": "client-side tool that the client declares",
    "twoTurns": "a second turn",
    "cancel": "cancel",
    "leaves": "the client leaves (`abortRun`)",
    "busy": "server error before the stream",
    "errorBefore": "model error before the first token",
    "errorMid": "model error in mid-stream",
    "reset": "retraction",
}
_CUT = ["reasoning", "parallel", "tool-error", "approval", "client-tool", "error-mid", "reset:*"]
_BACK = {
    "sameTab": "cut off, same tab, same `runId`",
    "sameTabNewRun": "cut off, same tab, another `runId`",
    "reloaded": "cut off, reload, messages lost",
    "reloadedWithAll": "cut off, reload, messages kept",
}


async def thread_of(server: Backend, thread_id: str) -> list[dict[str, Any]]:
    """What the thread's logs say, up to the newest answer."""
    messages: list[dict[str, Any]] = []
    rows = await messages_of(server.chat, thread_id, None)
    for row in conversation_path(rows, rows[-1].message_id):
        if row.role == "user":
            (part,) = parse_content(row.content)
            messages.append({"role": "user", "content": getattr(part, "text", "")})
        else:
            assert row.run_id is not None
            state = fold(await server.chat.whole_log(row.run_id))
            messages += run_messages(state.parts, Ids(row.message_id))
    return messages


async def same(server: Backend, got: dict[str, Any]) -> None:
    """The client has what the logs say."""
    assert "failed" not in got, got["failed"]
    for message in got["messages"]:
        check_message(message)
    users = [message.pop("id") for message in got["messages"] if message["role"] == "user"]
    assert len(users) == len(set(users))
    expected = await thread_of(server, got["threadId"])
    for message in [*got["messages"], *expected]:
        message.setdefault("id", "user")
    assert settled(got["messages"]) == settled(expected)


def said(got: dict[str, Any], role: str = "assistant") -> str:
    return "".join(m.get("content") or "" for m in got["messages"] if m["role"] == role)


async def run_scenarios(server: Backend, *names: str, **config: Any) -> dict[str, Any]:
    answers: dict[str, Any] = await run_node(
        "ag_ui.mjs", url=server.url, prefix="ag", scenarios=list(names), **config
    )
    return answers


def name_of(package: str) -> str:
    """The client as the matrix names it."""
    return f"@ag-ui/client {package_versions()[package]}"


@pytest.mark.parametrize("package", CLIENTS)
async def test_every_scenario_comes_to_what_the_log_says(package: str) -> None:
    async with backend() as server:
        got = await run_scenarios(server, *ROWS, package=package)
        for name in ROWS:
            if name != "busy":
                await same(server, got[name])
    check_outcomes(got)
    # Before 1.0 a run that was cancelled ended as any other.
    assert got["cancel"]["types"][-1] == "RUN_FINISHED"
    assert got["cancel"]["outcome"] == ("cancelled" if package == "@ag-ui/client" else "success")
    cells = dict.fromkeys(ROWS.values(), YES)
    cells[ROWS["leaves"]] = "the run goes on (`on_disconnect`); asked again, the whole answer is there"
    if package != "@ag-ui/client":
        cells[ROWS["cancel"]] = "yes, as a normal end"
    tell("ag-ui", name_of(package), cells)


def check_outcomes(got: dict[str, Any]) -> None:
    ended = {name: got[name]["outcome"] for name in ROWS}
    failed = {"busy": None, "errorBefore": "error", "errorMid": "error", "cancel": ended["cancel"]}
    assert ended == {**dict.fromkeys(ROWS, "success"), **failed}
    assert said(got["text"]) == HELLO
    assert said(got["reasoning"], "reasoning").startswith("Two and two")
    assert said(got["parallel"], "tool").count('"degrees":21') == 2
    assert "secret" not in said(got["toolError"], "tool")
    assert [each["message"] for each in got["progress"]["activities"]] == ["step 1", "step 2"]
    assert "nonsense" in said(got["unknownTool"], "tool")
    (asked,) = got["approvalYes"]["asked"]
    assert asked["reason"] == "tool_call"
    assert "TOOL_CALL_START" not in got["approvalYes"]["types"][-8:]
    assert said(got["approvalYes"], "tool") == "deleted a.txt"
    assert said(got["approvalNo"], "tool").endswith("Not that one.")
    assert said(got["approvalEdited"], "tool") == "deleted b.txt"
    assert "not allow" in said(got["approvalCancelled"], "tool")
    assert all(got[name]["interrupts"] == 0 for name in ROWS)
    assert said(got["pageTool"], "tool") == '{"latitude":1.5}'
    assert said(got["declaredTool"], "tool") == "painted"
    assert (got["leaves"]["half"], said(got["leaves"])) == ("Hello, wörld.", HELLO)
    assert got["busy"]["rejected"]["status"] == 409
    assert got["errorMid"]["error"]["metadata"]["streamchat"]["phase"] == "model"
    assert said(got["reset"]) == HELLO
    assert "MESSAGES_SNAPSHOT" in got["reset"]["types"]


async def come_back(package: str, every: int, cut: list[str]) -> dict[str, Any]:
    async with backend() as server:
        got = await run_scenarios(server, *_BACK, package=package, every=every, cut=cut)
        for name in _BACK:
            assert "failed" not in got[name], got[name]
            for end in got[name]:
                assert end["outcome"] == ("error" if end["scenario"] == "error-mid" else "success"), end
                assert (end["interrupts"], end["rejected"]) == (0, None), end
                await same(server, end)
    return got


async def test_a_client_that_is_cut_off_has_the_whole_answer_when_it_comes_back() -> None:
    got = await come_back("@ag-ui/client", 4, ["hello"])
    assert all(len(ends) > 2 for ends in got.values())


@pytest.mark.slow
@pytest.mark.parametrize("package", CLIENTS)
async def test_a_client_that_is_cut_off_after_any_frame_has_the_whole_answer_when_it_comes_back(
    package: str,
) -> None:
    got = await come_back(package, 1, _CUT)
    assert all(len(ends) > 100 for ends in got.values())
    tell("ag-ui", name_of(package), dict.fromkeys(_BACK.values(), YES))
