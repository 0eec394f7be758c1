"""The Vercel AI SDK's own clients, four versions of them, against a real server.

What each client's message comes to is compared with the fold of the run's log; the matrix is filled from it.
"""

from __future__ import annotations

from typing import Any

import pytest

from streamchat import Limits, RunOptions
from streamchat.core.fold import fold
from streamchat.core.state import RunState
from streamchat.http import HTTPOptions
from tests.npm.backend import Backend, backend
from tests.npm.matrix import YES, tell
from tests.npm.support import package_versions, run_node
from tests.wire.vercel_rules import expected

CLIENTS = ["ai-5.0.60", "ai-5", "ai-6", "ai-7"]

NAMES = {
    "text": "text",
    "reasoning": "reasoning",
    "parallel": "parallel tools",
    "progress": "tool progress",
    "tool-drop": "a drop while a tool is at work",
    "tool-error": "tool error",
    "unknown-tool": "a tool that is not there",
    "invalid-json": "arguments that are not JSON",
    "approval-yes": "approval: yes",
    "approval-no": "approval: no",
    "approval-edited": "approval: edited",
    "client-tool": "client-side tool",
    "second-turn": "a second turn",
    "open-again": "a chat opened again (`GET /vercel/{id}/messages`), and another turn",
    "open-resume": "a chat opened again, resuming where its last message is the user's",
    "open-all": "a chat opened again, whatever its calls came to",
    "regenerate": "regenerate",
    "edit": "an edited message",
    "cancel": "cancel",
    "cancel-tool": "cancel while a tool is at work",
    "refused": "server error before the stream",
    "error-before": "model error before the first token",
    "error-mid": "model error in mid-stream",
    "retraction": "retraction",
    "retraction-drop": "retraction, then a drop, with `resumingFetch`",
    "resume-nothing": "resume with nothing to resume",
    "resume-live": "resume while the run goes on",
}
"""Scenarios of ``vercel.mjs``, and their rows in the matrix."""

_BY_DATA = (
    "yes; asked in a `data-tool-approval` part, answered by `sendMessage(undefined, {body: {approvals}})`"
)
_AFTER_ERROR = "the response ends with an error; resuming shows the answer without what was withdrawn"


def label(client: str) -> str:
    return f"ai {package_versions()[client]}"


def parts_of(message: dict[str, Any]) -> list[tuple[Any, ...]]:
    """A client's parts in the form of `expected`."""
    out: list[tuple[Any, ...]] = []
    for part in message["parts"]:
        kind = part["type"]
        if kind in ("text", "reasoning"):
            out.append((kind, part["text"]))
        elif "toolCallId" in part:
            name = part["toolName"] if kind == "dynamic-tool" else kind.removeprefix("tool-")
            head = ("tool", part["toolCallId"], name, part["state"])
            if part["state"] == "output-available":
                out.append((*head, part["input"], part["output"]))
            elif part["state"] == "output-denied":
                out.append((*head, part["input"]))
            else:
                out.append(head)
    return out


async def state_of(server: Backend, chat_id: str) -> RunState:
    """The fold of the newest run of a chat."""
    rows = await server.chat.history(chat_id)
    assert rows[-1].run_id is not None
    return fold(await server.chat.whole_log(rows[-1].run_id))


