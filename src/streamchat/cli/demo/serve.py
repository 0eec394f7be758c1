"""Puts the demo together: provider, model, buffer, service, page; and serves it with uvicorn."""

from __future__ import annotations

import socket
import sys
import warnings

import uvicorn

from streamchat import EventBuffer, ServiceLimits, StreamChat
from streamchat.buffers import buffer_for
from streamchat.cli.demo.address import allowed_names, url_of
from streamchat.cli.demo.app import demo_app
from streamchat.cli.demo.jobs import Jobs
from streamchat.cli.demo.provider import RealProvider, opened_client
from streamchat.cli.demo.tools import make_tools
from streamchat.cli.serve_uvicorn import DrainingServer
from streamchat.models import Model, OpenAIChatModel, OpenAIResponsesModel

__all__ = ["serve"]

_INSTRUCTIONS = "You are the demo of streamchat. Answer briefly, and use the tools when they help."
_DRAIN_SECONDS = 2.0
_BUILD_SECONDS = 4.0


async def serve(
    listening: socket.socket, provider: RealProvider | None, *, api: str, db: str, host: str
) -> None:
    """Serve the demo on a listening socket until it is interrupted; ``host`` is its name for users."""
    async with opened_client(provider) as (client, name, answers):
        kind = OpenAIResponsesModel if api == "responses" else OpenAIChatModel
        jobs = Jobs(_BUILD_SECONDS)
        chat = _chat(kind(client, name), buffer_for(db, create_tables=True), jobs)
        jobs.complete = chat.complete_job
        with warnings.catch_warnings(record=True) as told:
            await chat.open()
        for warning in told:
            print(f"streamchat: warning: {warning.message}", file=sys.stderr)
        async with chat:
            config = uvicorn.Config(
                demo_app(chat, allowed_names(listening, host)),
                lifespan="off",
                log_level="warning",
                timeout_graceful_shutdown=3,
            )
            start = f"streamchat demo: {url_of(listening)}/  ({answers}; Ctrl+C ends it)"
            server = DrainingServer(config, chat, start)
            await server.serve([listening])
            await jobs.close()
    if server.interrupted:
        raise KeyboardInterrupt


def _chat(model: Model, buffer: EventBuffer, jobs: Jobs) -> StreamChat:
    return StreamChat(
        model=model,
        tools=make_tools(jobs),
        buffer=buffer,
        instructions=_INSTRUCTIONS,
        allow_anonymous=True,
        limits=ServiceLimits(drain_seconds=_DRAIN_SECONDS),
        lease_ttl=5.0,  # a demo that was killed goes on soon after it is started again
    )
