"""The memory of a connection on which nothing happens, beside one to a bare ASGI application."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from benchmarks.measure import Row, Scale
from benchmarks.processes import clients, helper, line_of
from benchmarks.serving import serving
from benchmarks.sse import RawFeed
from benchmarks.subscribing import Feed
from streamchat import StreamChat
from streamchat.adapters.asgi import asgi_app
from streamchat.testing import ScriptedModel

__all__ = ["idling", "serve"]

_WARM = 20


async def idling(scale: Scale) -> list[Row]:
    """Subscribers of one run, and of a run each, in a server process of their own."""
    sizes: dict[str, list[float]] = {"raw": [], "one run": [], "a run each": []}
    for _ in range(scale.rounds):
        for kind, found in sizes.items():
            async with helper("idle", kind, str(scale.idle)) as server:
                found.append(float(await line_of(server)))
    rows = []
    for kind, name, budget in (
        ("one run", "idle subscriber, all of one run", 1.5),
        ("a run each", "(idle subscriber, each of a run of its own)", None),
    ):
        ratios = [a / b for a, b in zip(sizes[kind], sizes["raw"], strict=True)]
        note = f"{median(sizes[kind]):.1f} KiB beside {median(sizes['raw']):.1f}"
        rows.append(Row(name, median(ratios), budget, note=note, low=min(ratios), high=max(ratios)))
    rows.append(Row("the same in KiB", median(sizes["one run"]), 13, unit="KiB"))
    return rows


async def serve(kind: str, count: str) -> None:
    """In the server's process: open connections from yet another, and print the KiB that each takes."""
    async with clients() as browsers:
        if kind == "raw":
            app = RawFeed()
            async with serving(app) as port:
                print(await _grown(lambda n: browsers.open(port, "GET", "/", n), int(count)), flush=True)
                app.publish(b"")
                await browsers.finish()
            return
        chat = StreamChat(model=ScriptedModel.text("Hi"), allow_anonymous=True)
        async with chat, serving(asgi_app(chat)) as port:
            made = 0

            async def connect(n: int) -> None:
                nonlocal made
                for _ in range(n if kind == "a run each" else 1):
                    made += 1
                    await Feed.over(chat.hub, f"run-{made}")
                    several = 1 if kind == "a run each" else n
                    await browsers.open(port, "GET", f"/runs/run-{made}/stream", several)

            print(await _grown(connect, int(count)), flush=True)
            await browsers.close()


async def _grown(connect: Callable[[int], Awaitable[None]], count: int) -> float:
    await connect(_WARM)  # what is loaded and allocated once is not the connections'
    before = await _resident()
    await connect(count)
    return (await _resident() - before) / count / 1024


async def _resident() -> int:
    await asyncio.sleep(0.1)  # the last connection's task has gone to sleep as well
    gc.collect()
    return _resident_now()


def _resident_now() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
