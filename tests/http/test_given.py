"""What an application gives the endpoints: values that cannot be meant are refused at once, by their name."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from streamchat import Principal, StreamChat, StreamEvent, orchestrate
from streamchat.adapters import asgi, fastapi
from streamchat.adapters.asgi import asgi_app, with_lifespan
from streamchat.adapters.asgi import event_response as asgi_event_response
from streamchat.adapters.fastapi import chat_router
from streamchat.adapters.fastapi import event_response as fastapi_event_response
from streamchat.errors import InvalidInput
from streamchat.events import RunStarted
from streamchat.http import CORS, AGUIOptions, Endpoints, HTTPOptions, VercelOptions
from streamchat.http.openai_options import OpenAIOptions
from streamchat.testing import ScriptedModel
from tests.http.asking import ask


def make_chat() -> StreamChat:
    return StreamChat(model=ScriptedModel.text("Hi."), allow_anonymous=True)


async def none() -> AsyncGenerator[StreamEvent, None]:
    """Never begun."""
    yield RunStarted(run_id="r")


def refused(field: str, make: Any, **given: Any) -> None:
    with pytest.raises(InvalidInput) as refusal:
        make(**given)
    assert refusal.value.field == field, refusal.value


SECONDS = ("heartbeat", "send_timeout", "body_timeout", "retry", "suspended_retry", "suspended_linger")
COUNTS = ("padding", "max_page", "max_body_bytes", "max_streams", "max_streams_per_principal")


@pytest.mark.parametrize("field", [*SECONDS, "stream_lifetime"])
def test_times_are_numbers_of_seconds(field: str) -> None:
    for value in ("15", True, -1, math.nan, [15]):
        refused(field, HTTPOptions, **{field: value})
    one: dict[str, Any] = {field: 1}
    other: dict[str, Any] = {field: 1.0}
    assert HTTPOptions(**one) == HTTPOptions(**other)


@pytest.mark.parametrize("field", COUNTS)
def test_counts_are_whole_numbers(field: str) -> None:
    for value in ("15", True, -1, 1.5, math.inf):
        refused(field, HTTPOptions, **{field: value})
    one: dict[str, Any] = {field: 1}
    HTTPOptions(**one)


def test_what_is_without_a_bound_is_none_only_where_it_may_be() -> None:
    for field in ("stream_lifetime", "max_body_bytes", "max_streams", "max_streams_per_principal"):
        HTTPOptions(**{field: None})  # type: ignore[arg-type]
    for field in (*SECONDS, "padding", "max_page", "openai", "ag_ui", "vercel"):
        refused(field, HTTPOptions, **{field: None})
    for field in ("retry", "suspended_retry"):
        refused(field, HTTPOptions, **{field: math.inf})
    for field in ("heartbeat", "send_timeout", "body_timeout", "stream_lifetime"):
        refused(field, HTTPOptions, **{field: 0})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("origins", "https://a.example"),
        ("origins", None),
        ("origins", 5),
        ("origins", [5]),
        ("origins", {"https://a.example": True}),
        ("credentials", "yes"),
        ("headers", "X-Mine"),
        ("headers", [None]),
        ("max_age", "600"),
        ("max_age", -1),
        ("max_age", 1.5),
    ],
)
def test_cors_says_what_is_wrong_with_what_it_was_given(field: str, value: Any) -> None:
    refused(field, CORS, **{"origins": ["https://a.example"], field: value})


@pytest.mark.parametrize("origins", ["*", ["*"], ("https://a.example",), {"https://a.example"}, []])
def test_cors_takes_any_list_of_origins(origins: Any) -> None:
    CORS(origins)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("models", "agent"),
        ("models", {"agent"}),
        ("models", [None]),
        ("client_tools", "yes"),
        ("system_messages", "keep"),
        ("system_messages", ["drop"]),
        ("conversation_header", None),
        ("hold_steps", 1),
        ("reasoning_field", 5),
        ("reasoning_field", "content"),
        ("separator", None),
        ("on_disconnect", "wait"),
        ("on_disconnect", -1),
    ],
)
def test_options_of_openai_s_wire_are_what_they_say(field: str, value: Any) -> None:
    refused(field, OpenAIOptions, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target", "v8"),
        ("target", 7),
        ("target", ["v7"]),
        ("progress", "none"),
        ("dynamic", "search"),
        ("dynamic", [None]),
        ("dynamic", None),
        ("hold_steps", "no"),
        ("replay_seconds", "60"),
        ("replay_seconds", -1),
        ("replay_seconds", math.nan),
        ("on_disconnect", "wait"),
    ],
)
def test_options_of_vercel_s_wire_are_what_they_say(field: str, value: Any) -> None:
    refused(field, VercelOptions, **{field: value})
    given: dict[str, Any] = {"dynamic": {"search"}, "on_disconnect": 5, "replay_seconds": 0}
    VercelOptions(**given)


@pytest.mark.parametrize(
    ("field", "value"), [("client_tools", "yes"), ("on_disconnect", "wait"), ("on_disconnect", True)]
)
def test_options_of_ag_ui_are_what_they_say(field: str, value: Any) -> None:
    refused(field, AGUIOptions, **{field: value})


@pytest.mark.parametrize("make", [Endpoints, asgi_app, chat_router])
def test_options_and_origins_are_given_as_what_they_are(make: Any) -> None:
    chat = StreamChat(model=ScriptedModel.text("Hi."), allow_anonymous=True)
    for field, value in (
        ("options", {"heartbeat": 5}),
        ("options", OpenAIOptions()),
        ("cors", ["https://a.example"]),
    ):
        with pytest.raises(InvalidInput) as refusal:
            make(chat, **{field: value})
        assert refusal.value.field == field


OF_ADAPTERS: list[tuple[str, Any, dict[str, Any]]] = [
    ("chat", Endpoints, {"chat": ScriptedModel.text("Hi.")}),
    ("chat", asgi_app, {"chat": None}),
    ("chat", chat_router, {"chat": make_chat}),
    ("chat", with_lifespan, {"app": asgi_app(make_chat()), "chat": "chat"}),
    ("app", with_lifespan, {"app": None, "chat": make_chat()}),
    ("routes", Endpoints, {"chat": make_chat(), "routes": [("GET", "/mine")]}),
    ("routes", asgi_app, {"chat": make_chat(), "routes": 5}),
    ("drain_on_sigterm", asgi_app, {"chat": make_chat(), "drain_on_sigterm": "no"}),
    ("drain_on_sigterm", chat_router, {"chat": make_chat(), "drain_on_sigterm": 1}),
    ("drain_on_sigterm", with_lifespan, {"app": print, "chat": make_chat(), "drain_on_sigterm": 1}),
    ("events", asgi_event_response, {"events": ["Hi."]}),
    ("events", fastapi_event_response, {"events": orchestrate}),
    ("options", asgi_event_response, {"events": none(), "options": {"heartbeat": 1}}),
    ("options", fastapi_event_response, {"events": none(), "options": VercelOptions()}),
    ("wire", asgi_event_response, {"events": none(), "wire": "native"}),
]


@pytest.mark.parametrize(("field", "make", "given"), OF_ADAPTERS)
def test_adapters_say_what_is_wrong_with_what_they_are_given(
    field: str, make: Any, given: dict[str, Any]
) -> None:
    refused(field, make, **given)


@pytest.mark.parametrize("adapter", [asgi, fastapi])
@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("verify", {"verify": "secret"}),
        ("refused", {"verify": print, "refused": "ValueError"}),
        ("refused", {"verify": print, "refused": (ValueError, "x")}),
        ("id_claim", {"verify": print, "id_claim": None}),
        ("tenant_claim", {"verify": print, "tenant_claim": 5}),
        ("keep", {"verify": print, "keep": [5]}),
    ],
)
def test_a_bearer_principal_says_what_is_wrong_with_what_it_is_given(
    adapter: Any, field: str, given: dict[str, Any]
) -> None:
    refused(field, adapter.bearer_principal, **given)


@pytest.mark.parametrize("adapter", [asgi, fastapi])
def test_principals_of_a_session_say_what_is_wrong_with_what_they_are_given(adapter: Any) -> None:
    refused("key", adapter.session_principal, key=None)
    refused("tenant_key", adapter.session_principal, tenant_key=5)
    refused("identify", adapter.user_principal, identify="identity")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "made",
    [
        Principal(5),  # type: ignore[arg-type]
        Principal(""),
        Principal("ann", 5),  # type: ignore[arg-type]
        Principal("ann", expires_at="soon"),  # type: ignore[arg-type]
        Principal("ann", expires_at=math.nan),
        Principal("ann", claims={"of": object()}),
        Principal("a\0nn"),
    ],
    ids=repr,
)
async def test_a_principal_that_is_none_is_the_applications_mistake_not_the_clients(
    made: Principal, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_chat() as chat:
        endpoints = Endpoints(chat, principal=lambda _: made)
        answer = await ask(endpoints, "POST", "/runs", json={"message": "Hi"})
        assert (answer.status, answer.json()["error"]["code"]) == (500, "internal_error")
        assert b"principal" not in answer.body
    assert re.search(r"Principal\((id|tenant|expires_at)=|principal\.(id|claims)", caplog.text)


@pytest.mark.anyio
async def test_what_is_wrong_with_an_id_or_an_address_is_said_in_words() -> None:
    async with make_chat() as chat:
        endpoints = Endpoints(chat)
        image = {"type": "image_url", "image_url": {"url": "ftp://a/b"}}
        for body, words in (
            ({"message": "Hi", "conversation_id": "a/b"}, "without '/'"),
            ({"message": "Hi", "conversation_id": ".."}, "without '/'"),
            ({"message": [image]}, "begin with http://"),
        ):
            error = (await ask(endpoints, "POST", "/runs", json=body)).json()["error"]
            assert words in error["message"]
            assert "^" not in error["message"]
