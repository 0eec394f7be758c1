"""A server process that nobody needs to end: started, stopped, killed, paused and copied from plain code."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

__all__ = [
    "Held",
    "Server",
    "ServerFailed",
    "Unavailable",
    "free_port",
    "lesser_user",
    "new_directory",
    "started",
]

START_TIMEOUT = 60.0
"""Seconds until a server that does not answer is given up."""


class Unavailable(Exception):
    """This machine has no such server; the message says what was looked for and what to install."""


class ServerFailed(Exception):
    """The server did not start, or died; the message has the end of its log."""


class Held:
    """A connection to a guardian: while it is open the server lives."""

    def __init__(self, control: str) -> None:
        """Raises `OSError` when there is no such guardian any more."""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(control)
        except OSError:
            self._socket.close()
            raise
        self._file = self._socket.makefile("rb")

    def ask(self, command: str) -> dict[str, Any] | None:
        """Send one command; returns the guardian's answer, or None if the guardian is gone."""
        try:
            self._socket.sendall(command.encode() + b"\n")
            line = self._file.readline()
        except OSError:
            return None
        return json.loads(line) if line else None

    def leave(self) -> None:
        """Let go; returns when the guardian has seen it, and has ended the server if this was the last."""
        self.ask("leave")
        self.forget()

    def forget(self) -> None:
        self._file.close()
        self._socket.close()


