"""A real server whose scripted model says what the user's message names: one for all clients' scenarios.

The last user message is the name of a scenario, with an argument after a colon where there is one. Beside the
endpoints of the package it serves ``POST /test/release/{id}``, which lets a stream go on that stands still
(``hold:<id>:<pieces>``), and ``GET /test/reached/{id}``, which answers once it does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from streamchat import RunOptions, StreamChat
from streamchat.adapters.asgi import asgi_app
from streamchat.http import HTTPOptions, Response, Route
from streamchat.http.routing import Call as HTTPCall
from streamchat.models.base import ModelRequest
from streamchat.testing import Call, ScriptedModel, Stall, Step
from streamchat.tools import ToolContext, ToolRegistry
from tests.adapters.serving import serve

__all__ = ["HELLO", "Backend", "backend", "said"]

HELLO = "Hello, wörld. How are you today?"


def said(request: ModelRequest) -> tuple[str, int]:
    """The last user message, and how many messages came after it."""
    at = max(i for i, message in enumerate(request.messages) if message.role == "user")
    content = request.messages[at].content
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return text, len(request.messages) - 1 - at


def make_tools(stalls: Mapping[str, Stall]) -> ToolRegistry:
    """The tools of the scenarios; ``slow`` stands still at the end where it is told a stall's name."""
    tools = ToolRegistry()

    @tools.tool(idempotent=True)
    async def weather(city: str) -> dict[str, Any]:
        """The weather in a city."""
        return {"city": city, "degrees": 21}

    @tools.tool
    async def broken(city: str) -> str:
        """Always fails."""
        raise ValueError(f"secret of {city}")

    @tools.tool
    async def slow(ctx: ToolContext, steps: int = 2, hold: str = "") -> str:
        """Speaks while it works."""
        for done in range(1, steps + 1):
            ctx.progress(f"step {done}", fraction=done / steps)
        if hold:
            await stalls[hold].wait()
        return "done"

    @tools.tool(requires_approval=True)
    async def delete_file(path: str) -> str:
        """Asks first."""
        return f"deleted {path}"

    @tools.tool(client_side=True)
    async def locate(accuracy: int = 1) -> dict[str, float]:
        """The page runs it."""
        raise AssertionError("never here")

    return tools


class Backend:
    """The service and its address; ``url`` has no slash at its end."""

    def __init__(self, **options: Any) -> None:
        self.url = ""
        self.stalls: defaultdict[str, Stall] = defaultdict(Stall)
        self.failed_once: set[str] = set()
        self.model = ScriptedModel(self._answer)
        self.chat = StreamChat(
            model=self.model, tools=make_tools(self.stalls), **{"allow_anonymous": True, **options}
        )

    def _answer(self, request: ModelRequest) -> Step | str:
        text, after = said(request)
        word, _, rest = text.partition(":")
        tools = {
            "parallel": [Call("weather", {"city": "Oslo"}), Call("weather", {"city": "Rome"})],
            "tool-error": [Call("broken", {"city": "Oslo"})],
            "slow": [Call("slow", {"steps": 0, "hold": rest})],
            "progress": [Call("slow", {"steps": 2, "hold": rest})],
            "approval": [Call("delete_file", {"path": "a.txt"})],
            "client-tool": [Call("locate", {"accuracy": 5})],
            "unknown-tool": [Call("nonsense", {"x": 1})],
            "invalid-json": [Call("weather", '{"city": ')],
            "story": [Call("weather", {"city": "Oslo"}), Call("slow", {"steps": 1})],
        }
        if word in tools:
            if after == 0:
                thought = "Two places to ask." if word == "story" else ""
                return Step("Let me see. ", calls=tools[word], reasoning=thought)
            return Step("That is it.")
        if word == "reasoning":
            return Step("Four.", reasoning="Two and two, as everybody knows.")
        if word == "hold":
            name, _, pieces = rest.partition(":")
            return Step(HELLO, stall_after=int(pieces or 2), stall=self.stalls[name])
        if word == "error-before":
            return Step(error="bad_request")
        if word == "error-mid":
            return Step(HELLO, error="bad_request", error_after=3)
        if word in ("reset", "reset-hold") and rest not in self.failed_once:
            self.failed_once.add(rest)
            return Step("Half of ", error="stream_error", error_after=2)
        if word == "reset-hold":
            return Step(HELLO, stall_after=2, stall=self.stalls[rest])
        return Step(HELLO)

    async def _release(self, call: HTTPCall) -> Response:
        self.stalls[call.id].release()
        return Response(204)

    async def _reached(self, call: HTTPCall) -> Response:
        await self.stalls[call.id].reached()
        return Response(204)

    @property
    def routes(self) -> list[Route]:
        """What the scripts steer the model by."""
        return [
            Route("POST", "/test/release/{id}", self._release),
            Route("GET", "/test/reached/{id}", self._reached),
        ]


@asynccontextmanager
async def backend(http: HTTPOptions | None = None, **options: Any) -> AsyncIterator[Backend]:
    """Serve a `Backend` with uvicorn on loopback; ``options`` are those of `StreamChat`."""
    made = Backend(**{"options": RunOptions(), **options})
    app = asgi_app(made.chat, routes=made.routes, options=http)
    async with serve(app) as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made
