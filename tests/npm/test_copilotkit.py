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
            scenarios=[*_SCENARIOS, *_CUT, "refused"],
        )
        for name in (*_SCENARIOS, *_CUT):
            await same(server, got[name])
    assert said(got["text"]) == said(got["reset"]) == HELLO
    assert got["declaredTool"]["handled"] == [{"x": 1}]
    assert said(got["declaredTool"], "tool") == "painted"
    assert said(got["approvalYes"], "tool") == "deleted a.txt"
    assert said(got["approvalNo"], "tool").endswith("Not that one.")
    assert said(got["approvalEdited"], "tool") == "deleted b.txt"
    assert got["pageTool"]["located"] == [{"accuracy": 5}]
    assert said(got["pageTool"], "tool") == '{"latitude":1.5}'
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
    tell("copilotkit", f"CopilotKit {package_versions('copilotkit')['@copilotkit/runtime']}", cells)
