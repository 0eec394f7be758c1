"""``streamchat_worker`` and ``streamchat_trim``."""

from __future__ import annotations

__all__: list[str] = []
