"""Processes over one store (``python -m tests.service.processes URL COMMAND …``), saying a line at a time."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streamchat import RunOptions, ServiceLimits, StreamChat, ToolContext, ToolRegistry
from streamchat.buffers import buffer_for
from streamchat.orchestration.options import Limits
from streamchat.testing import Call, ScriptedModel, Step

__all__ = ["chat_over", "process"]

ROOT = Path(__file__).parents[2]


def say(*words: object) -> None:
    print(*words, flush=True)


def tools() -> ToolRegistry:
    registry = ToolRegistry()

    @registry.tool(timeout=600)
    async def wait() -> str:
        """Wait for ever, and say what becomes of it."""
        say("waiting")
        try:
            await asyncio.sleep(3600)
        finally:
            say("tool cancelled")
        return "never"

    @registry.tool(idempotent=True, timeout=0.2)
    async def poison(ctx: ToolContext) -> str:
        """Kill the process."""
        say("poisoned", ctx.fence)
        os.kill(os.getpid(), 9)
        return "never"

    return registry


def answer(request: Any) -> Step:
    """Call the tool that the user's message names, else say it again."""
    asked = str(request.messages[-1].content)
    if request.messages[-1].role == "user" and asked in ("wait", "poison"):
        return Step(calls=[Call(asked)])
    return Step(f"You said {asked}.")


def chat_over(url: str, **more: Any) -> StreamChat:
    """A service as each of the processes has it; what stands behind a # in ``url`` is the prefix."""
    where, _, prefix = url.partition("#")
    return StreamChat(
        model=ScriptedModel(answer),
        tools=tools(),
        buffer=buffer_for(where, prefix=prefix or None, create_tables=True),
        allow_anonymous=True,
        options=RunOptions(limits=Limits(max_takeovers=1), grace=0.2),
        limits=more.pop("limits", ServiceLimits(look_every=0.1, presence_ttl=1.0, drain_seconds=0.2)),
        lease_ttl=more.pop("lease_ttl", 1.0),
        **more,
    )


async def work(url: str) -> None:
    """Work on what there is until the input ends."""
    async with chat_over(url):
        say("working")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    say("ended")


async def read(url: str, run_id: str) -> None:
    """Be connected to a run until the input ends."""
    async with (
        chat_over(url, work=False) as chat,
        chat.attach(run_id, client_id="elsewhere") as subscription,
    ):
        say("connected")
        reading = asyncio.ensure_future(subscription.next())
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await reading
    say("ended")


@asynccontextmanager
async def process(url: str, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start one; it does not outlive the block."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.service.processes", url, *command),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def said(started: asyncio.subprocess.Process, words: str) -> None:
    """Wait until it says so."""
    assert started.stdout is not None
    while (line := await started.stdout.readline()) != words.encode() + b"\n":
        assert line, f"it ended before it said {words!r}"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    commands: dict[str, Any] = {"work": work, "read": read}
    asyncio.run(commands[sys.argv[2]](sys.argv[1], *sys.argv[3:]))
