"""A server whose runs say one word and then stand still; `test_shutdown` runs it as a process of its own."""

from __future__ import annotations

import socket
import sys

import uvicorn

from streamchat.adapters.asgi import asgi_app
from streamchat.service.chat import ServiceLimits, StreamChat
from streamchat.testing import ScriptedModel, Step


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    model = ScriptedModel([Step("Hello there.", stall_after=1)], repeat=True)
    chat = StreamChat(model=model, allow_anonymous=True, limits=ServiceLimits(drain_seconds=0.1))
    app = asgi_app(chat, drain_on_sigterm=sys.argv[1] == "drain")
    # No --timeout-graceful-shutdown: uvicorn waits for open connections for ever.
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


if __name__ == "__main__":
    main()