class Server(ABC):
    """One server with its own directory; the processes of all servers end with the program at the latest."""

    kind: str
    stop_signal = "SIGTERM"
    last_signal = "SIGKILL"
    """Sent when nobody needs the data any more."""

    def __init__(self, directory: Path | None = None) -> None:
        """Without ``directory`` it gets a temporary one, which is removed with the server."""
        self._own_directory = directory is None
        self.directory = new_directory(self.kind) if directory is None else directory
        self.directory.mkdir(parents=True, exist_ok=True)
        # What a socket's path may measure is little, so the guardian's lies apart from a long directory.
        self._control_directory = self.directory if directory is None else new_directory("guard")
        self._held: Held | None = None
        self.pid = 0

    # ------------------------------------------------------------------------------- what each kind says

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it; stays the same over restarts."""

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    @property
    def user(self) -> tuple[int, int] | None:
        """Whom the server runs as, if not as who starts it."""
        return None

    @abstractmethod
    def initialise(self) -> None:
        """Fill the data directory, once."""

    @abstractmethod
    def command(self) -> Sequence[str]: ...

    @abstractmethod
    def ready(self) -> bool:
        """Whether it answers its clients; asked again and again while it starts."""

    def before_start(self) -> None:  # noqa: B027
        """Remove what a killed predecessor left."""

    # ---------------------------------------------------------------------------------------- its life

    @property
    def running(self) -> bool:
        return self._held is not None and self._held.ask("hold") is not None

    def start(self) -> Self:
        """Start it, also again after `stop` or `kill`, on the same data and address; waits until it answers.

        Raises `ServerFailed`.
        """
        if self._held is not None:
            raise RuntimeError(f"the {self.kind} server in {self.directory} is already started")
        if not self.data.exists():
            self.data.mkdir()
            self.own(self.directory, self.data)
            self.initialise()
        self.before_start()
        self._held = self._guard()
        try:
            answer = self._held.ask("hold")
            self.pid = answer["pid"] if answer else 0
            self._wait_until_ready()
        except BaseException:
            self._end("SIGKILL")
            raise
        return self

    def stop(self) -> None:
        """End it as an administrator does: what was acknowledged is on disk."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Kill all its processes at once with -9, also when paused."""
        self._end("SIGKILL")

    def pause(self) -> None:
        """SIGSTOP for all its processes: connections stay open and nothing answers."""
        self._ask("signal SIGSTOP")

    def resume(self) -> None:
        self._ask("signal SIGCONT")

    def restart(self) -> None:
        self.stop()
        self.start()

    def snapshot(self) -> Path:
        """Copy the data directory as it is at this moment, while all processes stand still.

        The copy is what a power loss at this moment would leave if the disk had everything written so far.
        """
        copy = Path(tempfile.mkdtemp(dir=self.directory, prefix="copy-")) / "data"
        running = self.running
        if running:
            self.pause()
        try:
            _copy(self.data, copy)
        finally:
            if running:
                self.resume()
        return copy

    def restore(self, copy: Path) -> None:
        """Kill it and start it again on an older copy, as a failover does that loses the tail."""
        if self._held is not None:
            self.kill()
        shutil.rmtree(self.data)
        _copy(copy, self.data)
        self.start()

    def leave(self) -> None:
        """Let go of it; its guardian ends it and removes its files unless another process holds it."""
        if self._held is not None:
            held, self._held = self._held, None
            held.leave()

    def close(self) -> None:
        """End it and remove its own files; a second call does nothing."""
        self.leave()
        if self._own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)
        elif self._control_directory.exists():
            shutil.rmtree(self._control_directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------- for kinds

    def own(self, *paths: Path) -> None:
        """Give files to the user that the server runs as."""
        for path in paths:
            path.chmod(0o700 if path.is_dir() else 0o600)
            if self.user is not None:
                os.chown(path, *self.user)

    def tool(self, command: Sequence[str | Path]) -> None:
        """Run a program that prepares data, as the server's user; raises `ServerFailed`."""
        user, group = self.user or (None, None)
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            errors="replace",
            cwd=self.directory,
            env=self.environment(),
            user=user,
            group=group,
            extra_groups=[] if user is not None else None,
            check=False,
        )
        if done.returncode:
            raise ServerFailed(f"{command[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def environment(self) -> dict[str, str]:
        """Little of ours: no locale, no settings for clients, no preloaded libraries."""
        path = os.environ.get("PATH", os.defpath)
        # A directory for temporary files of its own: MariaDB removes those of others when it starts.
        own = str(self.directory)
        return {"PATH": path, "LC_ALL": "C", "TZ": "UTC", "HOME": own, "TMPDIR": own}

    def last_words(self) -> str:
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")[-3000:]
        return ""

    # ---------------------------------------------------------------------------------------- the guardian

    @property
    def control(self) -> str:
        """The guardian's socket, for `Held`."""
        return str(self._control_directory / "guardian")

    def _guard(self) -> Held:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.control)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.control)
            os.chmod(self.control, 0o600)
            listener.listen()
            # Held before the guardian runs: it must never see a moment without a holder.
            held = Held(self.control)
            spec = {
                "argv": [str(part) for part in self.command()],
                "env": self.environment(),
                "cwd": str(self.directory),
                "user": self.user,
                "log": str(self.log),
                "last_signal": self.last_signal,
                "remove": [str(self.directory if self._own_directory else self._control_directory)],
                "listener": listener.fileno(),
            }
            program = str(Path(__file__).with_name("guardian.py"))
            subprocess.run(
                [sys.executable, "-I", "-S", program, json.dumps(spec)],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        return held

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self.ready():
            if not self.running:
                raise ServerFailed(f"{self.kind} ended while it started:\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.kind} did not answer in {START_TIMEOUT} s:\n{self.last_words()}")
            time.sleep(0.01)

    def _ask(self, command: str) -> dict[str, Any]:
        answer = self._held.ask(command) if self._held is not None else None
        if answer is None:
            raise ServerFailed(f"{self.kind} is not running:\n{self.last_words()}")
        return answer

    def _end(self, name: str) -> None:
        if self._held is None:
            return
        held, self._held = self._held, None
        held.ask(f"end {name}")
        held.forget()
        self.pid = 0


# ------------------------------------------------------------------------------------------------ the machine


def new_directory(name: str) -> Path:
    """A temporary directory with a short path that a lesser user can pass through (pytest's own is for its
    owner alone)."""
    directory = Path(tempfile.mkdtemp(prefix=f"streamchat-{name}-"))
    directory.chmod(0o711)
    return directory


S = TypeVar("S", bound="Server")


def started(server: S) -> S:
    """Start a new server, or remove what it made when it does not start."""
    try:
        return server.start()
    except BaseException:
        server.close()
        raise


def lesser_user() -> tuple[int, int] | None:
    """Whom a server that refuses root runs as: nobody, if we are root."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return nobody.pw_uid, nobody.pw_gid


def free_port() -> int:
    """A loopback port that is free now, below those that the system gives to clients: it stays free while the
    server is down."""
    for _ in range(200):
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerFailed("no free port between 20000 and 32000")


def _copy(source: Path, target: Path) -> None:
    """Copy a directory with its owners, leaving out what says that a server runs in it."""

    def copy(one: str, other: str) -> None:
        if Path(one).is_socket() or Path(one).name == "postmaster.pid":
            return
        shutil.copy2(one, other)
        status = os.stat(one)
        os.chown(other, status.st_uid, status.st_gid)

    shutil.copytree(source, target, copy_function=copy)
    for directory, _, _ in os.walk(source):
        status = os.stat(directory)
        os.chown(target / Path(directory).relative_to(source), status.st_uid, status.st_gid)
