"""The raw ASGI adapter, as it is served."""

from __future__ import annotations

import os

from streamchat.adapters.asgi import asgi_app
from tests.adapters.servers.common import Door, drain_under_daphne, http_options, make_chat, wrapped

chat = make_chat()
endpoints = asgi_app(chat, options=http_options(), drain_on_sigterm="MATRIX_NO_DRAIN" not in os.environ)
app = Door(endpoints, wrapped(endpoints))
drain_under_daphne(chat)
