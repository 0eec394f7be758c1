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

from streamchat.adapters.django.responses import event_response

__all__ = ["event_response"]
