"""The program under attack: a `StreamChat` over a buffer's URL, served over HTTP, to be killed at any time.

`work` runs it in the present process until SIGTERM; ``python -m tests.chaos.worker SPEC`` is the program by
itself, `tests.chaos.zygote` makes many of it quickly.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, cast

import openai

from streamchat import Limits, RunOptions, StreamChat
from streamchat.adapters.asgi import asgi_app
from streamchat.buffers.base import EventBuffer
from streamchat.models import OpenAIChatModel
from streamchat.service.chat import ServiceLimits
from tests.adapters.serving import serve
from tests.chaos.commits import install_commit_points
from tests.chaos.ledger import Ledger
from tests.chaos.seams import KillPoints, WatchedBuffer, WatchedModel
from tests.chaos.stores import make_buffer
from tests.chaos.tools import make_tools

__all__ = ["WorkerSpec", "make_options", "work"]


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker is told: the store's ``url``, its names, the ``folder`` of the ledgers, the provider.

    ``ttl``, ``pause`` (how long a tool takes) and ``silence`` (how long a server may be silent) are seconds;
    ``kill`` is a kill point as ``name@n``.
    """

    name: str
    url: str
    prefix: str
    folder: str
    provider: str
    ttl: float = 1.0
    pause: float = 0.2
    silence: float = 10.0
    kill: str | None = None
    max_runs: int = 20

    def encode(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read it from JSON."""
        return cls(**json.loads(text))


def make_options() -> RunOptions:
    """How the runs are orchestrated: nothing but the end of the plan ends them, and cut off tools soon run
    again."""
    limits = Limits(max_takeovers=None, max_tool_output_bytes=10_000_000)
    return RunOptions(limits=limits, grace=0.2, restart_delay=0.05)


def make_chat(spec: WorkerSpec, buffer: EventBuffer, client: openai.AsyncOpenAI) -> StreamChat:
    """Put the worker's service together."""
    folder = Path(spec.folder)
    points = KillPoints(spec.kill)
    if spec.kill is not None and ".commit" in spec.kill:
        install_commit_points(points)
    watched = WatchedBuffer(buffer, Ledger(folder / "acknowledged.jsonl"), points)
    return StreamChat(
        model=WatchedModel(OpenAIChatModel(client, "scripted"), points),
        tools=make_tools(folder / "effects.jsonl", points, spec.pause),
        buffer=cast(EventBuffer, watched),
        allow_anonymous=True,
        options=make_options(),
        limits=ServiceLimits(max_runs=spec.max_runs, drain_seconds=0.2),
        worker=spec.name,
        lease_ttl=spec.ttl,
    )


async def work(spec: WorkerSpec, ready: Callable[[dict[str, Any]], None]) -> None:
    """Serve and work until SIGTERM; ``ready`` is told the port."""
    warnings.simplefilter("ignore")
    logging.basicConfig(
        filename=Path(spec.folder) / "workers.log",
        level=logging.INFO,
        format=f"%(asctime)s {spec.name} {os.getpid()} %(levelname)s %(name)s %(message)s",
        force=True,
    )
    for noisy in ("httpx2", "httpx", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    http = openai.DefaultAioHttpClient(verify=False)
    client = openai.AsyncOpenAI(base_url=spec.provider, api_key="scripted", http_client=http)
    async with client:
        chat = make_chat(spec, make_buffer(spec.url, spec.prefix, spec.silence), client)
        async with chat, serve(asgi_app(chat), lifespan="off", access_log=False) as port:
            ready({"ready": spec.name, "pid": os.getpid(), "port": port})
            await stop.wait()
            await chat.drain()


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    asyncio.run(work(WorkerSpec.decode(sys.argv[1]), _say))
