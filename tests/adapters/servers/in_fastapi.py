"""The FastAPI adapter, as it is served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from streamchat.adapters.asgi import draining_on_sigterm
from streamchat.adapters.fastapi import chat_router
from tests.adapters.servers.common import Door, http_options, make_chat, wrapped

chat = make_chat()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with chat:
        with draining_on_sigterm(chat):
            yield


application = FastAPI(lifespan=lifespan)
application.include_router(chat_router(chat, options=http_options()), prefix="/chat")
app = Door(application, wrapped(application))