class Judge:
    """Looks at what came of each scenario; `cell` says what the matrix has to say."""

    def __init__(self, server: Backend, client: str, results: dict[str, Any]) -> None:
        self.server = server
        self.client = client
        self.results = results
        self.major = int(package_versions()[client].partition(".")[0])

    async def cell(self, name: str) -> str:
        result = self.results[name]
        assert "failed" not in result, result["failed"]
        if name in ("refused", "resume-nothing"):
            return getattr(self, "_" + name.replace("-", "_"))(result)
        state = await state_of(self.server, result["id"])
        assert result["message"]["role"] == "assistant", result
        assert parts_of(result["message"]) == expected(state, f"v{self.major}")
        assert result["message"]["id"] == state.message_id
        assert result["message"]["metadata"]["runId"] == state.run_id
        assert result["message"]["metadata"]["status"] == state.status
        check = getattr(self, "_" + name.replace("-", "_"), None)
        if check is not None:
            return check(result, state)
        assert (result["status"], result["errors"], state.status) == ("ready", [], "success")
        assert all(part.get("state") != "streaming" for part in result["message"]["parts"])
        return YES

    def _refused(self, result: dict[str, Any]) -> str:
        assert result["status"] == "error"
        assert result["requests"] == [{"method": "POST", "status": 422}]
        assert "invalid_input" in result["errors"][0]
        return YES

    def _resume_nothing(self, result: dict[str, Any]) -> str:
        assert (result["status"], result["roles"]) == ("ready", [])
        assert result["requests"] == [{"method": "GET", "status": 204}]
        return YES

    def _approved(self, result: dict[str, Any], state: RunState) -> str:
        assert (result["status"], state.status) == ("ready", "success")
        assert [request["method"] for request in result["requests"]] == ["POST", "POST"]
        return _BY_DATA if self.major == 5 else YES

    def _approval_yes(self, result: dict[str, Any], state: RunState) -> str:
        assert state.calls[0].output == "deleted a.txt"
        return self._approved(result, state)

    def _approval_no(self, result: dict[str, Any], state: RunState) -> str:
        assert (state.calls[0].outcome, state.calls[0].error) == ("denied", "Rather not.")
        return self._approved(result, state)

    def _approval_edited(self, result: dict[str, Any], state: RunState) -> str:
        assert state.calls[0].output == "deleted b.txt"
        said = self._approved(result, state)
        return (
            said if self.major == 5 else "yes; the arguments come beside the messages (`{body: {approvals}}`)"
        )

    def _progress(self, result: dict[str, Any], state: RunState) -> str:
        assert result["seen"] == {"message": "step 2", "fraction": 1}
        assert state.calls[0].output == "done"
        return YES

    def _tool_drop(self, result: dict[str, Any], state: RunState) -> str:
        assert (result["status"], state.calls[0].output) == ("ready", "done")
        assert result["alone"] == (self.client == "ai-5.0.60")
        assert len(result["requests"]) == (2 if result["alone"] else 1)
        return "yes; with `sendAutomaticallyWhen` the page goes on by itself" if result["alone"] else YES

    def _cancel(self, result: dict[str, Any], state: RunState) -> str:
        assert (result["stopped"], state.status, result["status"]) == (202, "cancelled", "ready")
        return YES

    def _cancel_tool(self, result: dict[str, Any], state: RunState) -> str:
        assert (result["stopped"], state.status, result["status"]) == (202, "cancelled", "ready")
        assert (result["errors"], len(result["requests"])) == ([], 2)
        (call,) = [part for part in result["message"]["parts"] if "toolCallId" in part]
        (opened,) = [part for part in result["opened"]["parts"] if "toolCallId" in part]
        assert call["errorText"] == opened["errorText"]
        return YES

    def _failed(self, result: dict[str, Any], state: RunState) -> str:
        assert (result["status"], state.status) == ("error", "error")
        assert state.error is not None
        assert state.error.message in result["errors"][0]
        return YES

    _error_before = _error_mid = _failed

    def _second_turn(self, result: dict[str, Any], state: RunState) -> str:
        assert result["roles"] == ["user", "assistant"] * 2
        return YES

    def _open_again(self, result: dict[str, Any], state: RunState) -> str:
        assert (result["status"], result["roles"]) == ("ready", ["user", "assistant"] * 2)
        assert result["opened"]["id"] == result["was"]["id"]
        assert parts_of(result["opened"]) == parts_of(result["was"])
        return YES

    def _open_resume(self, result: dict[str, Any], state: RunState) -> str:
        over = result["over"]
        assert result["counts"] == [2, 1]
        assert (over["roles"], over["requests"]) == (["user", "assistant"], [])
        assert (result["status"], result["errors"], result["roles"]) == ("ready", [], ["user", "assistant"])
        had, always = (parts_of(page["message"]) for page in (over, result["always"]))
        if self.client == "ai-5.0.60":
            assert [part for part in always if part[0] == "text"] == [p for p in had if p[0] == "text"] * 2
            return "yes; resuming all the same puts the replay of an answer that has just ended behind it"
        assert always == had
        return YES

    def _open_all(self, result: dict[str, Any], state: RunState) -> str:
        assert len(result["compared"]) == 6
        for each in result["compared"]:
            assert parts_of(each["opened"]) == parts_of(each["was"])
        return YES

    def _regenerate(self, result: dict[str, Any], state: RunState) -> str:
        assert result["roles"] == ["user", "assistant"]
        assert result["before"] != result["message"]["id"]
        assert state.parent_run_id is not None
        return YES

    def _edit(self, result: dict[str, Any], state: RunState) -> str:
        assert result["roles"] == ["user", "assistant"]
        last = self.server.model.requests[-1].messages
        assert [message.role for message in last].count("user") == 1
        return YES

    def _retraction(self, result: dict[str, Any], state: RunState) -> str:
        assert state.steps[0].resets == 1
        if self.major == 7:
            assert result["first"]["errors"] == []
            return YES
        assert "withdrawn" in result["first"]["errors"][0]
        return _AFTER_ERROR

    def _retraction_drop(self, result: dict[str, Any], state: RunState) -> str:
        assert (state.steps[0].resets, result["status"], result["gets"]) == (1, "ready", 2)
        assert len(result["errors"]) == (0 if self.major == 7 else 1)
        return YES if self.major == 7 else _AFTER_ERROR


