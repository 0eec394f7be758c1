"""The description of the endpoints says what they really take and answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamchat.adapters.asgi import asgi_app
from streamchat.events import EVENT_TYPES
from streamchat.http import Endpoints, Route
from streamchat.http.openapi import OPERATIONS, openapi_document, operation_id
from streamchat.http.schemas import StreamedEvent
from streamchat.service.chat import StreamChat
from streamchat.testing import ScriptedModel
from tests.adapters.serving import fetch, serve, stream

pytestmark = pytest.mark.anyio


def make_chat() -> StreamChat:
    return StreamChat(model=ScriptedModel.text("Hello there.", repeat=True), allow_anonymous=True)


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


async def test_every_endpoint_is_described_under_a_name_of_its_own() -> None:
    routes = Endpoints(make_chat()).routes
    assert {(route.method, route.path) for route in routes} == set(OPERATIONS)
    assert len({operation_id(route) for route in routes}) == len(routes)


async def test_every_reference_of_the_document_leads_somewhere() -> None:
    document = openapi_document(Endpoints(make_chat()).routes)
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= schemas
    # Nothing that is stored for the server alone is in it.
    assert "private" not in json.dumps(document["components"]["schemas"]["StreamedTextDelta"])


async def test_every_event_is_in_the_union_and_has_its_place_in_the_log() -> None:
    document = openapi_document(Endpoints(make_chat()).routes)
    mapping = document["components"]["schemas"]["StreamedEvent"]["discriminator"]["mapping"]
    assert set(mapping) == {*EVENT_TYPES, "history_reset"}
    for name in EVENT_TYPES:
        required = document["components"]["schemas"][mapping[name].rpartition("/")[2]]["required"]
        assert {"type", "seq", "at"} <= set(required)


async def test_what_is_answered_is_what_the_description_says() -> None:
    async with serve(asgi_app(make_chat())) as port:

        async def held(method: str, path: str, *, known: str, body: Any = None) -> Any:
            operation = OPERATIONS[(method, known)]
            status, answer = await fetch(port, method, path, body)
            assert status == operation.status
            assert operation.answer is not None
            model = operation.answer.model_validate(answer)
            assert not model.model_extra, f"{known} answers with more than it says"
            return answer

        started = await held("POST", "/runs", known="/runs", body={"message": "Hi"})
        run, conversation = f"/runs/{started['run_id']}", f"/conversations/{started['conversation_id']}"
        _, frames = await stream(port, started["stream_url"])
        for frame in frames:
            if frame.data:
                StreamedEvent.model_validate_json(frame.data)
        reply = {"message": "Hi", "conversation_id": started["conversation_id"]}
        await held("POST", "/runs/reply", known="/runs/reply", body=reply)
        await held("GET", run, known="/runs/{id}")
        await held("GET", f"{run}/events", known="/runs/{id}/events")
        await held("POST", f"{run}/cancel", known="/runs/{id}/cancel")
        await held("GET", "/conversations", known="/conversations")
        await held("GET", f"{conversation}/messages", known="/conversations/{id}/messages")
        await held("GET", f"{conversation}/enqueued", known="/conversations/{id}/enqueued")
        await held("GET", "/health/live", known="/health/live")
        await held("GET", "/health/ready", known="/health/ready")
        for path, status in (("/runs/none", 404), ("/runs/none/stream?last_event_id=a", 400)):
            answered, answer = await fetch(port, "GET", path)
            assert answered == status
            assert set(answer["error"]) >= {"code", "message", "correlation_id"}


async def test_the_document_is_served_with_the_prefix_under_which_it_was_asked_for() -> None:
    async with serve(asgi_app(make_chat()), root_path="/chat") as port:
        status, document = await fetch(port, "GET", "/openapi.json")
    assert status == 200
    assert document["openapi"] == "3.1.0"
    assert "/chat/runs/{id}/stream" in document["paths"]


async def test_routes_of_the_application_are_described_by_their_path() -> None:
    async def handler(call: Any) -> Any: ...

    document = openapi_document([Route("GET", "/mine/{id}", handler)], prefix="/x")
    assert document["paths"]["/x/mine/{id}"]["get"]["parameters"][0]["name"] == "id"
