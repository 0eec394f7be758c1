"""What MariaDB alone can do right or wrong: keys that only look alike, rows that others lock, packets that
are too large, sessions that are not set up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import asyncmy
import pytest
from asyncmy.errors import IntegrityError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from streamchat.buffers.base import Input, NewEvent
from streamchat.buffers.notes import NewNote
from streamchat.buffers.sql import SQLEventBuffer, migrate, migrations, mysql
from streamchat.buffers.sql.mysql_errors import fault
from streamchat.buffers.sql.mysql_sql import CLOCK, check_size
from streamchat.errors import BufferUnavailable, IdempotencyConflict, InvalidInput, LeaseLost, StreamChatError
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending, message
from tests.buffers.backends import MariaDB
from tests.buffers.inside import inside
from tests.services.databases import database, execute
from tests.services.fixtures import require
from tests.services.mariadb import MariaDBServer, start_mariadb
from tests.services.process import Unavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(mariadb: MariaDB) -> AsyncIterator[Bench]:
    async with mariadb.bench() as bench:
        yield bench


@pytest.fixture(scope="module")
def private() -> Iterator[MariaDBServer]:
    """A server of our own, to be stopped, which takes small packets only."""
    try:
        server = start_mariadb(fsync=False, settings={"max-allowed-packet": "1M"})
    except Unavailable as unavailable:
        require(unavailable)
        raise
    with server:
        yield server


async def connected(url: str) -> Any:
    parts = urlsplit(url)
    return await asyncmy.connect(
        host=parts.hostname or "",
        port=parts.port or 0,
        user=parts.username,
        password=parts.password or "",
        database=parts.path.lstrip("/"),
        # As our own sessions are: by default a lock takes in the gap beside the row as well.
        init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    )


@contextlib.asynccontextmanager
async def locked(mariadb: MariaDB, *run_ids: str) -> AsyncIterator[None]:
    """Have runs' rows locked by another transaction."""
    other = await connected(mariadb.server)
    try:
        async with other.cursor() as cursor:
            query = f"SELECT 1 FROM {mariadb.prefix}runs FORCE INDEX (run_id) WHERE run_id IN %s FOR UPDATE"
            await cursor.execute(query, (run_ids,))
            assert len(await cursor.fetchall()) == len(run_ids)
        yield
        await other.rollback()
    finally:
        other.close()


# -------------------------------------------------------------------------------------------- keys, payload


async def test_keys_that_only_look_alike_are_different(bench: Bench) -> None:
    run = await bench.created()
    alike = ["call", "Call", "call ", "cäll", "ca\u0308ll"]
    for key in alike:
        assert (await bench.buffer.post(run.run_id, Input("tool_result", key, {"output": key}))).new
    assert [one.key for one in await bench.buffer.inputs(run.run_id)] == alike
    for key in ("key", "Key", "key "):
        assert await bench.created(idempotency_key=key, digest=key)
    with pytest.raises(IdempotencyConflict):
        await bench.created(idempotency_key="key", digest="another")


async def test_payload_of_any_length_and_any_bytes_is_kept_in_every_column(bench: Bench) -> None:
    odd = bytes(range(256)) * 300 + b"\xed\xa0\x80\\'%s"
    text = "ü😀'\\" * 20_000
    run = bench.new_run(request=odd, title=text)
    await bench.buffer.create(run, [message(run, content=odd, private=odd)])
    lease = await bench.claimed(run.run_id)
    lease = (await bench.buffer.append(lease, [NewEvent("custom", odd, odd)])).lease
    await bench.buffer.post(run.run_id, Input("tool_result", "c", {"output": text}))
    await bench.buffer.write_notes([NewNote(run.run_id, "n", odd, 30.0)])  # type: ignore[attr-defined]
    assert (await bench.buffer.get(run.run_id)).request == odd
    assert (await bench.buffer.conversation(run.conversation_id)).title == text
    (first,) = await bench.buffer.messages(run.conversation_id)
    assert (first.content, first.private) == (odd, odd)
    (event,) = (await bench.buffer.read(run.run_id, 1)).events
    assert (event.data, event.private) == (odd, odd)
    (answer,) = await bench.buffer.inputs(run.run_id)
    assert answer.body == {"output": text}
    assert [note.body for note in await bench.buffer.notes(run.run_id)] == [odd]  # type: ignore[attr-defined]


