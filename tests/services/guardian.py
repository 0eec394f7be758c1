"""Owns one server process and ends it, whatever becomes of those who use it: a program of its own.

Whoever needs the server holds a connection to the guardian's socket. When the last connection is gone, also
because a test run was killed with -9, the guardian ends the server with all its children and removes what the
server kept on disk. If the guardian itself is killed, Linux kills the server (PR_SET_PDEATHSIG).

Its only argument is JSON: ``argv``, ``env``, ``cwd``, ``user`` ([uid, gid] or null), ``log`` (a file),
``last_signal`` (for when nobody is left), ``remove`` (paths) and ``listener`` (an inherited file descriptor).
A holder writes lines and gets one line of JSON for each: ``hold`` the server's pid; ``end SIGNAL`` the exit
status, once it is dead; ``signal SIGNAL`` sends one to the server and all its children; ``leave`` closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

__all__ = ["main"]

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 10.0
"""Seconds that the server may take to end after the last signal, before it is killed."""


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _parents() -> dict[int, int]:
    """The parent of each process."""
    if sys.platform != "linux":
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
        return {int(pid): int(parent) for pid, parent in map(str.split, listing.stdout.splitlines())}
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    return parents


def _family() -> list[int]:
    """All processes below this one: the server, its children, and children whose parents died."""
    parents = _parents()
    family: list[int] = []
    generation = {os.getpid()}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation}
        family += generation
    return family


def _signal_all(number: int) -> None:
    for pid in _family():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


class Guardian:
    """The loop: holders, what they ask for, and the server's death."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.holders: dict[socket.socket, bytes] = {}
        self.leaver: socket.socket | None = None
        self.asked: list[socket.socket] = []
        self.listener = socket.socket(fileno=spec["listener"])
        self.listener.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.deaths, wake = os.pipe()
        os.set_blocking(self.deaths, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        self.selector.register(self.deaths, selectors.EVENT_READ)
        self.server = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        user = self.spec["user"]

        def before_exec() -> None:
            if user is not None:
                os.setgroups([])
                os.setgid(user[1])
                os.setuid(user[0])
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after setuid, which clears it

        with open(self.spec["log"], "ab") as log:
            return subprocess.Popen(
                self.spec["argv"],
                env=self.spec["env"],
                cwd=self.spec["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=before_exec,
                start_new_session=True,
            )

    def run(self) -> None:
        try:
            self._accept()
            while self.holders and self.server.poll() is None:
                for key, _ in self.selector.select():
                    if key.fileobj is self.listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket):
                        self._read(key.fileobj)
                    else:
                        os.read(self.deaths, 4096)
                if not self.holders:
                    self._accept()  # one may have come just now
        finally:
            self._finish()

    def _accept(self) -> None:
        while True:
            try:
                holder, _ = self.listener.accept()
            except BlockingIOError:
                return
            self.holders[holder] = b""
            self.selector.register(holder, selectors.EVENT_READ)

    def _read(self, holder: socket.socket) -> None:
        try:
            data = holder.recv(4096)
        except OSError:
            data = b""
        *lines, rest = (self.holders[holder] + data).split(b"\n")
        self.holders[holder] = rest
        for line in lines:
            if line == b"leave":
                data = b""
            else:
                self._obey(holder, *line.decode().split())
        if not data:
            self.selector.unregister(holder)
            del self.holders[holder]
            self.leaver = holder  # if it was the last one, it is told by the end of the connection
            if self.holders:
                holder.close()

    def _obey(self, holder: socket.socket, command: str, name: str = "") -> None:
        if command == "hold":
            self._answer(holder, pid=self.server.pid)
        elif command == "signal":
            _signal_all(signal.Signals[name])
            self._answer(holder)
        elif command == "end":
            self.asked.append(holder)
            if name == "SIGKILL":
                _signal_all(signal.SIGKILL)  # no child may finish what it was at
            else:
                _signal_all(signal.SIGCONT)
                self.server.send_signal(signal.Signals[name])

    @staticmethod
    def _answer(holder: socket.socket, **answer: object) -> None:
        with contextlib.suppress(OSError):  # it has gone, which its connection tells as well
            holder.sendall(json.dumps(answer).encode() + b"\n")

    def _finish(self) -> None:
        self.listener.close()
        abandoned = not self.holders
        if self.server.poll() is None:
            _signal_all(signal.SIGCONT)
            self.server.send_signal(signal.Signals[self.spec["last_signal"]])
            try:
                self.server.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
        self._end_orphans()
        if abandoned:
            for path in self.spec["remove"]:
                shutil.rmtree(path, ignore_errors=True)
        for holder in self.asked:
            self._answer(holder, exit=self.server.returncode)

    @staticmethod
    def _end_orphans() -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            _signal_all(signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.005)


def main() -> None:
    """Run as ``python guardian.py SPEC``."""
    # Nobody waits for a guardian: its parent is let go at once.
    if os.fork():
        os._exit(0)
    os.setsid()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    Guardian(json.loads(sys.argv[1])).run()


if __name__ == "__main__":
    main()
