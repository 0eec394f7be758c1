"""Which handler answers which method and path, and what a handler is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from streamchat.http.errors import HTTPError, not_found
from streamchat.http.requests import Response
from streamchat.http.serving import Call

__all__ = ["Call", "Handler", "Route", "Router"]


Handler: TypeAlias = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """``path`` as ``/runs/{id}/stream``, with at most one open segment. ``public`` needs no principal.

    ``errors`` puts failures into the words of another protocol, all those at its path.

    A GET route answers HEAD as well, unless ``head`` gives that a handler of its own (a stream must not be
    begun).
    """

    method: str
    path: str
    handler: Handler
    head: Handler | None = None
    public: bool = False
    errors: Callable[[Response], Response] | None = None


class Router:
    """Finds routes by path: fixed paths first, then those with an open segment."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, dict[str, Route]] = {}
        self._open: dict[tuple[str, str], dict[str, Route]] = {}
        for route in routes:
            before, brace, after = route.path.partition("{id}")
            methods = (
                self._open.setdefault((before, after), {}) if brace else self._fixed.setdefault(before, {})
            )
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route

    def find(self, path: str) -> tuple[dict[str, Route], str]:
        """Return the routes of a path by method, and its open segment; raises `HTTPError` 404."""
        path = path.rstrip("/") or "/"
        methods = self._fixed.get(path)
        if methods is not None:
            return methods, ""
        for (before, after), methods in self._open.items():
            if path.startswith(before) and path.endswith(after):
                segment = path[len(before) : len(path) - len(after)]
                if segment and "/" not in segment:
                    return methods, segment
        raise not_found()

    def errors(self, path: str) -> Callable[[Response], Response] | None:
        """Return what puts the failures of a path into other words; None where they stay as they are."""
        try:
            methods, _ = self.find(path)
        except HTTPError:
            return None
        return next((route.errors for route in methods.values() if route.errors is not None), None)


def allowed(methods: Iterable[str]) -> str:
    """Return an ``Allow`` header for these methods."""
    return ", ".join(sorted({*methods, "OPTIONS"}))
