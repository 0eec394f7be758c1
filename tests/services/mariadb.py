"""A private MariaDB, from the PATH or Debian's folder for daemons; no wheel carries one."""

from __future__ import annotations

import functools
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.services.process import Server, Unavailable, free_port, lesser_user, new_directory, started

__all__ = ["MariaDBServer", "binaries", "start_mariadb"]

DATABASE = "streamchat"
FOLDERS = ["/usr/sbin", "/usr/libexec", "/usr/local/libexec", "/usr/local/sbin", "/opt/homebrew/bin"]


@functools.cache
def binaries() -> tuple[Path, Path]:
    """``mariadbd`` and ``mariadb-install-db``; raises `Unavailable`."""
    found = [
        shutil.which(name) or shutil.which(name, path=":".join(FOLDERS))
        for name in ("mariadbd", "mariadb-install-db")
    ]
    if found[0] is None or found[1] is None:
        raise Unavailable(
            "no MariaDB: STREAMCHAT_TEST_MYSQL_URL is not set, and there is no `mariadbd` and "
            f"`mariadb-install-db` on the PATH or in {', '.join(FOLDERS)}; install Debian's `mariadb-server`"
        )
    return Path(found[0]), Path(found[1])


class MariaDBServer(Server):
    """User ``streamchat`` with all rights and a password, database ``streamchat``, on 127.0.0.1 only.

    fsync: whether commits reach the disk; without it a commit is much faster, and a kill of its process still
        loses nothing.
    settings: more options, such as ``{"max_connections": "200"}``.
    """

    kind = "mariadb"

    def __init__(
        self,
        directory: Path | None = None,
        *,
        fsync: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.daemon, self.installer = binaries()
        self.fsync = fsync
        self.port = free_port()
        self.password = secrets.token_hex(8)
        self._settings = dict(settings or {})
        super().__init__(directory)
        self.socket_directory = self.directory if directory is None else new_directory("socket")

    @property
    def user(self) -> tuple[int, int] | None:
        return lesser_user()

    @property
    def url(self) -> str:
        return f"mysql://streamchat:{self.password}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def socket(self) -> Path:
        return self.socket_directory / "mariadb"

    def initialise(self) -> None:
        options = ["--no-defaults", f"--datadir={self.data}", "--auth-root-authentication-method=normal"]
        options += ["--skip-test-db", "--skip-name-resolve", *self._storage()]
        self.tool([self.installer, *options])

    def before_start(self) -> None:
        self.own(self.directory if self.socket_directory == self.directory else self.socket_directory)
        init = self.directory / "init.sql"
        account = f"'streamchat'@'127.0.0.1' IDENTIFIED BY '{self.password}'"
        init.write_text(
            f"CREATE DATABASE IF NOT EXISTS {DATABASE};\n"
            f"CREATE USER IF NOT EXISTS {account};\n"
            "GRANT ALL PRIVILEGES ON *.* TO 'streamchat'@'127.0.0.1' WITH GRANT OPTION;\n"
            f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{self.password}';\n"
        )
        self.own(init)

    def _storage(self) -> list[str]:
        # As little to write and to hold as a small server needs; native AIO has a limit per machine.
        return [
            "--innodb-log-file-size=16M",
            "--innodb-buffer-pool-size=32M",
            "--innodb-use-native-aio=OFF",
            *([] if self.fsync else ["--innodb-flush-method=nosync", "--innodb-doublewrite=OFF"]),
        ]

    def command(self) -> Sequence[str]:
        settings = {
            "datadir": str(self.data),
            "socket": str(self.socket),
            "pid-file": str(self.data / "server.pid"),
            "bind-address": "127.0.0.1",
            "port": str(self.port),
            "init-file": str(self.directory / "init.sql"),
            "max-connections": "100",
            "innodb-flush-log-at-trx-commit": "1" if self.fsync else "2",
            "innodb-fast-shutdown": "1",
            "performance-schema": "OFF",
        }
        settings |= self._settings
        return [
            str(self.daemon),
            "--no-defaults",
            "--skip-log-bin",
            "--skip-name-resolve",
            *self._storage(),
            *(f"--{name}={value}" for name, value in settings.items()),
        ]

    def ready(self) -> bool:
        """Whether it greets: the first packet of a server that refuses is an error, 0xff."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                return client.recv(5)[4:5] == b"\x0a"
        except OSError:
            return False

    def close(self) -> None:
        super().close()
        if self.socket_directory != self.directory:
            shutil.rmtree(self.socket_directory, ignore_errors=True)


def start_mariadb(
    directory: Path | None = None, *, fsync: bool = True, settings: Mapping[str, str] | None = None
) -> MariaDBServer:
    """Start a private server; the caller closes it. Raises `Unavailable`."""
    return started(MariaDBServer(directory, fsync=fsync, settings=settings))
