"""Native SSE under uvicorn beside an ASGI application that sends bytes which were encoded beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.measure import Case, Clock, Row, Scale, in_turns
from benchmarks.processes import Clients, clients
from benchmarks.serving import serving
from benchmarks.subscribing import Feed
from streamchat import StreamChat
from streamchat.adapters.asgi import asgi_app
from streamchat.events import StoredEvent, TextDelta
from streamchat.testing import ScriptedModel
from streamchat.wire.native import NATIVE

__all__ = ["RawFeed", "sending"]

_HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


class RawFeed:
    """The least that a live stream can be: one future for each connection, bytes encoded beforehand."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection until it is told to end."""
        if scope["type"] != "http":
            return
        loop = asyncio.get_running_loop()
        await receive()
        await send(_HEAD)
        await send({"type": "http.response.body", "body": b": begin\n\n", "more_body": True})
        while True:
            future = loop.create_future()
            self.waiting.append(future)
            data = await future
            await send({"type": "http.response.body", "body": data, "more_body": bool(data)})
            if not data:
                return

    def publish(self, data: bytes) -> None:
        """Wake all."""
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(data)


def _paced(
    deliveries: int, connections: int, batch: int, publish: Callable[[int], None], ready: Callable[[], int]
):
    """Publishes ``batch`` events at a time, and goes on when all connections wait again."""
    ticks = max(2, deliveries // connections // batch)

    async def run(clock: Clock) -> float:
        with clock.running():
            for tick in range(ticks):
                publish(tick)
                turns = 0
                await asyncio.sleep(0)
                while ready() < connections:
                    # A client that is slow is not waited for in a circle, whose turns would count.
                    await asyncio.sleep(0 if turns < 5 else 0.001)
                    turns += 1
        return ticks * connections * batch

    return run


def _raw(browsers: Clients, app: RawFeed, port: int, deliveries: int, connections: int) -> Case:
    frame = NATIVE.event(_sample())

    async def case(clock: Clock) -> float:
        await browsers.open(port, "GET", "/", connections)
        run = _paced(deliveries, connections, 1, lambda _: app.publish(frame), lambda: len(app.waiting))
        while len(app.waiting) < connections:
            await asyncio.sleep(0.01)
        done = await run(clock)
        app.publish(b"")
        await browsers.finish()
        return done

    return case


def _sample() -> StoredEvent:
    return StoredEvent(1234, 1763700000000, TextDelta(step=1, part=1, text=" word"), "0123456789abcdef")


def _native(
    browsers: Clients, chat: StreamChat, port: int, deliveries: int, connections: int, batch: int
) -> Case:
    made = 0

    async def case(clock: Clock) -> float:
        nonlocal made
        made += 1
        run_id = f"run-{connections}-{batch}-{made}"
        feed = await Feed.over(chat.hub, run_id)
        await browsers.open(port, "GET", f"/runs/{run_id}/stream", connections)
        ticks = max(2, deliveries // connections // batch)
        stretches = [feed.prepare(batch) for _ in range(ticks)]
        topic = chat.hub._topics[run_id]
        while len(topic._followers.get(NATIVE, ())) < connections:
            await asyncio.sleep(0.01)
        followers = list(topic._followers[NATIVE])

        def ready() -> int:
            for follower in followers:
                if follower.waiter.done():
                    return 0
            return connections

        run = _paced(deliveries, connections, batch, lambda tick: feed.publish(stretches[tick]), ready)
        done = await run(clock)
        await browsers.close()
        return done

    return case


async def sending(scale: Scale) -> list[Row]:
    """One event a send, and ten at once, on one connection and on many."""
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        chat = await stack.enter_async_context(
            StreamChat(model=ScriptedModel.text("Hi"), allow_anonymous=True)
        )
        app = RawFeed()
        raw_port = await stack.enter_async_context(serving(app))
        port = await stack.enter_async_context(serving(asgi_app(chat)))
        browsers = await stack.enter_async_context(clients())
        for connections in (1, scale.connections):
            n = scale.deliveries // 4 if connections == 1 else scale.deliveries
            cases = {
                "raw": _raw(browsers, app, raw_port, n, connections),
                "one": _native(browsers, chat, port, n, connections, 1),
                "ten": _native(browsers, chat, port, n * 4, connections, 10),
            }
            samples = await in_turns(cases, scale.rounds)
            label = "1 connection" if connections == 1 else f"{connections} connections"
            rows.append(samples.row(f"one event a send, {label}", "one", "raw", 1.3, least="raw"))
            rows.append(samples.row(f"a backlog of 10, {label}", "ten", "raw", 0.2))
    return rows
