"""Frameworks: each adapter translates its requests and responses to those of `streamchat.http`, and nothing
more. What commands share is in `commands`."""

from __future__ import annotations

__all__: list[str] = []
