"""The harness itself: packages are found, the server is reached, and the matrix is whole."""

from __future__ import annotations

import pytest

from tests.npm.backend import backend
from tests.npm.matrix import read_table, tables
from tests.npm.support import HERE, package_versions, run_node


@pytest.mark.anyio
@pytest.mark.timeout(400)
async def test_every_package_is_found_and_the_server_answers() -> None:
    async with backend() as server:
        got = await run_node("smoke.mjs", url=server.url, packages=sorted(package_versions()))
    assert got == {"missing": [], "status": 200}


def test_the_lockfiles_name_no_place_to_download_from() -> None:
    files = list(HERE.rglob("package-lock.json"))
    assert len(files) > 1
    assert not [file for file in files if '"resolved"' in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("table", tables())
def test_no_cell_of_the_matrix_is_empty(table: str) -> None:
    clients, rows = read_table(table)
    assert all(row.get(client, "–") != "–" for row in rows.values() for client in clients)
