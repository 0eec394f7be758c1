"""``streamchat migrate`` and ``streamchat trim``: what they do, and one sentence for what cannot be done."""

from __future__ import annotations

import asyncio
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from streamchat.buffers import buffer_for
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.cli import main
from streamchat.errors import InvalidInput
from streamchat.testing.buffers import Bench
from streamchat.testing.buffers.suite import deltas, ending
from tests.buffers.schema_v1 import SchemaV1

# The commands themselves tell of the SQLite version in a line of their own.
pytestmark = pytest.mark.filterwarnings("ignore:SQLite .* has the WAL-reset bug")

DAY = 86_400_000


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'chat.db'}"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which a command ends."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if "warning" not in line]
    assert line.startswith("streamchat: ")
    assert "secret" not in err
    return line


# ------------------------------------------------------------------------------------------------- migrate


def test_migrate_makes_the_tables_and_check_says_whether_it_is_needed(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "--db", url, "--check"]) == 1
    assert re.search(r"streamchat_\* are missing.*run `streamchat migrate`", capsys.readouterr().out)
    assert main(["migrate", "--db", url]) == 0
    assert "were made" in capsys.readouterr().out
    assert main(["migrate", "--db", url, "--check"]) == 0
    assert main(["migrate", "--db", url]) == 0
    assert capsys.readouterr().out.count("are up to date") == 2


def test_migrate_says_which_steps_it_took(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_version_1(url)
    assert main(["migrate", "--db", url, "--check"]) == 1
    assert "have version 1" in capsys.readouterr().out
    assert main(["migrate", "--db", url]) == 0
    assert re.search(r"from version 1 to \d+\n  2: notes", capsys.readouterr().out)


def make_version_1(url: str) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    with engine.begin() as connection:
        SchemaV1("streamchat_").metadata.create_all(connection)
        connection.execute(sa.text("INSERT INTO streamchat_schema VALUES (1)"))
    engine.dispose()


def test_migrate_prints_the_statements_for_others_to_run(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "--db", url, "--prefix", "my_", "--sql"]) == 0
    assert "CREATE TABLE my_runs" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "extra"),
    [
        ("sqlite:///chat.db", "sqlite"),
        ("postgresql://user:secret@host/database", "postgres"),
        ("postgresql+asyncpg://host/database", "postgres"),
        ("mysql://host/database", "mysql"),
        ("mariadb://host/database", "mysql"),
    ],
)
@pytest.mark.parametrize("command", ["migrate", "trim --older-than 1d"])
def test_without_sqlalchemy_the_extra_of_that_database_is_named(url: str, extra: str, command: str) -> None:
    code = "import sys; sys.modules['sqlalchemy'] = None; from streamchat.cli import main; sys.exit(main())"
    arguments = [sys.executable, "-c", code, *command.split(), "--db", url]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"pip install 'streamchat[{extra}]'" in done.stderr
    assert "secret" not in done.stderr


# ---------------------------------------------------------------------------------------------------- trim


def test_trim_makes_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for url in (f"sqlite:///{tmp_path}/none.db", f"sqlite:///file:{tmp_path}/none.db?uri=true"):
        told = refused(capsys, "trim", "--db", url, "--older-than", "30d")
        assert f"there is no SQLite database '{tmp_path}/none.db'" in told
        assert "streamchat migrate" in told
        assert list(tmp_path.iterdir()) == []


async def three_old_runs_and_a_new_one(url: str, prefix: str | None = None) -> None:
    now = time.time_ns() // 1_000_000
    for age, count in ((40 * DAY, 3), (DAY, 1)):
        buffer = buffer_for(url, prefix=prefix, create_tables=True, clock=lambda at=now - age: at)
        await buffer.open()
        bench = Bench(buffer, None, None, 30.0)
        for _ in range(count):
            lease = (await buffer.append(await bench.held(), deltas("abc"))).lease
            await buffer.append(lease, ending(), then="over")
        await buffer.close()


