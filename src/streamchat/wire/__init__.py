"""How events look on a connection: one module for each wire protocol, all of them pure.

A wire is an encoder (stored events to bytes) and what else its connections carry. `streamchat.wire.native` is
ours.
"""

from __future__ import annotations

__all__: list[str] = []