@pytest.mark.anyio
@pytest.mark.timeout(300)
@pytest.mark.parametrize("client", CLIENTS)
async def test_what_use_chat_shows_is_what_the_log_says(client: str) -> None:
    async with backend() as server:
        results = await run_node(
            "vercel.mjs",
            url=server.url,
            package=client,
            version=package_versions()[client],
            run="a",
            scenarios=list(NAMES),
        )
        judge = Judge(server, client, results)
        cells, wrong = {}, {}
        for name, row in NAMES.items():
            try:
                cells[row] = await judge.cell(name)
            except AssertionError as error:
                wrong[name] = f"{error}\n{results[name]}"
    assert not wrong, "\n\n".join(f"{name}: {error}" for name, error in wrong.items())
    tell("vercel", label(client), cells)


@pytest.mark.anyio
@pytest.mark.timeout(120)
async def test_a_page_with_resuming_fetch_does_not_notice_a_server_that_sends_it_away() -> None:
    async with backend(HTTPOptions(stream_lifetime=0.2)) as server:
        results = await run_node(
            "vercel.mjs",
            url=server.url,
            package="ai-6",
            version=package_versions()["ai-6"],
            run="c",
            scenarios=["sent-away"],
        )
        assert await Judge(server, "ai-6", results).cell("sent-away") == YES
    assert len(results["sent-away"]["requests"]) > 1


@pytest.mark.anyio
@pytest.mark.timeout(120)
@pytest.mark.parametrize("client", ["ai-5.0.60", "ai-7"])
async def test_a_run_that_fails_behind_its_tools_leaves_the_page_in_error(client: str) -> None:
    # The first of these asks on after an error, as long as complete tools come last.
    async with backend(options=RunOptions(limits=Limits(max_steps=1))) as server:
        results = await run_node(
            "vercel.mjs",
            url=server.url,
            package=client,
            version=package_versions()[client],
            run="d",
            scenarios=["parallel"],
        )
        result = results["parallel"]
        state = await state_of(server, result["id"])
    assert (result["status"], state.status) == ("error", "error")
    assert len(result["requests"]) == (2 if client == "ai-5.0.60" else 1)
    assert state.error is not None
    assert all(state.error.message in error for error in result["errors"])
    assert parts_of(result["message"]) == expected(state, "v5")


_FORGETS = "yes, where the page does not keep the half of the answer; else the replay stands behind it"
_TWICE = "the replay stands behind the half; make the chat anew, as after a reload, or use `resumingFetch`"


async def _boundaries(client: str, first: int, every: int) -> None:
    version = package_versions()[client]
    v5 = version.startswith("5.")
    async with backend() as server:
        results = await run_node(
            "vercel.mjs",
            url=server.url,
            package=client,
            version=version,
            run="b",
            boundaries=True,
            first=first,
            every=every,
            keep_partial=not v5,
        )
        for result in results:
            where = (result["mode"], result["frames"])
            state = await state_of(server, result["id"])
            assert (result["status"], result["roles"]) == ("ready", ["user", "assistant"]), (where, result)
            wanted = expected(state, f"v{version[0]}")
            resumed = any(request["method"] == "GET" for request in result["requests"])
            if result["mode"] == "same tab" and v5 and resumed:
                assert parts_of(result["message"])[-1] == wanted[-1], (where, result)
            else:
                assert parts_of(result["message"]) == wanted, (where, result)
            assert result["message"]["id"] == state.message_id
            if result["mode"] == "resumingFetch":
                assert result["errors"] == [], (where, result)
    modes = ["same tab", "reload", "resumingFetch"]
    assert [result["mode"] for result in results if result["whole"]] == modes
    tell(
        "vercel",
        label(client),
        {
            "cut off at any frame, same tab": _TWICE if v5 else YES,
            "cut off at any frame, reload": _FORGETS if v5 else YES,
            "cut off at any frame, `resumingFetch`": YES,
        },
    )


@pytest.mark.anyio
@pytest.mark.timeout(300)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_that_was_cut_off_here_and_there_ends_with_the_whole_message(client: str) -> None:
    await _boundaries(client, first=5, every=12)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(600)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_that_was_cut_off_at_any_frame_ends_with_the_whole_message(client: str) -> None:
    await _boundaries(client, first=0, every=1)
