"""Synchronous middleware in front of everything, as most projects have some."""

from __future__ import annotations

from typing import Any


class SyncMiddleware:
    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        response = self.get_response(request)
        response["X-Seen"] = "yes"
        return response
