"""All endpoints, for ``path("chat/", include("streamchat.adapters.django.urls"))``."""

from __future__ import annotations

from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt

from streamchat.adapters.django.views import endpoint

__all__ = ["app_name", "urlpatterns"]

app_name = "streamchat"
urlpatterns = [
    # Who does a job has no page and no cookie: the job's own secret lets them in, and nothing else does.
    re_path(r"^(?P<path>jobs/[^/]+)$", csrf_exempt(endpoint), name="job"),
    re_path(r"^(?P<path>.*)$", endpoint, name="endpoint"),
]
