"""The fixtures that give a test the URL of a real server, one of a kind for the whole test run.

A URL in ``STREAMCHAT_TEST_{POSTGRES,MYSQL,REDIS,VALKEY}_URL`` is taken as it is; otherwise a server is
started. Where there is none, the test is skipped with the reason, or fails under
``STREAMCHAT_REQUIRE_SERVICES=1``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.services.mariadb import MariaDBServer
from tests.services.postgres import PostgresServer
from tests.services.process import Server, Unavailable
from tests.services.redis import RedisServer
from tests.services.sharing import Shared

__all__ = ["mariadb_url", "postgres_url", "redis_url", "require", "valkey_url"]


def require(unavailable: Unavailable) -> None:
    """Skip the test that needs what is not there, or fail it where everything must be there."""
    if os.environ.get("STREAMCHAT_REQUIRE_SERVICES", "0") not in ("", "0"):
        pytest.fail(f"{unavailable} (STREAMCHAT_REQUIRE_SERVICES is set)", pytrace=False)
    pytest.skip(f"NOT TESTED, {unavailable}")


def _url(
    factory: pytest.TempPathFactory, name: str, make: Callable[[], Server], variables: list[str]
) -> Iterator[str]:
    for variable in variables:
        if given := os.environ.get(variable):
            yield given
            return
    # Workers of pytest-xdist have a folder each, in one that they share.
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    try:
        shared = Shared(folder, name, make)
    except Unavailable as unavailable:
        require(unavailable)
        raise
    try:
        yield shared.url
    finally:
        shared.close()


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``postgresql://…`` of a database that all tests share, with the right to make others."""
    yield from _url(
        tmp_path_factory,
        "postgres",
        lambda: PostgresServer(fsync=False, tcp=True),
        ["STREAMCHAT_TEST_POSTGRES_URL"],
    )


@pytest.fixture(scope="session")
def mariadb_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``mysql://…`` of a database that all tests share, with the right to make others."""
    yield from _url(
        tmp_path_factory, "mariadb", lambda: MariaDBServer(fsync=False), ["STREAMCHAT_TEST_MYSQL_URL"]
    )


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``redis://…`` of a Valkey that all tests share."""
    yield from _url(
        tmp_path_factory,
        "valkey",
        lambda: RedisServer(flavour="valkey", fsync=None),
        ["STREAMCHAT_TEST_VALKEY_URL", "STREAMCHAT_TEST_REDIS_URL"],
    )


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``redis://…`` of a Redis that all tests share; the oldest that is supported, where its wheel is."""
    yield from _url(
        tmp_path_factory,
        "redis",
        lambda: RedisServer(flavour="redis", fsync=None),
        ["STREAMCHAT_TEST_REDIS_URL"],
    )
