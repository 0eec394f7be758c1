"""What SQLite alone can do wrong: files that are none, full disks, versions with bugs, threads that stay."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from streamchat.buffers.base import Input, NewEvent
from streamchat.buffers.sql import SQLEventBuffer, SQLiteVersionWarning
from streamchat.buffers.sql.sqlite import warn_of_version
from streamchat.buffers.transactional.jobs import Job
from streamchat.errors import BufferError, BufferUnavailable, InvalidInput, StreamChatError
from streamchat.principal import Principal
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending, message

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def opened(url: str | sa.Engine, **options: Any) -> AsyncIterator[Any]:
    buffer = await SQLEventBuffer(url, **options).open()
    try:
        yield Bench(buffer, None, None, 30.0)
    finally:
        await buffer.close()


def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'chat.db'}"


# ------------------------------------------------------------------------------------------------- versions


@pytest.mark.parametrize("version", [(3, 7, 0), (3, 40, 1), (3, 51, 2)])
def test_versions_with_the_wal_reset_bug_are_warned_of(version: tuple[int, int, int]) -> None:
    with pytest.warns(SQLiteVersionWarning, match=r"SQLite 3\.\d+\.\d+ has the WAL-reset bug.*3\.51\.3"):
        warn_of_version(version)


@pytest.mark.parametrize("version", [(3, 6, 23), (3, 51, 3), (3, 53, 1)])
def test_other_versions_are_not(version: tuple[int, int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_version(version)


async def test_opening_warns_where_it_must(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with opened(file_url(tmp_path)):
            pass
    affected = (3, 7, 0) <= sqlite3.sqlite_version_info[:3] <= (3, 51, 2)
    assert [one.category for one in caught] == [SQLiteVersionWarning] * affected


# ------------------------------------------------------------------------------------- what cannot be opened


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("chat.db", r"sqlite:///chat\.db"),
        ("", "no database URL"),
        ("mssql://user:secret@host/db", "works on SQLite"),
        ("sqlite:////no/such/directory/chat.db", "does not exist: create it"),
    ],
)
async def test_a_url_of_no_use_is_refused_with_a_remedy(url: str, said: str) -> None:
    with pytest.raises(StreamChatError, match=said) as caught:
        await SQLEventBuffer(url).open()
    assert "secret" not in str(caught.value)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_text("Dear diary, " * 1000)
    for _ in range(2):
        with pytest.raises(BufferUnavailable, match=r"chat\.db.*not an SQLite database: name another file"):
            await SQLEventBuffer(file_url(tmp_path)).open()
    assert (tmp_path / "chat.db").read_text().startswith("Dear diary")


async def test_a_directory_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(BufferUnavailable, match="cannot be opened"):
        await SQLEventBuffer(f"sqlite:///{tmp_path}").open()


async def test_a_database_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "chat.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(BufferUnavailable, match="cannot be written: check the permissions"):
        await SQLEventBuffer(f"sqlite:///file:{tmp_path / 'chat.db'}?mode=ro&uri=true").open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o500)
    with pytest.raises(BufferUnavailable, match="cannot be opened"):
        await SQLEventBuffer(file_url(tmp_path)).open()


@pytest.mark.parametrize(("version", "said"), [(0, "streamchat migrate"), (99, "upgrade streamchat")])
async def test_tables_of_another_version_are_refused(tmp_path: Path, version: int, said: str) -> None:
    async with opened(file_url(tmp_path)):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as raw:
        raw.execute("UPDATE streamchat_schema SET version = ?", (version,))
        raw.commit()
    with pytest.raises(BufferUnavailable, match=f"version {version}.*{said}"):
        await SQLEventBuffer(file_url(tmp_path)).open()


async def test_engines_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(InvalidInput, match="StaticPool"):
        await SQLEventBuffer(sa.create_engine("sqlite://")).open()
    with pytest.raises(InvalidInput, match="prefix"):
        SQLEventBuffer("sqlite://", prefix="Robert'); DROP")


async def test_a_file_that_is_no_database_is_told_of_without_a_word_of_changes(tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(BufferUnavailable, match=r"not a database; .*name another file$"):
        await SQLEventBuffer(file_url(tmp_path)).open()


def test_without_sqlalchemy_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from streamchat.errors import MissingDependency\n"
        "try:\n    import streamchat.buffers.sql\n"
        "except MissingDependency as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'streamchat[sqlite]'" in done.stdout


# ---------------------------------------------------------------------------------------- opening and closing


async def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    async with opened(file_url(tmp_path)) as bench:
        lease = await bench.held(principal=Principal("ann", "acme", {"a": [1]}), title="Hi")
        lease = (await bench.buffer.append(lease, deltas("a"))).lease
        before = await bench.buffer.read(lease.run_id), await bench.buffer.get(lease.run_id)
    async with opened(file_url(tmp_path)) as bench:
        assert (await bench.buffer.read(lease.run_id), await bench.buffer.get(lease.run_id)) == before
        await bench.buffer.append(lease, ending(), then="over")


async def test_one_buffer_can_be_closed_and_opened_again(tmp_path: Path) -> None:
    buffer = SQLEventBuffer(file_url(tmp_path))
    bench = Bench(buffer, None, None, 30.0)
    for call in (bench.created, lambda: buffer.get("x"), lambda: buffer.read("x")):
        with pytest.raises(BufferUnavailable, match="not open"):
            await call()
    for _ in range(3):
        assert await buffer.open() is buffer
        await asyncio.gather(buffer.open(), buffer.open())
        run = await bench.created()
        follower = await buffer.follow(run.run_id)
        await buffer.close()
        await buffer.close()
        assert not await follower.wait(10)
        with pytest.raises(BufferUnavailable):
            await buffer.get(run.run_id)


async def test_no_thread_and_no_connection_is_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with opened(file_url(tmp_path)) as bench:
        run = await bench.created()
        follower = await bench.buffer.follow(run.run_id)
        await bench.buffer.read(run.run_id)
        assert len(set(threading.enumerate()) - before) == 4
        await follower.close()
    assert set(threading.enumerate()) == before
    # The last connection takes the log with it.
    assert os.listdir(tmp_path) == ["chat.db"]
    (tmp_path / "chat.db").write_text("no database " * 1000)
    with pytest.raises(BufferUnavailable):
        await SQLEventBuffer(file_url(tmp_path)).open()
    assert set(threading.enumerate()) == before


async def test_an_opening_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    for steps in range(6):
        task = asyncio.ensure_future(SQLEventBuffer(file_url(tmp_path)).open())
        for _ in range(steps):
            await asyncio.sleep(0)
        if not task.cancel() or await _settled(task):
            await task.result().close()
    assert set(threading.enumerate()) == before


async def _settled(task: asyncio.Future[Any]) -> bool:
    await asyncio.wait([task])
    return not task.cancelled()


async def test_an_engine_of_the_application_is_used_and_left_alone(tmp_path: Path) -> None:
    engine = sa.create_engine(file_url(tmp_path))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (name TEXT)")
        connection.exec_driver_sql("INSERT INTO users VALUES ('ann')")
    async with opened(engine, prefix="chat_") as bench:
        await bench.created()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT name FROM users").scalar() == "ann"
        assert connection.exec_driver_sql("SELECT count(*) FROM chat_runs").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA query_only").scalar() == 0
    engine.dispose()


async def test_prefixes_keep_applications_apart(tmp_path: Path) -> None:
    async with (
        opened(file_url(tmp_path), prefix="one_") as one,
        opened(file_url(tmp_path), prefix="two_") as two,
    ):
        run = await one.created(run_id="run-1")
        await two.created(run_id="run-1", conversation_id=run.conversation_id)
        assert await one.buffer.delete(run_id="run-1") == 1
        await two.buffer.get("run-1")


@pytest.mark.parametrize("given", ["sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite://", "engine"])
async def test_a_database_in_memory_works(given: str) -> None:
    engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    async with opened(engine if given == "engine" else given) as bench:
        lease = await bench.held()
        await bench.buffer.append(lease, deltas("a"))
        assert await bench.texts(lease.run_id) == ["a"]
    engine.dispose()


# ------------------------------------------------------------------------------------------------- trouble


async def allow_pages(buffer: SQLEventBuffer, more: int) -> None:
    def body(tx: Any) -> None:
        used = tx.connection.exec_driver_sql("PRAGMA page_count").scalar()
        tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {used + more}")

    await buffer._write(Job("", body))


async def test_a_full_disk_is_told_loses_nothing_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    async with opened(file_url(tmp_path)) as bench:
        lease = await bench.held()
        run = await bench.buffer.get(lease.run_id)
        await allow_pages(bench.buffer, 100)
        count, batch = 0, deltas("x" * 20_000, "y" * 20_000)
        told = ""
        while not told:
            record = message(bench.new_run(conversation_id=run.conversation_id))
            try:
                lease = (await bench.buffer.append(lease, batch, messages=[record])).lease
                count += 1
            except BufferUnavailable as error:
                told = str(error)
        assert re.search(r"chat\.db.*full: make room.*Nothing of this change", told)
        assert 5 < count < 30
        with pytest.raises(BufferUnavailable, match="full"):
            await bench.buffer.append(lease, batch)
        assert len(await bench.texts(lease.run_id)) == 2 * count
        assert len(await bench.buffer.messages(run.conversation_id)) == count
        assert (await bench.buffer.get(lease.run_id)).head_seq == lease.head_seq
        await allow_pages(bench.buffer, 1000)
        lease = (await bench.buffer.append(lease, batch)).lease
        await bench.buffer.append(lease, ending(), then="over")
        assert len(await bench.texts(lease.run_id)) == 2 * count + 2


async def test_a_full_disk_lets_small_batches_of_others_through(tmp_path: Path) -> None:
    async with opened(file_url(tmp_path)) as bench:
        leases = [await bench.held() for _ in range(4)]
        await allow_pages(bench.buffer, 30)
        huge = deltas("x" * 200_000)
        results = await asyncio.gather(
            *(bench.buffer.append(lease, huge if i == 1 else deltas("a")) for i, lease in enumerate(leases)),
            return_exceptions=True,
        )
        assert [isinstance(result, BufferUnavailable) for result in results] == [False, True, False, False]


async def test_readers_do_not_wait_for_whoever_writes(tmp_path: Path) -> None:
    async with opened(file_url(tmp_path)) as bench:
        lease = await bench.held()
        other = sqlite3.connect(tmp_path / "chat.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        append = asyncio.ensure_future(bench.buffer.append(lease, deltas("a")))
        for _ in range(20):
            assert (await bench.buffer.read(lease.run_id)).last_seq == 1
            await bench.buffer.get(lease.run_id)
        assert not append.done()
        other.execute("ROLLBACK")
        other.close()
        await append


async def test_a_writer_that_never_ends_is_told_of(tmp_path: Path) -> None:
    async with opened(file_url(tmp_path), busy_seconds=0.05) as bench:
        lease = await bench.held()
        with contextlib.closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(BufferUnavailable, match="another process has been writing"):
                await bench.buffer.append(lease, deltas("a"))
            with pytest.raises(BufferUnavailable, match="another process"):
                await SQLEventBuffer(file_url(tmp_path), busy_seconds=0.05).open()
        await bench.buffer.append(lease, deltas("a"))


async def test_types_that_are_no_text_are_refused(tmp_path: Path) -> None:
    async with opened(file_url(tmp_path)) as bench:
        lease = await bench.held()
        with pytest.raises(InvalidInput, match=r"not text that can be stored \(it holds U\+D800\)"):
            await bench.buffer.append(lease, [NewEvent("\ud800", b"{}")])


# -------------------------------------------------------------------------------------------------- codecs


class Flip:
    """A codec that anybody can break; enough to see that nothing is stored in the clear."""

    def __init__(self, key_id: str, key: int) -> None:
        self.key_id = key_id
        self.key = key

    def encode(self, plain: bytes) -> bytes:
        return bytes(byte ^ self.key for byte in plain)

    def decode(self, coded: bytes) -> bytes:
        if self.key == 0:
            raise ValueError("no key")
        return self.encode(coded)


async def test_all_payload_goes_through_the_codec_and_keys_can_change(tmp_path: Path) -> None:
    secret = "the-secret"
    old, new = Flip("2024", 0x55), Flip("2025", 0xAA)
    run_ids = []
    for codec in (old, new):
        async with opened(file_url(tmp_path), codec=codec, older_codecs=[old]) as bench:
            who = Principal("ann", None, {"token": secret})
            run = bench.new_run(principal=who, request=b"\x00" + secret.encode(), title=secret)
            await bench.buffer.create(run, [message(run, content=secret.encode(), private=secret.encode())])
            lease = await bench.claimed(run.run_id)
            hidden = NewEvent("custom", b'{"x":"the-secret"}', secret.encode())
            await bench.buffer.append(lease, [*deltas(secret), hidden])
            assert (await bench.buffer.append(lease, [*deltas(secret), hidden])).recovered
            await bench.buffer.post(run.run_id, Input("approval", "call-1", {"why": secret}))
            run_ids.append(run.run_id)
    assert secret.encode() not in (tmp_path / "chat.db").read_bytes()
    async with opened(file_url(tmp_path), codec=new, older_codecs=[old]) as bench:
        for run_id in run_ids:
            record = await bench.buffer.get(run_id)
            assert record.principal is not None
            assert (record.request, record.principal.claims) == (b"\x00the-secret", {"token": secret})
            assert await bench.texts(run_id) == [secret]
            assert (await bench.buffer.read(run_id, 2)).events[0].private == secret.encode()
            (posted,) = await bench.buffer.inputs(run_id)
            assert posted.body == {"why": secret}
            (stored,) = await bench.buffer.messages(record.conversation_id)
            assert (stored.content, stored.private) == (secret.encode(), secret.encode())
            assert (await bench.buffer.conversation(record.conversation_id)).title == secret
    async with opened(file_url(tmp_path), codec=Flip("2025", 0)) as bench:
        with pytest.raises(BufferError, match="'2024': add its codec"):
            await bench.buffer.read(run_ids[0])
        with pytest.raises(BufferError, match="'2025' could not read"):
            await bench.buffer.read(run_ids[1])


def test_a_key_id_that_cannot_be_stored_is_refused() -> None:
    for key_id in ("", "ä", "a\0b"):
        with pytest.raises(InvalidInput, match="key id"):
            SQLEventBuffer("sqlite://", codec=Flip(key_id, 1))