async def test_what_does_not_fit_is_refused_and_never_cut(bench: Bench) -> None:
    lease = await bench.held()
    for kind, said in (("\ud800", "U\\+D800"), ("x" * 192, "too long")):
        with pytest.raises(InvalidInput, match=rf"not text that can be stored \(.*{said}") as refused:
            await bench.buffer.append(lease, [NewEvent(kind, b"secret")])
        assert "INSERT" not in str(refused.value).upper()
    one, other = await bench.held(), await bench.held()
    results = await asyncio.gather(
        bench.buffer.append(one, [*deltas("a"), NewEvent("x" * 192, b"{}")]),
        bench.buffer.append(other, deltas("a")),
        return_exceptions=True,
    )
    assert isinstance(results[0], InvalidInput)
    assert await bench.texts(one.run_id) == []
    assert await bench.texts(other.run_id) == ["a"]


async def test_a_row_that_an_update_leaves_as_it_was_counts_as_found(mariadb: MariaDB) -> None:
    async with mariadb.bench(clock=lambda: 1_700_000_000_000) as bench:
        lease = await bench.held()
        lease = await bench.buffer.renew(await bench.buffer.renew(lease, 30.0), 30.0)
        await bench.buffer.append(lease, ())
        run = await bench.buffer.get(lease.run_id)
        for _ in range(2):
            await bench.buffer.append(
                lease,
                (),
                messages=[message(bench.new_run(), message_id="m-1", conversation_id=run.conversation_id)],
            )
        assert len(await bench.buffer.messages(run.conversation_id)) == 1


# ------------------------------------------------------------------------------------------------ locked rows


async def test_a_run_whose_row_is_locked_holds_up_nobody(mariadb: MariaDB, bench: Bench) -> None:
    buffer = bench.buffer
    stuck, *others = [await bench.held() for _ in range(6)]
    waiting = await bench.created()
    async with locked(mariadb, stuck.run_id):
        batch = asyncio.ensure_future(buffer.append(stuck, deltas("late")))
        answers = [
            asyncio.ensure_future(buffer.post(stuck.run_id, Input("tool_result", str(n)))) for n in range(8)
        ]
        for number in range(5):
            appended = [buffer.append(lease, deltas(str(number))) for lease in others]
            others = [one.lease for one in await asyncio.gather(*appended)]
        claim = await buffer.claim("worker-2", 30.0)
        assert claim is not None
        assert claim.lease.run_id == waiting.run_id
        assert await buffer.claim("worker-2", 30.0) is None
        assert (await buffer.create(bench.new_run())).new
        assert not batch.done()
        assert not any(answer.done() for answer in answers)
    assert (await batch).lease.head_seq == 2
    assert all(posted.new for posted in await asyncio.gather(*answers))
    assert await bench.texts(stuck.run_id) == ["late"]


async def test_sessions_give_their_rows_back_when_their_process_is_frozen(bench: Bench) -> None:
    async with inside(bench)._sessions._engine.connect() as session:
        seconds = (await session.exec_driver_sql("SELECT @@idle_transaction_timeout")).scalar()
    assert seconds == 10


async def test_a_lock_that_is_never_given_back_is_told_of(mariadb: MariaDB) -> None:
    async with mariadb.bench(busy_seconds=0.3) as bench:
        lease = await bench.held()
        async with locked(mariadb, lease.run_id):
            with pytest.raises(BufferUnavailable, match=r"holds a lock.*INNODB STATUS.*Nothing of this"):
                await bench.buffer.append(lease, deltas("a"))
        await bench.buffer.append(lease, deltas("a"))


