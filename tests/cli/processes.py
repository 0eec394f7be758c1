"""Commands as people start them: real processes, whose lines a test waits for."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["ROOT", "command", "serving", "until_said"]

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def command(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A ``streamchat`` command with pipes; killed at the end if it is still there."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHONASYNCIO")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-m", "streamchat.cli", *arguments),
        cwd=ROOT,
        env={**inherited, **(environment or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def until_said(reader: asyncio.StreamReader | None, text: str) -> str:
    """Read until ``text`` was said; returns all that was read."""
    assert reader is not None
    said = b""
    while text.encode() not in said:
        block = await reader.read(4096)
        assert block, f"it ended without {text!r}: {said!r}"
        said += block
    return said.decode()


@asynccontextmanager
async def serving(
    *arguments: str, environment: Mapping[str, str] | None = None, allow: str = "test"
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """``streamchat serve`` on a port of its own choice."""
    options = ("--port", "0", "--allow-host", allow)
    async with command("serve", *arguments, *options, environment=environment) as process:
        said = await until_said(process.stdout, "ends it)\n")
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert found is not None, said
        yield process, int(found[1])
