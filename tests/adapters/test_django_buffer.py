"""What Django has around `DjangoEventBuffer`: migrations, the admin, commands, checks, connections.

Its promises as a buffer are tested with all others, in tests/buffers.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from streamchat.errors import BufferUnavailable, InvalidInput
from streamchat.principal import Principal
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending, message
from tests.adapters.django_project.ready import add_database, make_ready, migrate
from tests.buffers.django_backend import DjangoMariaDB, DjangoPostgreSQL, OnServer
from tests.project.support import ROOT
from tests.services.databases import execute

pytest.importorskip("django")
R = TypeVar("R")
STORED = {"CHAT": "tests.adapters.django_project.stored.chat"}
SECRET = "The answer is not for admins."


@pytest.fixture(scope="module")
def database() -> Iterator[Path]:
    """The project's default database, with all of its tables."""
    path = make_ready()
    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", verbosity=0)
    yield path
    connections.close_all()


def in_a_buffer(work: Callable[[Any], Coroutine[Any, Any, R]], *given: Any, **options: Any) -> R:
    """Do something with an open buffer in a loop of its own."""
    from streamchat.adapters.django import DjangoEventBuffer

    async def do() -> R:
        buffer = await DjangoEventBuffer(*given, **options).open()
        try:
            return await work(buffer)
        finally:
            await buffer.close()

    return asyncio.run(do())


async def conversed(buffer: Any) -> str:
    """Have a run begin, say something in several batches, and end; returns its id."""
    bench = Bench(buffer, None, None, 30.0)
    run = await bench.created(principal=Principal("ann", "acme"))
    lease = await bench.claimed(run.run_id)
    lease = (await buffer.append(lease, deltas("The ", "answer "))).lease
    said = message(run, content=f'[{{"type":"text","text":"{SECRET}"}}]'.encode())
    await buffer.append(lease, ending(), messages=[said], then="over")
    return run.run_id


def command(*arguments: str) -> str:
    from django.core.management import call_command

    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


# ---------------------------------------------------------------------------------------------- migrations


