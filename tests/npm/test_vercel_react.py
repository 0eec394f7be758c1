"""`useChat` in React, on a page: what the hook and the document show is what the log says."""

from __future__ import annotations

import pytest

from tests.npm.backend import backend
from tests.npm.matrix import YES, tell
from tests.npm.support import package_versions, run_node
from tests.npm.test_vercel import NAMES, parts_of, state_of
from tests.wire.vercel_rules import expected


@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_what_use_chat_shows_in_react_is_what_the_log_says() -> None:
    versions = package_versions("react")
    async with backend() as server:
        results = await run_node("react.mjs", packages_of="react", url=server.url, version="7")
        cells = {}
        for name, result in results.items():
            state = await state_of(server, result["id"])
            assert (result["status"], result["errors"], state.status) == ("ready", [], "success")
            assert parts_of(result["message"]) == expected(state, "v7")
            assert result["shown"] == state.text
            assert result["roles"] == ["user", "assistant"]
            cells[NAMES[name]] = YES
    tell("vercel-react", f"@ai-sdk/react {versions['@ai-sdk/react']}", cells)
