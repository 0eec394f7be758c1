"""CopilotKit's core and runtime from npm, over ``POST /ag-ui``: a page has what the run's log says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.npm.backend import HELLO, backend
from tests.npm.matrix import YES, tell
from tests.npm.support import package_versions, run_node
from tests.npm.test_ag_ui import ROWS, said, same

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(600)]

_SCENARIOS = (
    "text",
    "reasoning",
    "parallel",
    "toolError",
    "progress",
    "declaredTool",
    "errorMid",
    "reset",
    "approvalYes",
    "approvalNo",
    "approvalEdited",
    "pageTool",
    "twoTurns",
    "cancel",
    "errorBefore",
)
_CUT = {
    "sameTab": "cut off between page and runtime, same tab, `connectAgent`",
    "serverCut": "cut off between runtime and server, same tab, asked again",
    "reloaded": "reload, messages lost, from its runtime",
}


async def test_a_page_over_copilotkits_runtime_has_what_the_log_says() -> None:
    async with backend() as server:
        got: dict[str, Any] = await run_node(
            "copilotkit.mjs",
            packages_of="copilotkit",
            url=server.url,
            scenarios=[*_SCENARIOS, *_CUT, "pageToolError", "refused"],
        )
        for name in (*_SCENARIOS, *_CUT, "pageToolError"):
            await same(server, got[name])
    assert said(got["text"]) == said(got["reset"]) == HELLO
    assert got["declaredTool"]["handled"] == [{"x": 1}]
    assert said(got["declaredTool"], "tool") == "painted"
    assert said(got["approvalYes"], "tool") == "deleted a.txt"
    assert said(got["approvalNo"], "tool").endswith("Not that one.")
    assert said(got["approvalEdited"], "tool") == "deleted b.txt"
    assert got["pageTool"]["located"] == [{"accuracy": 5}] * 2  # of both scenarios
    assert said(got["pageTool"], "tool") == '{"latitude":1.5}'
    assert "Error: no leave to look" in said(got["pageToolError"], "tool")
    assert said(got["pageToolError"]).endswith("That is it.")
    for name in ("errorBefore", "errorMid"):
        assert got[name]["error"]["metadata"]["streamchat"]["phase"] == "model"
    for name in ("sameTab", "serverCut"):
        assert HELLO.startswith(got[name]["half"])
        assert got[name]["half"] not in ("", HELLO)
        assert got[name]["failures"]
        assert said(got[name]) == HELLO
    # The runtime makes an event of the response, with its text.
    assert got["refused"]["error"]["code"] == "INCOMPLETE_STREAM"
    assert "HTTP 422" in got["refused"]["error"]["message"]
    cells = dict.fromkeys([ROWS[name] for name in _SCENARIOS], YES)
    cells[ROWS["cancel"]] = "yes, as a normal end"
    cells[ROWS["busy"]] = "yes, as a `RUN_ERROR` of the runtime's, with the response's text"
    cells |= dict.fromkeys(_CUT.values(), YES)
    cells["client-side tool that raises"] = "yes, once the page asks again"
    tell("copilotkit", f"CopilotKit {package_versions('copilotkit')['@copilotkit/runtime']}", cells)


_EVERYWHERE = {"sameTabEverywhere": "sameTab", "serverCutEverywhere": "serverCut"}


async def test_a_page_that_is_cut_off_after_any_frame_has_what_the_log_says_when_it_comes_back() -> None:
    cut = ["reasoning", "parallel", "error-mid", "reset:*"]
    async with backend() as server:
        got: dict[str, Any] = await run_node(
            "copilotkit.mjs", packages_of="copilotkit", url=server.url, scenarios=[*_EVERYWHERE], cut=cut
        )
        for name in _EVERYWHERE:
            assert "failed" not in got[name], got[name]
            assert len(got[name]) > 40
            for end in got[name]:
                await same(server, end)
        for end in got["serverCutEverywhere"]:
            assert (end["error"] is None) == (end["scenario"] != "error-mid"), end


async def test_a_page_does_not_carry_out_a_call_that_it_had_seen_before_it_was_cut_off() -> None:
    async with backend() as server:
        got: dict[str, Any] = await run_node(
            "copilotkit.mjs",
            packages_of="copilotkit",
            url=server.url,
            scenarios=["serverCutEverywhere"],
            cut=["client-tool"],
        )
        ends = got["serverCutEverywhere"]
        for end in ends:
            await same(server, end)
    results = [said(end, "tool") for end in ends]
    assert 0 < results.count('{"latitude":1.5}') < len(ends)
    # The runtime may have made an error of it, which the model is told.
    assert all(result in ("", '{"latitude":1.5}') or "network error" in result for result in results)
    version = package_versions("copilotkit")["@copilotkit/runtime"]
    cell = "not carried out where it had been shown: it fails, or runs out after `client_timeout`"
    tell(
        "copilotkit", f"CopilotKit {version}", {"cut off in a call of a client-side tool, asked again": cell}
    )
