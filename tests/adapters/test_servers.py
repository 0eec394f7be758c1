"""Every adapter under every server: the rows of the matrix (`tests.adapters.servers.rows`)."""

from __future__ import annotations

import asyncio
import re
import signal

import pytest

from tests.adapters.servers.rows import LAST, LONG, QUICK, Row, is_left_for_others
from tests.adapters.servers.running import COMBINATIONS, ROOT, SERVERS, Served, served
from tests.adapters.serving import read_until

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


@pytest.mark.parametrize(
    ("adapter", "server"),
    [
        pytest.param(adapter, server, marks=() if server == "uvicorn" else pytest.mark.slow)
        for adapter, server in COMBINATIONS
    ],
)
async def test_an_adapter_under_a_server(adapter: str, server: str) -> None:
    async with served(adapter, server) as on:
        await _hold(QUICK, on)
        await _hold(LAST, on)


@pytest.mark.slow
@matrix
async def test_a_slow_reader_of_an_adapter_under_a_server(adapter: str, server: str) -> None:
    async with served(adapter, server) as on:
        await _hold(LONG, on)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "flags", "handed_over"),
    [
        ("uvicorn", "--timeout-graceful-shutdown 1", True),
        ("hypercorn", "--workers 1 --graceful-timeout 1", True),
        ("granian", "--workers-kill-timeout 1", False),
    ],
)
async def test_the_flags_alone_end_a_server_with_open_streams(
    server: str, flags: str, handed_over: bool
) -> None:
    command = " ".join([re.sub(r" --(workers|timeout|graceful).*", "", SERVERS[server]), flags])
    async with served("asgi", server, command, MATRIX_NO_DRAIN="yes") as on:
        url = await on.start("stall flags")
        async with on.request("GET", url) as connection:
            await read_until(connection.blocks(), b"text_delta")
            on.process.send_signal(signal.SIGTERM)
            await connection.ended()
        await on.process.wait()
        assert await is_left_for_others(on, url.split("/")[-2]) == handed_over


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "more"),
    [
        ("uvicorn", "--http h11 --loop asyncio"),
        ("hypercorn", "--worker-class uvloop"),
        ("granian", "--loop asyncio"),
        ("granian", "--loop uvloop --runtime-mode st"),
    ],
)
async def test_an_adapter_under_other_builds_of_a_server(server: str, more: str) -> None:
    async with served("asgi", server, f"{SERVERS[server]} {more}") as on:
        await _hold({**QUICK, **LONG}, on)
        await _hold(LAST, on)


@pytest.mark.parametrize("server", SERVERS)
def test_the_page_about_shutting_down_has_the_flags_that_are_tried(server: str) -> None:
    page = (ROOT / "docs" / "how-to" / "shut-down.md").read_text(encoding="utf-8")
    flags = re.findall(r"--(?:workers|timeout|graceful)\S* \S+", SERVERS[server])
    assert bool(flags) != (server == "daphne")
    for flag in flags:
        assert re.search(f"`{server} app:app [^`]*{flag}[ `]", page), flag
