"""The servers that other tests stand on: they come up empty, keep to loopback, never outlive a test run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.project.support import ROOT
from tests.services.databases import database, execute
from tests.services.fixtures import require
from tests.services.mariadb import start_mariadb
from tests.services.postgres import start_postgres
from tests.services.process import Server, ServerFailed, Unavailable
from tests.services.redis import RedisServer, binary, start_redis
from tests.services.sharing import Shared

STARTS: dict[str, Callable[[], Server]] = {
    "postgres": lambda: start_postgres(fsync=False),
    "mariadb": lambda: start_mariadb(fsync=False),
    "valkey": lambda: start_redis(flavour="valkey"),
    "redis": lambda: start_redis(flavour="redis"),
}


@pytest.fixture(params=list(STARTS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    try:
        started = STARTS[request.param]()
    except Unavailable as unavailable:
        require(unavailable)
        raise
    with started:
        yield started


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_comes_back_on_its_address_after_a_stop_and_after_a_kill(server: Server) -> None:
    url, first = server.url, server.pid
    server.kill()
    assert not server.running
    assert not _alive(first)
    server.start()
    second = server.pid
    server.stop()
    assert not _alive(second)
    server.start()
    assert server.url == url
    assert server.ready()


def test_a_paused_server_can_be_copied_put_back_and_closed(server: Server) -> None:
    copy = server.snapshot()
    server.restore(copy)
    assert server.ready()
    server.pause()
    pid, directory = server.pid, server.directory
    server.close()
    assert not _alive(pid)
    assert not directory.exists()


def test_a_server_listens_on_loopback_only(server: Server) -> None:
    if not Path("/proc/net/tcp").exists():
        pytest.skip("no /proc")
    port = server.url.rpartition("@")[2].partition("/")[0].rpartition(":")[2]
    listening = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A" and int(local.rpartition(":")[2], 16) == int(port):
                listening.add(local.partition(":")[0])
    assert listening == {"0100007F"}


HOLDER = """
import sys, time
from pathlib import Path
from tests.services.redis import RedisServer
from tests.services.sharing import Shared
shared = Shared(Path(sys.argv[1]), "it", lambda: RedisServer(flavour="valkey", fsync=None))
print(shared.url, flush=True)
time.sleep(1000)
"""


def _connects(url: str) -> bool:
    host, _, port = url.rpartition("@")[2].partition("/")[0].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _holder(folder: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_shared_server_lives_until_its_last_holder_is_killed(tmp_path: Path) -> None:
    try:
        mine = Shared(tmp_path, "it", lambda: RedisServer(flavour="valkey", fsync=None))
    except Unavailable as unavailable:
        require(unavailable)
        raise
    first, first_url = _holder(tmp_path)
    second, second_url = _holder(tmp_path)
    try:
        assert first_url == second_url == mine.url
        first.kill()
        first.wait()
        mine.close()  # which started it
        assert _connects(second_url)
    finally:
        first.kill()
        second.kill()
        for process in (first, second):
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    while _connects(second_url):  # the guardian is at it
        pass


def test_a_run_that_is_killed_leaves_no_files(tmp_path: Path) -> None:
    try:
        binary("valkey")
    except Unavailable as unavailable:
        require(unavailable)
    process, _ = _holder(tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    directory = Path(json.loads((tmp_path / "it.json").read_text())["control"]).parent
    assert directory.exists()
    process.kill()
    process.wait()
    while directory.exists():
        pass


def test_a_server_dies_with_its_guardian() -> None:
    try:
        server = start_redis(fsync=None)
    except Unavailable as unavailable:
        require(unavailable)
        raise
    if sys.platform != "linux":
        pytest.skip("only Linux ends a child with its parent")
    stat = Path(f"/proc/{server.pid}/stat").read_text()
    guardian = int(stat.rpartition(")")[2].split()[1])
    os.kill(guardian, signal.SIGKILL)
    while _connects(server.url):
        pass
    assert not server.running
    server.close()


def test_a_server_that_cannot_start_says_why() -> None:
    try:
        with pytest.raises(ServerFailed, match="no-such-option"):
            start_redis(settings={"no-such-option": "1"})
    except Unavailable as unavailable:
        require(unavailable)


def test_a_missing_service_skips_with_its_reason_and_fails_where_all_are_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("STREAMCHAT_REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"NOT TESTED, no Such: install it"):
        require(Unavailable("no Such: install it"))
    monkeypatch.setenv("STREAMCHAT_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match="no Such: install it"):
        require(Unavailable("no Such: install it"))


@pytest.mark.anyio
async def test_databases_are_made_empty_and_removed_on_postgres(postgres_url: str) -> None:
    async with database(postgres_url) as url:
        await execute(url, "CREATE TABLE t (i int)", "INSERT INTO t VALUES (1)")
        assert await execute(url, "SELECT i FROM t") == [(1,)]
    assert url not in str(await execute(postgres_url, "SELECT datname FROM pg_database"))


@pytest.mark.anyio
async def test_databases_are_made_empty_and_removed_on_mariadb(mariadb_url: str) -> None:
    async with database(mariadb_url) as url:
        await execute(url, "CREATE TABLE t (i int)", "INSERT INTO t VALUES (1)")
        assert await execute(url, "SELECT i FROM t") == [(1,)]
    name = url.rpartition("/")[2]
    assert (name,) not in await execute(mariadb_url, "SHOW DATABASES")
