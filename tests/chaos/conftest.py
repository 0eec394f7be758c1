"""The stores that the attacks are tried on (``--backends=sqlite,postgres``), and the processes they share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.stores import DURABLE, SERVERS, Store, store_at

pytest_warning = "ignore:SQLite .* has the WAL-reset bug"

MakeStore = Callable[[Path], Store]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/chaos" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings(pytest_warning))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--backends", default=None)
        kinds = [kind for kind in DURABLE if chosen is None or kind in chosen.split(",")]
        metafunc.parametrize("kind", kinds)


@pytest.fixture
def make_store(kind: str, request: pytest.FixtureRequest) -> MakeStore:
    """Return a function that makes fresh stores of the kind, each with a folder of its own."""
    fixture = SERVERS.get(kind)
    url = "" if fixture is None else str(request.getfixturevalue(fixture))

    def make(folder: Path) -> Store:
        os.makedirs(folder, exist_ok=True)
        return store_at(kind, url, folder)

    return make
