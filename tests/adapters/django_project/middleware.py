"""Synchronous middleware in front of everything, as most projects have some."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse, HttpResponseRedirect


class SyncMiddleware:
    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        response = self.get_response(request)
        response["X-Seen"] = "yes"
        return response


class Sluice:
    """Middleware of a project's own that lets nobody through who asks for that."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        match request.headers.get("X-Sluice"):
            case "shut":
                return HttpResponse(b"no", status=418)
            case "elsewhere":
                return HttpResponseRedirect("/admin/login/")
        return self.get_response(request)
