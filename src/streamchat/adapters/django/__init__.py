"""The Django adapter: the endpoints behind ``include("streamchat.adapters.django.urls")``.

Add ``"streamchat.adapters.django"`` to ``INSTALLED_APPS`` and one setting, ``STREAMCHAT``; see
`streamchat.adapters.django.conf`. Streams need ASGI; under WSGI all else works.
"""

from __future__ import annotations

from streamchat.errors import MissingDependency

try:
    import django as _django  # noqa: F401
except ImportError as error:
    raise MissingDependency("streamchat.adapters.django", "django", "django") from error

from typing import TYPE_CHECKING, Any

from streamchat.adapters.django.responses import event_response

if TYPE_CHECKING:
    from streamchat.adapters.django.buffer import DjangoEventBuffer

__all__ = ["DjangoEventBuffer", "event_response"]


def __getattr__(name: str) -> Any:
    # Its models cannot be imported before all applications are loaded, and this is one of them.
    if name == "DjangoEventBuffer":
        from streamchat.adapters.django.buffer import DjangoEventBuffer

        return DjangoEventBuffer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
