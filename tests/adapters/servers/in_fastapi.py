"""The FastAPI adapter, as it is served."""

from __future__ import annotations

from fastapi import FastAPI

from streamchat.adapters.fastapi import chat_router
from tests.adapters.servers.common import Door, drain_under_daphne, http_options, make_chat, wrapped

chat = make_chat()
application = FastAPI(lifespan=chat.lifespan)
application.include_router(chat_router(chat, options=http_options(), drain_on_sigterm=True), prefix="/chat")
app = Door(application, wrapped(application))
drain_under_daphne(chat)
