from __future__ import annotations

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """`orchestrate()` is promised on both loops."""
    return request.param, {"debug": True} if request.param == "asyncio" else {}
