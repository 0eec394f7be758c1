"""A chat service with a tool, kept in SQLite, under uvicorn: ``python examples/asgi_chat.py``."""

from __future__ import annotations

import os

import uvicorn
from openai import AsyncOpenAI

from streamchat import Principal, StreamChat, ToolContext, ToolRegistry, owns
from streamchat.adapters.asgi import asgi_app
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.models import OpenAIChatModel

tools = ToolRegistry()


@tools.tool(timeout=10, idempotent=True)
async def stock(item: str, ctx: ToolContext) -> dict[str, str | int]:
    """How many of an item are in the shop.

    Args:
        item: The item's name, in the singular.
    """
    ctx.progress(f"counting {item}")
    return {"item": item, "left": len(item)}


def user(scope) -> Principal | None:
    """Who asks; an application looks into its session or token here."""
    names = [value for name, value in scope["headers"] if name == b"x-user"]
    return Principal(names[0].decode()) if names else None


chat = StreamChat(
    model=OpenAIChatModel(AsyncOpenAI(), os.environ.get("MODEL", "gpt-5-mini")),
    tools=tools,
    buffer=SQLEventBuffer(os.environ.get("DATABASE", "sqlite:///chat.db")),
    instructions="You work in a shop. Answer in one sentence.",
    authorize=owns,
)
app = asgi_app(chat, principal=user, drain_on_sigterm=True)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), timeout_graceful_shutdown=10)