def test_the_migrations_are_those_of_the_models(database: Path) -> None:
    assert command("makemigrations", "--check", "--dry-run") == "No changes detected\n"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("using", 5),
        ("readers", 0),
        ("readers", "2"),
        ("busy_seconds", -1),
        ("busy_seconds", None),
        ("codec", "aes"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_by_name(database: Path, field: str, value: Any) -> None:
    from streamchat.adapters.django import DjangoEventBuffer

    options: dict[str, Any] = {field: value}
    with pytest.raises(InvalidInput, match=field) as refusal:
        DjangoEventBuffer(**options)
    assert refusal.value.field == field


def test_tables_that_are_missing_are_told_with_the_remedy(tmp_path: Path) -> None:
    add_database("bare", ENGINE="django.db.backends.sqlite3", NAME=tmp_path / "bare.db")
    for given, said in (("bare", r"manage\.py migrate"), ("unknown", "'unknown' is no entry of DATABASES")):
        with pytest.raises(BufferUnavailable, match=said):
            in_a_buffer(conversed, given)
    add_database("nowhere", ENGINE="django.db.backends.sqlite3", NAME=":memory:")
    with pytest.raises(BufferUnavailable, match="in memory"):
        in_a_buffer(conversed, "nowhere")
    assert [thread.name for thread in threading.enumerate() if "streamchat-django" in thread.name] == []


def test_a_database_of_its_own_is_migrated_and_used_by_name(database: Path, tmp_path: Path) -> None:
    from django.test import override_settings

    from streamchat.adapters.django import DjangoEventBuffer

    add_database("runs", ENGINE="django.db.backends.sqlite3", NAME=tmp_path / "runs.db")
    migrate("runs")
    with override_settings(STREAMCHAT={**STORED, "DATABASE": "runs"}):
        assert DjangoEventBuffer().using == "runs"
        run_id = in_a_buffer(conversed)
    with sqlite3.connect(tmp_path / "runs.db") as looked:
        assert looked.execute("SELECT run_id FROM streamchat_run").fetchall() == [(run_id,)]
    looked.close()


# --------------------------------------------------------------------------------------------- connections


def test_a_views_transaction_neither_holds_what_is_written_nor_takes_it_back(database: Path) -> None:
    from django.db import transaction

    from streamchat.adapters.django.models import Run

    atomic: Any = transaction.atomic
    with atomic():
        assert Run.objects.count() >= 0  # it sees this moment from now on
        run_id = in_a_buffer(conversed)
        transaction.set_rollback(True)
    assert Run.objects.get(run_id=run_id).status == "success"


def test_connections_are_the_buffers_own_few_and_end_with_it(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db.backends.sqlite3.base import DatabaseWrapper

    opened: list[str] = []
    closed: list[str] = []
    connect, close = DatabaseWrapper.get_new_connection, DatabaseWrapper._close

    def connecting(self: Any, parameters: Any) -> Any:
        opened.append(threading.current_thread().name)
        return connect(self, parameters)

    def closing(self: Any) -> None:
        if self.connection is not None:
            closed.append(threading.current_thread().name)
        close(self)

    monkeypatch.setattr(DatabaseWrapper, "get_new_connection", connecting)
    monkeypatch.setattr(DatabaseWrapper, "_close", closing)

    async def busy(buffer: Any) -> None:
        runs = [await conversed(buffer) for _ in range(3)]
        await asyncio.gather(*(buffer.read(run_id) for run_id in runs * 5))

    in_a_buffer(busy, readers=2)
    # CONN_MAX_AGE has no say: the threads connect once, and disconnect when the buffer is closed.
    assert sorted(opened) == sorted(closed)
    assert len(opened) == len(set(opened)) <= 3
    assert all(name.startswith("streamchat-django") for name in opened)


def test_with_debug_django_keeps_no_record_of_what_was_written(database: Path) -> None:
    from django.db import connections
    from django.test import override_settings

    kept: list[int] = []

    async def looked(buffer: Any) -> None:
        await conversed(buffer)
        await buffer._read(lambda tx: None)
        kept.append(await buffer._read(lambda tx: len(connections["default"].queries_log)))

    with override_settings(DEBUG=True):
        in_a_buffer(looked, readers=1)
    assert kept[0] <= 2


def test_another_process_that_writes_for_too_long_is_told(database: Path) -> None:
    blocking = sqlite3.connect(database, isolation_level=None)
    try:
        blocking.execute("BEGIN IMMEDIATE")
        with pytest.raises(BufferUnavailable, match="locked"):
            in_a_buffer(conversed, busy_seconds=0.05)
    finally:
        blocking.close()


@pytest.fixture(params=[DjangoPostgreSQL, DjangoMariaDB], ids=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> OnServer:
    """A database of the project's on a server."""
    assert request.param.service is not None
    kind: type[OnServer] = request.param
    return kind(tmp_path, request.getfixturevalue(request.param.service))


@pytest.mark.anyio
async def test_connections_that_a_server_has_ended_are_noticed_by_nobody(server: OnServer) -> None:
    async with server.open() as buffer:
        run_id = await conversed(buffer)
        await buffer.read(run_id)
        postgres = isinstance(server, DjangoPostgreSQL)
        name = server.prefix.rpartition("/")[2]
        if postgres:
            ended = await execute(
                server.prefix,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{name}' AND pid <> pg_backend_pid()",
            )
        else:
            ended = await execute(
                server.prefix,
                "SELECT id FROM information_schema.processlist "
                f"WHERE db = '{name}' AND id <> connection_id()",
            )
            for (number,) in ended:
                await execute(server.prefix, f"KILL {number}")
        assert len(ended) >= 2
        for _ in range(3):  # each of the reading threads
            assert (await buffer.get(run_id)).status == "success"
        await conversed(buffer)


@pytest.mark.anyio
async def test_a_row_that_somebody_has_locked_holds_up_its_own_run_alone(server: OnServer) -> None:
    async with server.open() as buffer:
        bench = Bench(buffer, None, None, 60.0)
        stuck, free = await bench.held(), await bench.held()
        locked, release = asyncio.Event(), asyncio.Event()
        statements = ("BEGIN", f"SELECT 1 FROM streamchat_run WHERE run_id = '{stuck.run_id}' FOR UPDATE")
        holding = asyncio.create_task(hold(server.prefix, statements, locked, release))
        try:
            await locked.wait()
            waiting = asyncio.create_task(buffer.append(stuck, deltas("late")))
            # Its turn comes, with or behind the other's.
            free = (await buffer.append(free, deltas("at once"))).lease
            with pytest.raises(BufferUnavailable):
                await waiting
        finally:
            release.set()
            await holding
        await buffer.append(stuck, deltas("late"))
        assert await bench.texts(stuck.run_id) == ["late"]
        assert await bench.texts(free.run_id) == ["at once"]


async def hold(url: str, statements: tuple[str, ...], begun: asyncio.Event, release: asyncio.Event) -> None:
    """Run statements on a connection, and keep it until ``release``."""
    if url.startswith("postgresql"):
        import asyncpg  # type: ignore[import-untyped]

        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        begun.set()
        await release.wait()
        await connection.close()
        return
    import asyncmy

    parts: Any = urlsplit(url)
    mysql = await asyncmy.connect(
        host=parts.hostname, port=parts.port, user=parts.username, password=parts.password, db=parts.path[1:]
    )
    async with mysql.cursor() as cursor:
        for statement in statements:
            await cursor.execute(statement)
    begun.set()
    await release.wait()
    await mysql.ensure_closed()


# ----------------------------------------------------------------------------------------------- the admin


@pytest.fixture
def admin(database: Path) -> Any:
    """A client that is signed in as a superuser."""
    from django.contrib.auth.models import User
    from django.test import Client

    user, _ = User.objects.get_or_create(username="root", is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(user)
    return client


def test_the_admin_shows_who_and_when_and_hides_what_was_said(admin: Any) -> None:
    from django.test import override_settings

    from streamchat.adapters.django.models import Run

    run_id = in_a_buffer(conversed)
    row = Run.objects.get(run_id=run_id)
    pages = [
        "/admin/streamchat/run/",
        f"/admin/streamchat/run/?q={run_id}",
        f"/admin/streamchat/run/{row.number}/change/",
        f"/admin/streamchat/conversation/?q={row.conversation_id}",
        f"/admin/streamchat/conversation/{row.conversation_id}/change/",
    ]
    with override_settings(STREAMCHAT=STORED):
        for page in pages:
            shown = admin.get(page)
            assert shown.status_code == 200, page
            text = shown.content.decode()
            assert run_id in text or row.conversation_id in text, page
            assert "ann" in text, page
            assert SECRET not in text, page
            assert "The answer" not in text, page
        assert "finalized" in admin.get(pages[2]).content.decode()
        assert "hidden (" in admin.get(pages[4]).content.decode()
    with override_settings(STREAMCHAT={**STORED, "ADMIN_SHOWS_CONTENT": True}):
        assert "answer " in admin.get(pages[2]).content.decode()
        assert SECRET in admin.get(pages[4]).content.decode()


def test_nobody_changes_anything_in_the_admin(admin: Any) -> None:
    from streamchat.adapters.django.models import Run

    run_id = in_a_buffer(conversed)
    row = Run.objects.get(run_id=run_id)
    for page in (
        "/admin/streamchat/run/add/",
        f"/admin/streamchat/run/{row.number}/delete/",
        "/admin/streamchat/conversation/add/",
        f"/admin/streamchat/conversation/{row.conversation_id}/delete/",
    ):
        assert admin.get(page).status_code == 403, page
        assert admin.post(page, {"post": "yes"}).status_code == 403, page
    assert admin.post(f"/admin/streamchat/run/{row.number}/change/", {"status": "queued"}).status_code == 403
    action = {"action": "delete_selected", "_selected_action": [row.number], "post": "yes"}
    admin.post("/admin/streamchat/run/", action)
    assert Run.objects.get(run_id=run_id).status == "success"


def test_staff_without_the_permission_sees_nothing(database: Path) -> None:
    from django.contrib.auth.models import Permission, User
    from django.test import Client

    user, _ = User.objects.get_or_create(username="staff", is_staff=True)
    client = Client()
    client.force_login(user)
    assert client.get("/admin/streamchat/run/").status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="view_run"))
    assert client.get("/admin/streamchat/run/").status_code == 200
    assert client.get("/admin/streamchat/conversation/").status_code == 403


# ------------------------------------------------------------------------------------------------ commands


def test_trimming_drops_the_events_of_old_runs_but_for_the_last_batch(database: Path) -> None:
    from django.core.management.base import CommandError
    from django.test import override_settings

    from streamchat.adapters.django.models import Event, Run

    run_id = in_a_buffer(conversed)
    with override_settings(STREAMCHAT=STORED):
        assert "trimmed 0 runs" in command("streamchat_trim", "--older-than", "1h")
        with pytest.raises(CommandError, match="30d"):
            command("streamchat_trim", "--older-than", "long")
        assert Event.objects.filter(run_id=run_id).count() == 5
        Run.objects.filter(run_id=run_id).update(ended_at=1)
        assert command("streamchat_trim", "--older-than", "1h") == "trimmed 1 run\n"
    left = Event.objects.filter(run_id=run_id).order_by("seq").values_list("type", flat=True)
    assert list(left) == ["message_completed", "finalized"]


def test_the_worker_does_what_others_have_started_and_ends_at_sigterm(database: Path) -> None:
    environment = os.environ | {"DJANGO_TEST_DB": str(database), "PYTHONASYNCIODEBUG": ""}
    environment |= {"PYTHONPATH": str(ROOT), "DJANGO_STORED": "1"}
    code = (
        "from django.core.management import execute_from_command_line as run;"
        "run(['manage.py', 'streamchat_worker', '--look-every', '0.05'])"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert worker.stdout is not None
        assert "is at work" in worker.stdout.readline()

        async def ask() -> str:
            from tests.adapters.django_project.stored import make_serving

            async with make_serving() as chat:
                reply = await chat.reply(None, "Hi", Principal("ann"))
                return str(reply.text)

        assert asyncio.run(ask()) == "From the worker."
        worker.send_signal(signal.SIGTERM)
        out, errors = worker.communicate(timeout=30)
        assert worker.returncode == 0, errors
        assert out.endswith("streamchat worker: ended\n")
    finally:
        if worker.poll() is None:
            worker.kill()
        worker.communicate()


# -------------------------------------------------------------------------------------------------- checks


def warned() -> set[str]:
    from django.core.checks import run_checks

    return {found.id for found in run_checks() if found.id.startswith("streamchat.")}


def test_the_system_checks_know_the_database_and_the_token(database: Path, tmp_path: Path) -> None:
    from django.conf import settings
    from django.test import override_settings

    with override_settings(STREAMCHAT={**STORED, "DATABASE": "none"}):
        assert "streamchat.E002" in warned()
    with override_settings(STREAMCHAT=STORED):
        assert warned() == {"streamchat.W003"}, "SQLite without IMMEDIATE"
        csrf = "django.middleware.csrf.CsrfViewMiddleware"
        with override_settings(MIDDLEWARE=[name for name in settings.MIDDLEWARE if name != csrf]):
            assert "streamchat.W004" in warned()
    with override_settings(STREAMCHAT={"CHAT": "tests.adapters.django_project.stored.no_secret"}):
        assert warned() == {"streamchat.W002"}, "migrate must work where there is no key"
    assert warned() == set(), "the project of the other tests keeps its runs in memory"
