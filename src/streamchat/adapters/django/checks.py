"""What ``manage.py check`` says of the project: a setting that is wrong, a server that cannot stream."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from streamchat.adapters.django import conf
from streamchat.errors import StreamChatError

__all__ = ["check_setting", "check_streaming"]


@register()
def check_setting(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """The setting leads to endpoints."""
    try:
        conf.endpoints()
    except (ImproperlyConfigured, StreamChatError) as error:
        return [Error(str(error), id="streamchat.E001")]
    return []


@register()
def check_streaming(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """The project has an ASGI application."""
    if getattr(settings, "ASGI_APPLICATION", None) is None:
        return [
            Warning(
                "ASGI_APPLICATION is not set: under WSGI nothing can be streamed, and the stream endpoints "
                "answer 501",
                hint='set ASGI_APPLICATION = "mysite.asgi.application" and use an ASGI server',
                id="streamchat.W001",
            )
        ]
    return []
