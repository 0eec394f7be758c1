"""A warm process that forks workers: starting one takes milliseconds, not the second that the imports take.

``python -m tests.chaos.zygote`` forks the provider and says ``{"up": its URL}``. Then it reads commands, JSON
lines, from standard input, and answers on standard output: ``{"fork": SPEC}`` is answered by
``{"forked": name, "pid": …}``, later by the worker's own ``{"ready": …}``,
and in the end by ``{"exited": name, "pid": …, "status": …}`` (negative: the signal). The end of its input
ends it and all that it has forked. It has neither threads nor a loop, so that forking is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import gc
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.chaos.provider import provide
from tests.chaos.worker import WorkerSpec, work

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Fork and reap until standard input ends."""
    for module in ("asyncpg", "asyncmy", "redis.asyncio", "aiohttp", "uvicorn.protocols.http.h11_impl"):
        with contextlib.suppress(ImportError):
            __import__(module)
    gc.collect()
    gc.freeze()
    wake, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    children: dict[int, str] = {}
    pending = b""
    children[_fork(lambda: provide(lambda url: _say({"up": url})), os.devnull)] = ""
    try:
        while True:
            readable, _, _ = select.select([0, wake], [], [])
            if wake in readable:
                os.read(wake, 4096)
                _reap(children)
            if 0 in readable:
                block = os.read(0, 65536)
                if not block:
                    return
                *lines, pending = (pending + block).split(b"\n")
                for line in lines:
                    spec = WorkerSpec(**json.loads(line)["fork"])
                    pid = _fork(functools.partial(work, spec, _say), Path(spec.folder) / "workers.err")
                    children[pid] = spec.name
                    _say({"forked": spec.name, "pid": pid})
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _reap(children: dict[int, str]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        name = children.pop(pid)
        _say({"exited": name, "pid": pid, "status": os.waitstatus_to_exitcode(status)})


def _fork(life: Callable[[], Coroutine[Any, Any, None]], errors: Path | str) -> int:
    """Fork a process that lives that life, and return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), 2)
        asyncio.run(life())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _say(message: dict[str, Any]) -> None:
    # One call below the size of a pipe's atomic write: the lines of parent and children never mix.
    os.write(1, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    main()
