"""The FastAPI adapter: the endpoints as a router of the application's own, and streams without a service."""

from __future__ import annotations

from streamchat.errors import MissingDependency

try:
    import fastapi as _fastapi  # noqa: F401
except ImportError as error:
    raise MissingDependency("streamchat.adapters.fastapi", "fastapi", "fastapi") from error

from streamchat.adapters.fastapi.auth import bearer_principal, session_principal, user_principal
from streamchat.adapters.fastapi.responses import event_response
from streamchat.adapters.fastapi.router import chat_router

__all__ = ["bearer_principal", "chat_router", "event_response", "session_principal", "user_principal"]
