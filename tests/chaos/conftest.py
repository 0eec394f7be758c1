"""The stores that the attacks are tried on (``--backends=sqlite,postgres``), and the processes they share."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.chaos.scene import Cast
from tests.chaos.stores import DURABLE, FIXTURES, SQL_SERVERS, Store, store_at

pytest_warning = "ignore:SQLite .* has the WAL-reset bug"

F = TypeVar("F", bound=Callable[..., Any])
MakeStore = Callable[[Path], Store]

_KINDS = {"kind": DURABLE, "server_kind": tuple(FIXTURES), "sql_kind": SQL_SERVERS}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/chaos" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings(pytest_warning))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = metafunc.config.getoption("--backends")
    for fixture, kinds in _KINDS.items():
        if fixture in metafunc.fixturenames:
            some = [kind for kind in kinds if chosen is None or kind in chosen.split(",")]
            brief = getattr(metafunc.function, "brief", kinds)
            slow = {kind: () if kind in brief else pytest.mark.slow for kind in some}
            metafunc.parametrize(fixture, [pytest.param(kind, marks=slow[kind]) for kind in some])


def brief_on(*kinds: str) -> Callable[[F], F]:
    """Have a test run on these stores in the short form, and on the others in the long one only."""

    def mark(test: F) -> F:
        test.brief = kinds  # type: ignore[attr-defined]
        return test

    return mark


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """One loop for a module, so that its tests can share processes."""
    return "asyncio", {"debug": True}


@pytest.fixture(scope="module")
async def cast(anyio_backend: object) -> AsyncIterator[Cast]:
    """The provider, the zygote and the client, started once for a module."""
    async with Cast.gathered() as cast:
        yield cast


@pytest.fixture
def make_store(request: pytest.FixtureRequest) -> MakeStore:
    """Return a function that makes fresh stores of the test's kind, each with a folder of its own."""
    kind = next(request.getfixturevalue(name) for name in _KINDS if name in request.fixturenames)
    fixture = FIXTURES.get(kind)
    url = "" if fixture is None else str(request.getfixturevalue(fixture))

    def make(folder: Path) -> Store:
        os.makedirs(folder, exist_ok=True)
        return store_at(kind, url, folder)

    return make
