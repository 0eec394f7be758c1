"""One streamed answer for each request, without service or store: ``python examples/bare_stream.py``."""

from __future__ import annotations

import os
from urllib.parse import parse_qs

import uvicorn
from openai import AsyncOpenAI

from streamchat import orchestrate
from streamchat.adapters.asgi import event_response
from streamchat.models import OpenAIChatModel

model = OpenAIChatModel(AsyncOpenAI(), os.environ.get("MODEL", "gpt-5-mini"))


async def app(scope, receive, send) -> None:
    """Answer ``/?q=…`` with the events of a run."""
    assert scope["type"] == "http"
    question = parse_qs(scope["query_string"].decode()).get("q", ["Say hello."])[0]
    response = event_response(orchestrate(model, question))
    await response(scope, receive, send)


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), lifespan="off")
