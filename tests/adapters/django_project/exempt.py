"""The project's URLs where bearer tokens are used: there is no cookie that another site could make use of."""

from __future__ import annotations

from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt

from streamchat.adapters.django.views import endpoint

urlpatterns = [re_path(r"^chat/(?P<path>.*)$", csrf_exempt(endpoint))]
