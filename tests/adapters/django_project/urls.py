"""The project's URLs."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import JsonResponse
from django.middleware.csrf import get_token
from django.urls import include, path

from streamchat.adapters.django import event_response
from streamchat.orchestrator import orchestrate
from streamchat.testing import ScriptedModel
from streamchat.wire.ag_ui import AGUIEncoder, AGUIWire


def token(request: Any) -> Any:
    return JsonResponse({"token": get_token(request)})


async def bare(request: Any) -> Any:
    return event_response(orchestrate(ScriptedModel.text("Hi."), [{"role": "user", "content": "Hi"}]))


def bare_sync(request: Any) -> Any:
    return event_response(orchestrate(ScriptedModel.text("Hi."), [{"role": "user", "content": "Hi"}]))


def bare_ag_ui(request: Any) -> Any:
    wire = AGUIWire(AGUIEncoder(thread_id="t", run_id="r"))
    return event_response(orchestrate(ScriptedModel.text("Hi."), "Hi"), wire=wire)


urlpatterns = [
    path("admin/", admin.site.urls),
    path("token/", token),
    path("bare/", bare),
    path("bare-sync/", bare_sync),
    path("bare-ag-ui/", bare_ag_ui),
    path("chat/", include("streamchat.adapters.django.urls")),
]