async def test_a_migration_waits_for_another_one_and_not_for_ever(
    mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_SECONDS", 0)
    async with database(mariadb_url) as url:
        other = await connected(url)
        async with other.cursor() as cursor:
            name = migrations.lock_name(urlsplit(url).path.lstrip("/"), "b_")
            await cursor.execute("SELECT GET_LOCK(%s, 0)", (name,))
        with pytest.raises(BufferUnavailable, match="another process has been changing the tables b_"):
            await migrate(url, prefix="b_")
        assert (await migrate(url, prefix="a_")).pending
        other.close()


# ----------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("zone", ["+00:00", "+05:30", "-09:00"])
async def test_the_databases_time_does_not_depend_on_the_sessions_zone(mariadb_url: str, zone: str) -> None:
    ((stored,),) = await execute(mariadb_url, f"SET time_zone = '{zone}'", f"SELECT {CLOCK}")
    assert abs(stored - time.time() * 1000) < 600_000


async def test_a_workers_clock_does_not_matter(mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time_ns
    async with mariadb.bench() as bench:
        monkeypatch.setattr(time, "time_ns", lambda: real() + 3600 * 10**9)
        lease = await bench.held()
        appended = await bench.buffer.append(lease, deltas("a"))
        lease = await bench.buffer.renew(appended.lease, 30.0)
        for at in (appended.events[0].at, lease.expires_at - 30_000):
            assert abs(at - real() // 10**6) < 600_000


# ------------------------------------------------------------------------------------------------------ news


async def test_another_process_finds_what_is_written(mariadb: MariaDB) -> None:
    async with mariadb.bench() as writing, mariadb.bench() as reading:
        lease = await writing.held()
        follower = await reading.buffer.follow(lease.run_id)
        for number in range(3):
            lease = (await writing.buffer.append(lease, deltas(str(number)))).lease
            while (await reading.buffer.read(lease.run_id)).last_seq < lease.head_seq:
                assert await follower.wait(20.0)
        await follower.close()


# --------------------------------------------------------------------------------------- connections, packets


async def test_a_batch_larger_than_a_packet_says_what_to_raise_and_the_run_goes_on(
    private: MariaDBServer,
) -> None:
    buffer = await SQLEventBuffer(private.url, create_tables=True).open()
    bench = Bench(buffer, None, None, 30.0)
    lease = await bench.held()
    too_large = r"larger than the server takes: raise max_allowed_packet \(now 1048576\)"
    with pytest.raises(BufferUnavailable, match=too_large):
        await buffer.append(lease, [NewEvent("custom", b"x" * 1_100_000)])
    with pytest.raises(BufferUnavailable, match=too_large):
        await buffer.append(lease, [NewEvent("custom", b"'" * 600_000)])  # as it is written, twice as long
    with pytest.raises(BufferUnavailable, match=too_large):
        await buffer.create(bench.new_run(request=b"x" * 1_100_000))
    # A large batch of events that fit is more than one statement.
    done = await buffer.append(lease, [NewEvent("custom", b"x" * 900_000) for _ in range(4)])
    await buffer.append(done.lease, ending(), then="over")
    assert (await buffer.read(lease.run_id)).closed
    await buffer.close()


@pytest.mark.parametrize(("value", "fits"), [(b"x" * 900, True), (b"'" * 900, False), ("ä" * 900, False)])
def test_what_fits_is_judged_by_what_is_written(value: bytes | str, fits: bool) -> None:
    packet = 4096 + 1100
    if fits:
        check_size([1, None, value], packet)
    else:
        with pytest.raises(BufferUnavailable, match="max_allowed_packet"):
            check_size([1, None, value], packet)


async def test_a_restart_of_the_server_is_survived(private: MariaDBServer) -> None:
    buffer = await SQLEventBuffer(private.url, create_tables=True).open()
    bench = Bench(buffer, None, None, 30.0)
    lease = await bench.held()
    for end in (private.stop, private.kill):
        lease = (await buffer.append(lease, deltas("a"))).lease
        await asyncio.to_thread(end)
        with pytest.raises(BufferUnavailable, match=r"cannot be reached|connection was lost"):
            await buffer.append(lease, deltas("b"))
        with pytest.raises(BufferUnavailable, match="cannot be reached"):
            await buffer.read(lease.run_id)
        await asyncio.to_thread(private.start)
        lease = (await buffer.append(lease, deltas("b"))).lease
    assert await bench.texts(lease.run_id) == ["a", "b", "a", "b"]
    await buffer.close()


async def test_connections_that_an_administrator_ends_are_replaced_unnoticed(private: MariaDBServer) -> None:
    buffer = await SQLEventBuffer(private.url, create_tables=True).open()
    bench = Bench(buffer, None, None, 30.0)
    lease = await bench.held()
    for number in range(3):
        lease = (await buffer.append(lease, deltas(str(number)))).lease
        await buffer.read(lease.run_id)
        others = "SELECT id FROM information_schema.processlist WHERE user = 'streamchat'"
        for (connection,) in await execute(private.url, f"{others} AND id <> CONNECTION_ID()"):
            with contextlib.suppress(OperationalError):  # it ended by itself
                await execute(private.url, f"KILL {connection}")
        assert (await buffer.get(lease.run_id)).head_seq == lease.head_seq
    assert await bench.texts(lease.run_id) == ["0", "1", "2"]
    await buffer.close()


async def test_reading_that_is_cancelled_leaves_no_answer_to_the_next(bench: Bench) -> None:
    leases = [await bench.held() for _ in range(4)]
    leases = [
        (await bench.buffer.append(lease, deltas(*"abcdefgh" * (n + 1)))).lease
        for n, lease in enumerate(leases)
    ]
    for number in range(40):
        wanted = leases[number % 4]
        reading = asyncio.ensure_future(bench.buffer.read(wanted.run_id))
        for _ in range(number % 9):
            await asyncio.sleep(0)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        other = leases[(number + 1) % 4]
        assert (await bench.buffer.read(other.run_id)).last_seq == other.head_seq


# ----------------------------------------------------------------------------------------------- bad input


def with_driver(url: str, driver: str) -> str:
    return urlunsplit(urlsplit(url)._replace(scheme=driver))


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+asyncmy", "mariadb+asyncmy"])
async def test_each_way_of_naming_it_works(mariadb: MariaDB, scheme: str) -> None:
    mariadb.server = with_driver(mariadb.server, scheme)
    async with mariadb.bench() as bench:
        await bench.held()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"netloc": "nobody:secret@{host}"}, "the user or the password is wrong"),
        ({"netloc": "streamchat:secret@{host}"}, "the user or the password is wrong"),
        ({"path": "/nowhere_at_all"}, "Unknown database.*create it, or name another one"),
        ({"netloc": "streamchat:secret@127.0.0.1:1"}, "cannot be reached.*check that the server runs"),
        ({"path": ""}, "and a database, as in mysql://"),
        ({"scheme": "mysql+pymysql"}, "works with asyncmy"),
    ],
)
async def test_what_cannot_be_connected_to_says_what_to_do(
    mariadb_url: str, change: dict[str, str], said: str
) -> None:
    parts = urlsplit(mariadb_url)
    host = parts.netloc.rpartition("@")[2]
    url = urlunsplit(parts._replace(**{name: value.format(host=host) for name, value in change.items()}))
    with pytest.raises(StreamChatError, match=said) as caught:
        await SQLEventBuffer(url).open()
    assert "secret" not in str(caught.value)
    assert quote(parts.password or "") not in str(caught.value)


