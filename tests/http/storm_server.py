"""A server whose runs stand still until they are let go, and which counts how often its store is asked;
`test_storm` runs it as a process of its own."""

from __future__ import annotations

import socket
import sys
from collections import Counter
from typing import Any

import uvicorn

from streamchat.adapters.asgi import asgi_app
from streamchat.buffers.base import Page, RunRecord
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.http import Call, Response, Route
from streamchat.http.requests import json_response
from streamchat.service.chat import ServiceLimits, StreamChat
from streamchat.testing import ScriptedModel, Stall, Step

WORDS = " ".join(f"word{number}" for number in range(200))


class CountedBuffer(SQLEventBuffer):
    """A store that counts: reads of a run's log, and look-ups of whose it is."""

    reads: Counter[str]
    gets: Counter[str]

    async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        self.reads[run_id] += 1
        return await super().read(run_id, after, limit)

    async def get(self, run_id: str) -> RunRecord:
        self.gets[run_id] += 1
        return await super().get(run_id)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listener.getsockname()[1], flush=True)
    stall = Stall()
    model: Any = ScriptedModel([Step(WORDS, stall_after=100, stall=stall)], repeat=True, batch=1)
    buffer = CountedBuffer(f"sqlite:///{sys.argv[1]}")
    buffer.reads, buffer.gets = Counter(), Counter()
    chat = StreamChat(model=model, buffer=buffer, allow_anonymous=True, limits=ServiceLimits(drain_seconds=0))

    async def counts(call: Call) -> Response:
        """What was asked since the last time."""
        told = {"reads": dict(buffer.reads), "gets": dict(buffer.gets), "open": call.endpoints.open_streams}
        buffer.reads.clear()
        buffer.gets.clear()
        return json_response(200, told)

    async def release(call: Call) -> Response:
        stall.release()
        return json_response(200, {})

    async def stalled(call: Call) -> Response:
        await stall.reached()
        return json_response(200, {})

    routes = [
        Route("GET", "/counts", counts),
        Route("POST", "/release", release),
        Route("GET", "/stalled", stalled),
    ]
    app = asgi_app(chat, routes=routes, drain_on_sigterm=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)).run([listener])


if __name__ == "__main__":
    main()
