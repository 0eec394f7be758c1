"""All endpoints, for ``path("chat/", include("streamchat.adapters.django.urls"))``."""

from __future__ import annotations

from django.urls import re_path

from streamchat.adapters.django.views import endpoint

__all__ = ["app_name", "urlpatterns"]

app_name = "streamchat"
urlpatterns = [re_path(r"^(?P<path>.*)$", endpoint, name="endpoint")]
