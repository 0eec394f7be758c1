"""Buffers under test: which ones (``--backends=memory,sqlite``), their clock, and how to open them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.buffers.backends import BACKENDS, Backend, MariaDB, PostgreSQL
from tests.buffers.django_backend import DjangoMariaDB, DjangoPostgreSQL, DjangoSQLite
from tests.buffers.redis_backend import Redis, Valkey

BACKENDS |= {"valkey": Valkey, "redis": Redis}
BACKENDS |= {
    "django-sqlite": DjangoSQLite,
    "django-postgresql": DjangoPostgreSQL,
    "django-mariadb": DjangoMariaDB,
}

# The SQLite below may have the bug that it is warned of; test_sqlite.py checks the warning itself.
pytest_warning = "ignore:SQLite .* has the WAL-reset bug"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/buffers" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings(pytest_warning))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        given = metafunc.config.getoption("--backends")
        chosen = list(BACKENDS) if given is None else [name for name in given.split(",") if name in BACKENDS]
        # What differs between servers under Django is little, and the other buffers are there every time.
        slow = {"django-postgresql", "django-mariadb"}
        kinds = [
            pytest.param(BACKENDS[name], marks=[pytest.mark.slow] if name in slow else []) for name in chosen
        ]
        metafunc.parametrize("backend", kinds, ids=chosen, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    kind: type[Backend] = request.param
    server = request.getfixturevalue(kind.service) if kind.service is not None else ""
    return kind(tmp_path_factory.mktemp("buffer"), server)


@pytest.fixture
async def postgres(tmp_path: Path, postgres_url: str) -> PostgreSQL:
    """The tables of this process, empty."""
    store = PostgreSQL(tmp_path, postgres_url)
    await store.begin()
    return store


@pytest.fixture
async def mariadb(tmp_path: Path, mariadb_url: str) -> MariaDB:
    """The tables of this process, empty."""
    store = MariaDB(tmp_path, mariadb_url)
    await store.begin()
    return store
