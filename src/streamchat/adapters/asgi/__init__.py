"""The raw ASGI adapter: the endpoints as an application that can be mounted anywhere, and streams without a
service.

Needs no framework: any ASGI 3 server or router will do.
"""

from __future__ import annotations

from streamchat.adapters.asgi.app import ASGIApp, asgi_app, with_lifespan
from streamchat.adapters.asgi.auth import bearer_principal, session_principal, user_principal
from streamchat.adapters.asgi.responses import ASGIResponse, event_response
from streamchat.adapters.asgi.shutdown import draining_on_sigterm

__all__ = [
    "ASGIApp",
    "ASGIResponse",
    "asgi_app",
    "bearer_principal",
    "draining_on_sigterm",
    "event_response",
    "session_principal",
    "user_principal",
    "with_lifespan",
]
