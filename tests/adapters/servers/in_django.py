"""The Django adapter under ASGI, as it is served: with GZip and synchronous middleware in front."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings

from tests.adapters.servers.common import OPTIONS, Door, drain_under_daphne, make_chat

settings.configure(
    SECRET_KEY="a test's",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["streamchat.adapters.django"],
    MIDDLEWARE=[
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.common.CommonMiddleware",
        "tests.adapters.django_project.middleware.SyncMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    STREAMCHAT={"CHAT": make_chat, "PRINCIPAL": f"{__name__}.nobody", "HTTP": OPTIONS},
)
django.setup()

from django.core.asgi import get_asgi_application
from django.urls import include, path

from streamchat.adapters.asgi import with_lifespan
from streamchat.adapters.django import conf
from streamchat.adapters.django.websocket import with_websocket


def nobody(request: Any) -> None:
    return None


urlpatterns = [path("chat/", include("streamchat.adapters.django.urls"))]
chat = conf.chat()
app = Door(with_lifespan(with_websocket(get_asgi_application()), chat, drain_on_sigterm=True))
drain_under_daphne(chat)
