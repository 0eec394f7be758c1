"""What an application gives the endpoints: values that cannot be meant are refused at once, by their name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from streamchat import StreamChat
from streamchat.adapters.asgi import asgi_app
from streamchat.adapters.fastapi import chat_router
from streamchat.errors import InvalidInput
from streamchat.http import CORS, Endpoints, HTTPOptions
from streamchat.http.openai_options import OpenAIOptions
from streamchat.testing import ScriptedModel


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
