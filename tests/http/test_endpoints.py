"""What holds for all endpoints: routes, methods, masked failures, other origins, further routes."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from streamchat.errors import BufferUnavailable, InvalidInput, StreamChatError
from streamchat.http import CORS, Call, ClientGone, Endpoints, HTTPError, Response, Route
from streamchat.principal import Principal
from streamchat.service.access import owns
from streamchat.service.chat import StreamChat
from streamchat.testing import ScriptedModel
from tests.http.asking import ask, make_request, serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/run",
        "/runs/",
        "/runs//stream",
        "/runs/a/b/stream",
        "/runs/a/nothing",
        "/conversations/a/b",
        "//runs",
        "/runs/a/../b",
    ],
)
async def test_what_is_not_served_is_404(path: str) -> None:
    async with serving() as endpoints:
        answer = await ask(endpoints, "GET", path)
        assert answer.status == (405 if path == "/runs/" else 404)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/runs", "OPTIONS, POST"),
        ("DELETE", "/runs/stream", "OPTIONS, POST"),
        ("POST", "/runs/x", "GET, HEAD, OPTIONS"),
        ("PUT", "/runs/x/stream", "GET, HEAD, OPTIONS"),
        ("BREW", "/health/live", "GET, HEAD, OPTIONS"),
    ],
)
async def test_another_method_is_405_and_says_which(method: str, path: str, allow: str) -> None:
    async with serving() as endpoints:
        answer = await ask(endpoints, method, path)
        assert (answer.status, answer.headers["allow"]) == (405, allow)
        options = await ask(endpoints, "OPTIONS", path)
        assert (options.status, options.headers["allow"], options.body) == (204, allow, b"")


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with serving() as endpoints:
        run_id = (await ask(endpoints, "POST", "/runs/reply", json={"message": "Hi"})).json()["run_id"]
        for path in (f"/runs/{run_id}", "/health/live", "/conversations", f"/runs/{run_id}/events"):
            get, head = await ask(endpoints, "GET", path), await ask(endpoints, "HEAD", path)
            assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")
        stream = await ask(endpoints, "HEAD", f"/runs/{run_id}/stream")
        assert (stream.status, stream.body) == (200, b"")
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert endpoints.open_streams == 0


async def test_a_failure_is_masked_and_the_log_has_it_under_its_correlation_id(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as endpoints:

        async def fails(*args: Any, **options: Any) -> None:
            raise RuntimeError("password=hunter2")

        monkeypatch.setattr(endpoints.chat.buffer, "get", fails)
        with caplog.at_level(logging.ERROR, "streamchat.http"):
            answer = await ask(endpoints, "GET", "/runs/x")
        assert answer.status == 500
        assert answer.error["code"] == "internal_error"
        assert b"hunter2" not in answer.body
        (record,) = caplog.records
        assert answer.error["correlation_id"] in record.getMessage()
        assert record.exc_info is not None
        assert "hunter2" in str(record.exc_info[1])


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BufferUnavailable("db at 10.0.0.7 is gone"), 503, "buffer_unavailable"),
        (InvalidInput("secret text", field="message"), 422, "invalid_input"),
        (StreamChatError("secret text"), 500, "internal_error"),
    ],
)
async def test_no_text_of_an_exception_reaches_the_client(
    error: Exception, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as endpoints:

        async def fails(*args: Any, **options: Any) -> None:
            raise error

        monkeypatch.setattr(endpoints.chat, "start", fails)
        for path in ("/runs", "/runs/stream"):
            answer = await ask(endpoints, "POST", path, json={"message": "Hi"})
            assert (answer.status, answer.error["code"]) == (status, code)
            assert str(error).encode() not in answer.body
            assert ("retry-after" in answer.headers) == (status == 503)
        assert endpoints.open_streams == 0


async def test_a_principal_function_that_fails_is_masked_and_one_that_refuses_is_heard() -> None:
    async with StreamChat(model=ScriptedModel.text("x"), authorize=owns) as chat:

        def fails(request: Any) -> Principal | None:
            raise KeyError("token")

        async def refuses(request: Any) -> Principal | None:
            raise HTTPError(403, "suspended", "Your account is suspended.")

        assert (await ask(Endpoints(chat, principal=fails), "GET", "/conversations")).status == 500
        answer = await ask(Endpoints(chat, principal=refuses), "GET", "/conversations")
        assert (answer.status, answer.error["code"]) == (403, "suspended")


async def test_endpoints_that_nobody_could_use_are_refused_at_construction() -> None:
    chat = StreamChat(model=ScriptedModel.text("x"), authorize=owns)
    with pytest.raises(StreamChatError, match="principal="):
        Endpoints(chat)


async def test_the_first_request_opens_the_service_and_health_tells_when_it_cannot() -> None:
    chat = StreamChat(model=ScriptedModel.text("x", repeat=True), allow_anonymous=True)
    endpoints = Endpoints(chat)
    assert (await ask(endpoints, "GET", "/health/live")).status == 200
    try:
        assert (await ask(endpoints, "POST", "/runs/reply", json={"message": "Hi"})).status == 200
    finally:
        await chat.close()
    # A late request does not bring a closed service back to life.
    assert (await ask(endpoints, "POST", "/runs", json={"message": "Hi"})).status >= 500


async def test_a_store_that_cannot_be_opened_is_503_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = StreamChat(model=ScriptedModel.text("x", repeat=True), allow_anonymous=True)
    endpoints = Endpoints(chat)

    async def fails() -> Any:
        raise BufferUnavailable("no route to the store")

    with monkeypatch.context() as patch:
        patch.setattr(chat.buffer, "open", fails)
        for path in ("/health/ready", "/conversations"):
            answer = await ask(endpoints, "GET", path)
            assert (answer.status, answer.error["code"]) == (503, "buffer_unavailable")
    try:
        assert (await ask(endpoints, "GET", "/health/ready")).status == 200
    finally:
        await chat.close()


async def test_a_client_that_leaves_while_it_is_read_is_not_answered() -> None:
    async with serving() as endpoints:

        async def leaves() -> Any:
            yield b'{"mess'
            raise ClientGone("gone")

        request = make_request("POST", "/runs", json={})
        request.body = leaves()
        with pytest.raises(ClientGone):
            await endpoints.handle(request)
        assert (await ask(endpoints, "GET", "/conversations")).json()["conversations"] == []


async def test_another_wire_brings_its_own_routes() -> None:
    async def hello(call: Call) -> Response:
        return Response(200, f"hello {call.principal.id if call.principal else ''} {call.id}".encode())

    async with StreamChat(model=ScriptedModel.text("x"), authorize=owns) as chat:
        endpoints = Endpoints(
            chat, principal=lambda request: Principal("ann"), routes=[Route("GET", "/hello/{id}", hello)]
        )
        assert (await ask(endpoints, "GET", "/hello/you")).body == b"hello ann you"


# Other origins.

APP = "https://app.example"


async def test_a_page_of_an_allowed_origin_may_resume_streams() -> None:
    async with serving() as served:
        endpoints = Endpoints(served.chat, cors=CORS([APP], credentials=True, headers=["X-Tenant"]))
        asked = {"Origin": APP, "Access-Control-Request-Method": "GET"}
        preflight = await ask(endpoints, "OPTIONS", "/runs/x/stream", headers=asked)
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == APP
        assert preflight.headers["access-control-allow-credentials"] == "true"
        assert preflight.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
        allowed = preflight.headers["access-control-allow-headers"].split(", ")
        assert {"Last-Event-ID", "Idempotency-Key", "Content-Type", "Authorization", "X-Tenant"} <= set(
            allowed
        )
        answer = await ask(endpoints, "GET", "/runs/x", headers={"Origin": APP})
        assert answer.status == 404
        assert answer.headers["access-control-allow-origin"] == APP
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Origin"


async def test_a_page_with_openais_client_may_ask_with_the_headers_that_it_sends() -> None:
    async with serving() as served:
        endpoints = Endpoints(served.chat, cors=CORS([APP]))
        sent = ["authorization", "content-type", "user-agent", "x-stainless-lang", "x-stainless-new-one"]
        asked = {
            "Origin": APP,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": ",".join([*sent, "x-secret", "x-stainless-a b"]),
        }
        preflight = await ask(endpoints, "OPTIONS", "/runs", headers=asked)
        allowed = preflight.headers["access-control-allow-headers"].lower().split(", ")
        assert set(sent) <= set(allowed)
        assert not {"x-secret", "x-stainless-a b"} & set(allowed)


async def test_a_page_of_any_other_origin_is_told_nothing() -> None:
    async with serving() as served:
        endpoints = Endpoints(served.chat, cors=CORS([APP]))
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        preflight = await ask(endpoints, "OPTIONS", "/runs", headers=asked)
        assert not [name for name in preflight.headers if name.startswith("access-control")]
        assert preflight.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Origin": "http://test"}, 202),
        ({"Origin": APP, "Sec-Fetch-Site": "cross-site"}, 202),
        ({"Origin": "http://test", "Sec-Fetch-Site": "same-origin"}, 202),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://test:81"}, 403),
        ({"Origin": "http://test", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_another_site_cannot_cancel_with_the_users_cookies(
    headers: dict[str, str], status: int
) -> None:
    async with serving() as served:
        endpoints = Endpoints(served.chat, cors=CORS([APP]))
        run_id = (await ask(endpoints, "POST", "/runs/reply", json={"message": "Hi"})).json()["run_id"]
        answer = await ask(endpoints, "POST", f"/runs/{run_id}/cancel", headers=headers)
        assert answer.status == status
        assert (await ask(endpoints, "GET", f"/runs/{run_id}", headers=headers)).status == 200


async def test_all_origins_may_be_allowed_but_not_with_credentials() -> None:
    async with serving() as served:
        endpoints = Endpoints(served.chat, cors=CORS("*"))
        answer = await ask(endpoints, "GET", "/health/live", headers={"Origin": "https://any.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "vary" not in answer.headers
    with pytest.raises(InvalidInput, match="name the origins"):
        CORS("*", credentials=True)
    with pytest.raises(InvalidInput, match="list of origins"):
        CORS("https://app.example")