def test_trim_drops_what_is_old_in_batches_and_says_how_much(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(three_old_runs_and_a_new_one(url))
    trim = ["trim", "--db", url, "--older-than", "30d", "--batch", "2"]
    assert main(trim) == 0
    assert re.fullmatch(r"trimmed 3 runs that ended before \d{4}-\d\d-\d\d .*\n", capsys.readouterr().out)
    assert main(trim) == 0
    assert capsys.readouterr().out.startswith("trimmed 0 runs")
    assert main([*trim[:3], "--older-than", "12h"]) == 0
    assert capsys.readouterr().out.startswith("trimmed 1 run that")


def test_trim_works_on_redis_too(valkey_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = f"trim-{secrets.token_hex(4)}"
    asyncio.run(three_old_runs_and_a_new_one(valkey_url, prefix))
    assert main(["trim", "--db", valkey_url, "--prefix", prefix, "--older-than", "4w"]) == 0
    assert capsys.readouterr().out.startswith("trimmed 3 runs")


@pytest.mark.parametrize("age", ["30", "d", "-1d", "30 days", "1y", ""])
def test_an_age_that_is_none_is_refused(age: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["trim", "--db", url, f"--older-than={age}"])
    assert f"{age!r} is no age" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- what cannot be done


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("chat.db", "chat.db"),
        ("mongodb://user:secret@host/db", "mongodb"),
        ("postgresql://user:secret@127.0.0.1:1/db", "cannot be reached .*check that the server runs"),
        ("mysql://user:secret@127.0.0.1:1/db", "cannot be reached .*check that the server runs"),
        ("mysql://user:secret@127.0.0.1", "mysql://user:password@host/database"),
        ("mysql+pymysql://user:secret@127.0.0.1/db", "works with asyncmy"),
        ("postgresql://user:secret@host:port/db", "is no database URL"),
        ("sqlite:////no/such/directory/chat.db", "does not exist: create it first"),
    ],
)
@pytest.mark.parametrize(
    "command", [["migrate"], ["trim", "--older-than", "30d"]], ids=lambda words: words[0]
)
def test_a_url_of_no_use_is_told_in_a_sentence(
    command: list[str], url: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(said, refused(capsys, *command, "--db", url))


def test_missing_tables_are_told_in_a_sentence_and_not_made(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert "run `streamchat migrate` first" in refused(capsys, "trim", "--db", url, "--older-than", "1d")


def test_older_tables_are_told_in_a_sentence(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_version_1(url)
    said = refused(capsys, "trim", "--db", url, "--older-than", "1d")
    assert re.search(r"have version 1, .* run `streamchat migrate` first", said)


@pytest.mark.parametrize("server", ["postgres_url", "mariadb_url"])
@pytest.mark.parametrize(
    ("user", "database", "said"),
    [(":secret", "", "password"), ("", "/nowhere_at_all", "database|Unknown database")],
    ids=["password", "database"],
)
def test_wrong_credentials_are_told_in_a_sentence(
    server: str,
    user: str,
    database: str,
    said: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = urlsplit(request.getfixturevalue(server))
    name, at, host = parts.netloc.rpartition("@")
    wrong = parts._replace(netloc=(name.partition(":")[0] + user if user else name) + at + host)
    if database:
        wrong = wrong._replace(path=database)
    for command in (["migrate"], ["trim", "--older-than", "1d"]):
        assert re.search(said, refused(capsys, *command, "--db", urlunsplit(wrong)))


def test_the_command_itself_ends_with_2_and_without_a_traceback(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "streamchat.cli", "migrate", "--db", "sqlite:///no/such/chat.db"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert len(run.stderr.splitlines()) == 1


# -------------------------------------------------------------------------------------------------- by URL


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory:", "MemoryEventBuffer"),
        ("memory", "MemoryEventBuffer"),
        ("sqlite:///chat.db", "SQLEventBuffer"),
        ("postgresql://host/db", "SQLEventBuffer"),
        ("postgresql+asyncpg://host/db", "SQLEventBuffer"),
        ("mysql://host/db", "SQLEventBuffer"),
        ("mariadb+asyncmy://host/db", "SQLEventBuffer"),
        ("redis://host", "RedisEventBuffer"),
        ("rediss://host/1", "RedisEventBuffer"),
        ("valkey://host", "RedisEventBuffer"),
    ],
)
def test_a_url_names_its_buffer(url: str, kind: str) -> None:
    assert type(buffer_for(url)).__name__ == kind


@pytest.mark.parametrize("url", ["", "chat.db", "kafka://user:secret@host", "C:\\chat.db"])
def test_a_url_that_names_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="names no buffer: it must be like memory:") as caught:
        buffer_for(url)
    assert "secret" not in str(caught.value)


def test_options_reach_the_buffer() -> None:
    buffer = buffer_for("sqlite://", prefix="my_", readers=1)
    assert isinstance(buffer, SQLEventBuffer)
    with pytest.raises(InvalidInput, match="prefix"):
        buffer_for("sqlite://", prefix="My-")
