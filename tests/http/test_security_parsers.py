"""Every parser that takes bytes from outside: whatever they are, it reads them, or refuses them as it should.

The decoders' own laws (any split gives the same) are in `tests/core`, of provider streams in `tests/models`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from streamchat import ServiceLimits, StoredEvent
from streamchat.adapters.asgi.app import request_from_scope
from streamchat.client import ClientError, Reset
from streamchat.client.errors import refusal
from streamchat.client.following import _Reading
from streamchat.core.cursor import parse_cursor
from streamchat.core.sse import Frame, SSEDecoder
from streamchat.errors import CursorInvalid, InvalidInput
from streamchat.http import CORS, Endpoints, HTTPError, HTTPOptions, Request
from streamchat.http.bodies import (
    ApprovalBody,
    CancelBody,
    JobBody,
    RetryBody,
    StartBody,
    ToolResultBody,
    parse_body,
)
from streamchat.http.cors import check_origin
from streamchat.http.limits import read_body
from streamchat.http.openapi import OPERATIONS
from streamchat.http.runs import client_id, idempotency_key, last_event_id
from streamchat.service.attachments import check_attachments
from streamchat.service.request import user_content
from streamchat.testing import accumulate_sse
from tests.http.asking import Answer, blocks_of, collect, make_request
from tests.http.guessing import make_chat

WIRE_BODIES = {operation.body for operation in OPERATIONS.values() if operation.body is not None}
BODIES = sorted(
    {StartBody, CancelBody, RetryBody, ApprovalBody, ToolResultBody, JobBody} | WIRE_BODIES, key=str
)

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


def near(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Objects with the model's own fields, and anything in them."""
    names = list(model.model_fields)
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=5), values, max_size=5)


def outcome(call: Callable[[], T], refusal: type[E]) -> tuple[T | None, E | None]:
    """What a call returned, or how it refused; anything else that it raises is a defect."""
    try:
        return call(), None
    except refusal as error:
        return None, error


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def bodies_near(draw: st.DrawFn, model: type[BaseModel]) -> bytes:
    body: bytes = draw(st.binary(max_size=60) | near(model).map(as_bytes) | values.map(as_bytes))
    if body and draw(st.booleans()):
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 2)) :]
    return body


@pytest.mark.parametrize("model", BODIES, ids=lambda model: model.__name__)
def test_a_body_is_read_or_refused_with_its_field(model: type[BaseModel]) -> None:
    @settings(max_examples=40)
    @given(bodies_near(model))
    def read(body: bytes) -> None:
        given, error = outcome(lambda: parse_body(body, model), HTTPError)
        if error is None:
            assert isinstance(given, model)
        else:
            assert (error.status, bool(error.field)) == (422, True)
            # The log does not repeat what was sent.
            assert re.fullmatch(r"The body is not valid JSON: .*|the body does not fit: [a-z_]+", str(error))

    read()


@given(st.lists(st.binary(max_size=30), max_size=8), st.text(max_size=8), st.integers(0, 60))
def test_a_body_in_pieces_is_whole_or_too_large(blocks: Sequence[bytes], declared: str, most: int) -> None:
    async def read() -> bytes | int:
        request = Request("POST", "/", "", {"content-length": declared}, blocks_of(blocks))
        try:
            return await read_body(request, most, 5)
        except HTTPError as error:
            return error.status

    whole = b"".join(blocks)
    got = asyncio.run(read())
    said = declared.isascii() and declared.isdecimal() and int(declared) > most
    assert got == (413 if said or len(whole) > most else whole)


@given(st.text(max_size=80) | st.from_regex(r"[a-z0-9_-]{1,70}\.[0-9]{1,17}", fullmatch=True))
def test_a_cursor_is_what_it_is_or_none(text: str) -> None:
    try:
        cursor = parse_cursor(text)
    except CursorInvalid:
        return
    assert str(cursor) == text
    assert cursor.seq <= 2**53


latin = st.text(st.characters(max_codepoint=255), max_size=40)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "origin",
                "host",
                "sec-fetch-site",
                "last-event-id",
                "idempotency-key",
                "x-client-id",
                "content-type",
            ]
        ),
        latin | st.sampled_from(["http://[", "null", "https://a.example", "cross-site", "a.1"]),
    ),
    latin,
)
def test_headers_and_queries_are_read_or_refused(headers: dict[str, str], query: str) -> None:
    request = make_request("POST", f"/runs?{query}", headers=headers)
    for read in (
        last_event_id,
        idempotency_key,
        client_id,
        lambda request: check_origin(request, CORS(["https://a.example"])),
    ):
        with suppress(HTTPError, CursorInvalid):
            read(request)


part = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=10) | scalars}),
    st.fixed_dictionaries(
        {
            "type": st.just("image_url"),
            "image_url": st.fixed_dictionaries({"url": st.text(max_size=40) | scalars}),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("image_url"),
            "image_url": st.fixed_dictionaries(
                {"url": st.from_regex(r"data:[a-z/;]*(;base64)?,[ -~]{0,30}")}
            ),
        }
    ),
    st.fixed_dictionaries(
        {"type": st.just("input_audio"), "input_audio": st.dictionaries(st.just("data"), scalars)}
    ),
    st.fixed_dictionaries({"type": st.just("file"), "file": st.dictionaries(st.just("file_data"), scalars)}),
    values,
)


@given(st.text(max_size=20) | st.lists(part, max_size=4) | values)
def test_a_message_is_taken_or_refused_with_its_field(message: Any) -> None:
    limits = ServiceLimits(max_message_chars=15, max_attachments=2, max_attachment_bytes=20)
    _, error = outcome(
        lambda: check_attachments(user_content(message, limits.max_message_chars), limits), InvalidInput
    )
    assert error is None or error.field


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "", "get", "\x00"]),
            st.text(max_size=20).map("/".__add__)
            | st.sampled_from([path.replace("{id}", "x") for _, path in OPERATIONS])
            | st.text(max_size=8).map(lambda text: f"/runs/{text}/stream"),
            st.binary(max_size=30),
            st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=20)), max_size=4),
            st.binary(max_size=40) | values.map(as_bytes),
        ),
        max_size=12,
    )
)
def test_any_request_of_a_server_has_an_answer(requests: list[Any]) -> None:
    async def receive_of(body: bytes) -> AsyncIterator[Any]:
        yield {"type": "http.request", "body": body, "more_body": False}
        await asyncio.sleep(3600)

    async def ask_all() -> list[Answer]:
        async with make_chat(allow_anonymous=True) as chat:
            endpoints = Endpoints(chat, options=HTTPOptions(suspended_linger=0.01))
            answers = []
            for method, path, query, headers, body in requests:
                scope = {
                    "type": "http",
                    "method": method,
                    "path": path,
                    "query_string": query,
                    "headers": [*headers, (b"content-type", b"application/json")],
                    "root_path": "",
                }
                messages = receive_of(body)
                async with asyncio.timeout(20):
                    request = request_from_scope(scope, messages.__anext__)
                    answers.append(await collect(await endpoints.handle(request)))
                await messages.aclose()  # type: ignore[attr-defined]
            return answers

    for answer in asyncio.run(ask_all()):
        assert 200 <= answer.status < 500 or answer.status == 503, answer
        for name, value in answer.headers.items():
            assert not {"\r", "\n", "\x00"} & set(name + value)


# What the Python client reads from a server, or from whatever answers in its place.

events = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text_delta", "history_reset", "run_started", "new_type"]) | scalars,
        "seq": st.integers(0, 9) | scalars,
        "at": scalars,
        "snapshot": values,
        "reason": scalars,
        "first_seq": scalars,
        "last_seq": scalars,
        "text": scalars,
        "part": scalars,
    },
)


@given(st.lists(st.binary(max_size=40) | events.map(as_bytes) | values.map(as_bytes), max_size=6))
def test_the_client_reads_a_frame_or_says_that_it_cannot(datas: list[bytes]) -> None:
    reading = _Reading()
    for data in datas:
        frame = Frame("message", data, "abc.1", None)
        item, error = outcome(partial(reading.item, frame), ClientError)
        assert error is None or error.code == "unreadable_stream"
        assert item is None or isinstance(item, StoredEvent | Reset)


@given(st.integers(400, 599), st.binary(max_size=60) | values.map(as_bytes))
def test_whatever_a_refusal_says_it_is_one(status: int, body: bytes) -> None:
    error = refusal(status, body)
    assert error.status == status
    assert str(error)


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_the_decoder_of_streams_takes_anything(blocks: list[bytes]) -> None:
    decoder = SSEDecoder()
    for block in blocks:
        for frame in decoder.feed(block):
            assert "\x00" not in frame.id
            assert frame.retry is None or frame.retry >= 0


@given(
    st.lists(
        st.binary(max_size=40)
        | values.map(lambda value: b"data: " + as_bytes(value) + b"\n\n")
        | st.dictionaries(
            st.sampled_from(["choices", "usage", "error", "type", "delta", "response"]), values
        ).map(lambda value: b"data: " + as_bytes(value) + b"\n\n"),
        max_size=6,
    ),
    st.sampled_from(["chat", "responses"]),
)
def test_whatever_a_provider_sends_is_read_to_a_completion(blocks: list[bytes], api: Any) -> None:
    completion = accumulate_sse(b"".join(blocks), api)
    assert completion.error is None or isinstance(completion.error, str)