async def test_an_old_server_is_refused(mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql, "_OLDEST_MARIADB", (99, 1))
    with pytest.raises(BufferUnavailable, match=r"MariaDB 1\d\..* is too old, 99\.1 or later is needed"):
        await mariadb.make().open()


async def test_an_engine_of_the_application_is_used_if_its_sessions_are_set_up(mariadb: MariaDB) -> None:
    url = with_driver(mariadb.server, "mysql+asyncmy")
    bare = create_async_engine(url)
    with pytest.raises(InvalidInput, match="CONNECT_ARGS"):
        await SQLEventBuffer(bare, prefix=mariadb.prefix).open()
    await bare.dispose()
    engine = create_async_engine(url, isolation_level="READ COMMITTED", connect_args=mysql.CONNECT_ARGS)
    buffer = await SQLEventBuffer(engine, prefix=mariadb.prefix).open()
    bench = Bench(buffer, None, None, 30.0)
    lease = await bench.held()
    await buffer.append(lease, deltas("a"))
    with pytest.raises(LeaseLost):
        await buffer.append(lease, deltas("b", "c"))
    await buffer.close()
    async with engine.connect() as still_there:
        assert (await still_there.exec_driver_sql("SELECT 1")).scalar() == 1
    await engine.dispose()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OperationalError(1205, "Lock wait timeout exceeded"), "locked"),
        (OperationalError(1213, "Deadlock found"), "locked"),
        (IntegrityError(1062, "Duplicate entry"), "clash"),
        (OperationalError(2013, "Lost connection"), "gone"),
        (InterfaceError(0, "Not connected"), "gone"),
        (ConnectionResetError(), "gone"),
        (OperationalError(1045, "Access denied"), None),
        (ValueError(), None),
    ],
)
def test_what_trying_again_may_help_against_is_known(error: Exception, kind: str | None) -> None:
    assert fault(error) == kind
