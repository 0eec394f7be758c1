"""The Vercel AI SDK's UI message stream, which ``useChat`` reads: chunks as server-sent events.

`VercelEncoder` turns a run's events into chunks, one run each; `VercelWire` puts them on a connection;
`vercel_stream` does both for people with routes of their own. `ui_message` is a
message that is stored.
"""

from __future__ import annotations

from streamchat.wire.vercel.chunks import DONE, Chunk, Target, as_target, frames
from streamchat.wire.vercel.encoder import VercelEncoder
from streamchat.wire.vercel.messages import ui_message
from streamchat.wire.vercel.stream import HEADERS, MEDIA_TYPE, VercelWire, events_up_to, vercel_stream

__all__ = [
    "DONE",
    "HEADERS",
    "MEDIA_TYPE",
    "Chunk",
    "Target",
    "VercelEncoder",
    "VercelWire",
    "as_target",
    "events_up_to",
    "frames",
    "ui_message",
    "vercel_stream",
]
