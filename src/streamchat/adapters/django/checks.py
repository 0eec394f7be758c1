"""What ``manage.py check`` says of the project: a setting that is wrong, a server that cannot stream."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from streamchat.adapters.django import conf
from streamchat.errors import StreamChatError

__all__ = ["check_csrf", "check_database", "check_setting", "check_streaming"]


@register()
def check_setting(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """The setting leads to endpoints."""
    try:
        conf.endpoints()
    except (ImproperlyConfigured, StreamChatError) as error:
        return [Error(str(error), id="streamchat.E001")]
    except Exception as error:
        # Not an error: `migrate` is run where there are no secrets.
        return [
            Warning(
                f"the chat cannot be made here: {type(error).__name__}: {error}",
                hint="without it no endpoint works; where a project is only built or migrated, that is fine",
                id="streamchat.W002",
            )
        ]
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


@register()
def check_csrf(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Where a cookie says who asks, a token says from where."""
    csrf = "django.middleware.csrf.CsrfViewMiddleware"
    if conf.asks_the_session() and csrf not in settings.MIDDLEWARE:
        return [
            Warning(
                "the session's user asks, and CsrfViewMiddleware is not in MIDDLEWARE: pages of other sites "
                "could ask in the user's name",
                hint=f"add {csrf!r}, or name a PRINCIPAL that reads a token",
                id="streamchat.W004",
            )
        ]
    return []


@register()
def check_database(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """The database of runs is there and, where it is SQLite, lets several write."""
    try:
        alias = conf.database()
    except StreamChatError:
        return []  # the check of the setting says so
    known: Any = connections.settings
    if alias not in known:
        return [
            Error(
                f"STREAMCHAT['DATABASE'] is {alias!r}, and DATABASES has no such entry", id="streamchat.E002"
            )
        ]
    options = known[alias].get("OPTIONS", {})
    if not conf.keeps_runs(alias) or connections[alias].vendor != "sqlite":
        return []
    if (options.get("transaction_mode") or "").upper() == "IMMEDIATE":
        return []
    return [
        Warning(
            f"the database {alias!r} is SQLite, without transaction_mode IMMEDIATE: the project's own "
            f"transactions fail with 'database is locked' where they begin to write after a run was written",
            hint='set OPTIONS = {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"}',
            id="streamchat.W003",
        )
    ]
