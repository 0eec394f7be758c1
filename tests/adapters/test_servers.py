"""Every adapter under every server: the rows of the matrix (`tests.adapters.servers.rows`)."""

from __future__ import annotations

import asyncio

import pytest

from tests.adapters.servers.rows import LAST, LONG, QUICK, Row
from tests.adapters.servers.running import COMBINATIONS, Served, served

# (eleven servers start beside each other, on a machine that may have two cores)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

matrix = pytest.mark.parametrize(("adapter", "server"), COMBINATIONS)


async def _hold(rows: dict[str, Row], on: Served) -> None:
    """Run rows side by side; all that fail are told."""
    results = await asyncio.gather(*(row(on) for row in rows.values()), return_exceptions=True)
    failed = [result for result in results if isinstance(result, Exception)]
    for name, result in zip(rows, results, strict=True):
        if isinstance(result, Exception):
            result.add_note(f"row: {name}")
    if failed:
        raise ExceptionGroup(f"{on.adapter} under {on.server}", failed)


@matrix
async def test_an_adapter_under_a_server(adapter: str, server: str) -> None:
    async with served(adapter, server) as on:
        await _hold(QUICK, on)
        await _hold(LAST, on)


@pytest.mark.slow
@matrix
async def test_a_slow_reader_of_an_adapter_under_a_server(adapter: str, server: str) -> None:
    async with served(adapter, server) as on:
        await _hold(LONG, on)
