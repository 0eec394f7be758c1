"""The suite as pytest tests; everything else in this package works without pytest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from streamchat.testing.buffers import BEHAVIOURS, BufferSuite

__all__ = ["conformance_test"]


def conformance_test(make_suite: Callable[[], BufferSuite]) -> Callable[[str], Awaitable[None]]:
    """Return a test that is run once for each behaviour, with anyio's pytest plugin.

    ::

        test_my_buffer = conformance_test(lambda: BufferSuite(open_my_buffer))
    """

    @pytest.mark.anyio
    @pytest.mark.parametrize("behaviour", BEHAVIOURS)
    async def test_buffer(behaviour: str) -> None:
        await make_suite().run(behaviour)

    return test_buffer
