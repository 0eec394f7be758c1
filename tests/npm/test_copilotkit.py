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
    "twoTurns",
    "cancel",
)


async def test_a_page_over_copilotkits_runtime_has_what_the_log_says() -> None:
    async with backend() as server:
        got: dict[str, Any] = await run_node(
            "copilotkit.mjs",
            packages_of="copilotkit",
            url=server.url,
            scenarios=[*_SCENARIOS, "reloaded"],
        )
        for name in (*_SCENARIOS, "reloaded"):
            await same(server, got[name])
    assert said(got["text"]) == said(got["reset"]) == HELLO
    assert got["declaredTool"]["handled"] == [{"x": 1}]
    assert said(got["declaredTool"], "tool") == "painted"
    assert said(got["approvalYes"], "tool") == "deleted a.txt"
    assert said(got["approvalNo"], "tool").endswith("Not that one.")
    assert got["errorMid"]["error"] is not None
    cells = dict.fromkeys([ROWS[name] for name in _SCENARIOS], YES)
    cells[ROWS["cancel"]] = "yes, as a normal end"
    cells["reload, messages lost, from its runtime"] = YES
    tell("copilotkit", f"CopilotKit {package_versions('copilotkit')['@copilotkit/runtime']}", cells)
