"""What an attacker, or a client gone wrong, may send: one answer each, and nothing told."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest

from streamchat import Principal, ServiceLimits, ToolContext, ToolRegistry, owns
from streamchat.adapters.asgi import asgi_app
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.http import CORS, Endpoints, HTTPError, HTTPOptions
from streamchat.http.cors import check_origin
from streamchat.http.limits import StreamCount, who
from streamchat.http.openapi import openapi_document
from streamchat.service.chat import StreamChat
from streamchat.testing import Call, ScriptedModel, Stall, Step
from tests.adapters.serving import request, serve
from tests.http.asking import Answer, ask, make_request, serving
from tests.http.guessing import GUESS, OWN, body_of, guessed, nobodys, operations, plain, put, settle

pytestmark = pytest.mark.anyio

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


# Pages of other sites.


def changing(endpoints: Endpoints) -> list[tuple[str, str]]:
    """Each operation that changes something, at a path that exists nowhere."""
    paths = openapi_document(endpoints.routes)["paths"]
    return [
        (method.upper(), path.replace("{id}", "x"))
        for path, methods in paths.items()
        for method in methods
        if method not in ("get", "head")
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "https://other.test"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "https://test.evil.example"},
    ],
)
async def test_a_page_of_another_site_can_change_nothing_on_any_endpoint(headers: dict[str, str]) -> None:
    async with serving() as endpoints:
        asked = changing(endpoints)
        assert len(asked) > 8
        for method, path in asked:
            answer = await ask(endpoints, method, path, json={}, headers=headers)
            assert answer.status == 403, (method, path)


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "https://TEST"}, {"Sec-Fetch-Site": "none"}, {}]
)
async def test_a_page_of_the_same_origin_and_what_is_no_page_may(headers: dict[str, str]) -> None:
    async with serving() as endpoints:
        answer = await ask(endpoints, "POST", "/runs", json={"message": "Hi"}, headers=headers)
        assert answer.status == 201


async def test_a_form_of_another_site_has_no_body_that_any_endpoint_takes() -> None:
    async with serving() as endpoints:
        paths = openapi_document(endpoints.routes)["paths"]
        with_body = [path for path, methods in paths.items() if "requestBody" in methods.get("post", {})]
        for path in with_body:
            for kind in (
                "application/x-www-form-urlencoded",
                "multipart/form-data; boundary=x",
                "text/plain",
            ):
                answer = await ask(
                    endpoints,
                    "POST",
                    path.replace("{id}", "x"),
                    body=b'{"message": "Hi"}',
                    headers={"content-type": kind, "x-job-secret": ""},
                )
                # Whoever has no secret is told nothing of the body either.
                assert answer.status == (404 if path.startswith("/jobs/") else 415), (path, kind)


@pytest.mark.parametrize("cors", [CORS("*"), CORS(["https://app.example"])])
async def test_a_page_that_is_let_in_without_credentials_does_nothing_with_the_users_cookies(
    cors: CORS,
) -> None:
    async with serving(users=True) as service:
        endpoints = Endpoints(service.chat, principal=lambda request: Principal(request.native), cors=cors)
        page = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
        path = "/vercel/chat/stop"  # (no body, so the browser asks for no leave)
        assert (await ask(endpoints, "POST", path, headers=page, user="ann")).status == 204
        forged = {**page, "Cookie": "session=ann"}
        assert (await ask(endpoints, "POST", path, headers=forged, user="ann")).status == 403
        own = {"Origin": "https://test", "Sec-Fetch-Site": "same-origin", "Cookie": "session=ann"}
        assert (await ask(endpoints, "POST", path, headers=own, user="ann")).status == 204


@pytest.mark.parametrize("method", ["POST", "WEBSOCKET"])
@pytest.mark.parametrize("cors", [CORS("*"), CORS(["https://app.example"])])
@pytest.mark.parametrize(
    ("authorization", "let_in"),
    [
        ("Basic YW5uOnB3", False),
        ("negotiate YIIJ", False),
        ("NTLM TlRM", False),
        ("Digest username=ann", False),
        ("Bearer-ish x", False),
        ("ann", False),
        ("Bearer token", True),
        ("bearer  token", True),
        ("", True),
    ],
)
def test_a_page_that_is_let_in_without_credentials_does_nothing_with_a_password_the_browser_keeps(
    cors: CORS, method: str, authorization: str, let_in: bool
) -> None:
    """Browsers send it unasked once it was typed; only a bearer token comes from the page."""
    sent = {"Authorization": authorization}
    page = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    request = make_request(method, "/", headers={**page, **sent})
    if let_in:
        check_origin(request, cors)
    else:
        with pytest.raises(HTTPError) as refused:
            check_origin(request, cors)
        assert refused.value.code == "cross_origin"
    check_origin(request, CORS(["https://app.example"], credentials=True))
    own = {"Origin": "https://test", "Sec-Fetch-Site": "same-origin"}
    check_origin(make_request(method, "/", headers={**own, **sent}), cors)


async def test_pages_of_allowed_origins_can_read_refusals_too() -> None:
    async with StreamChat(model=ScriptedModel.text("Hi", repeat=True), authorize=owns) as chat:
        endpoints = Endpoints(chat, principal=lambda request: None, cors=CORS(["https://app.example"]))
        page = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
        for method, path in (("GET", "/runs/x"), ("POST", "/runs"), ("GET", "/nothing"), ("PUT", "/runs")):
            answer = await ask(endpoints, method, path, headers=page)
            assert answer.status in (401, 404, 405)
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            assert "Retry-After" in answer.headers["access-control-expose-headers"]
            assert answer.headers["vary"] == "Origin"
        asked = {**page, "Access-Control-Request-Headers": "last-event-id"}
        preflight = await ask(endpoints, "OPTIONS", "/runs/x/stream", headers=asked)
        assert "Last-Event-ID" in preflight.headers["access-control-allow-headers"]


# Who may no longer.


async def test_who_may_no_longer_is_answered_as_if_nothing_of_it_existed() -> None:
    denied = False

    def authorize(principal: Principal | None, action: str, resource: Any) -> bool:
        return not denied and owns(principal, action, resource)  # type: ignore[arg-type]

    async with guessed(authorize=authorize) as endpoints:
        ann = await settle(endpoints, "ann")
        denied = True
        compared = 0
        for method, path, operation, _ in operations(endpoints):
            # A job's secret is who does the job; the user has nothing to do with it.
            if "{id}" not in path or path.startswith(("/jobs/", "/v1/")):
                continue
            bodies = [{}, {"call_id": ann.call, "approved": True}, {"call_id": ann.call, "output": None}]
            for kind in ("run", "suspended", "conversation"):
                for body in bodies if operation.get("requestBody") else [None]:
                    own = getattr(ann, kind)
                    seen = []
                    for guess in (own, nobodys(kind, own)):
                        target = path.replace("{id}", guess)
                        seen.append(plain(await ask(endpoints, method, target, json=body, user="ann"), guess))
                    assert seen[0] == seen[1], (method, path)
                    compared += 1
        assert compared > 30
        listed = await ask(endpoints, "GET", "/conversations", user="ann")
        assert listed.json()["conversations"] == []
        assert (await ask(endpoints, "POST", "/runs", json={"message": "Hi"}, user="ann")).status == 403


async def test_a_key_is_no_way_around_authorize_while_the_service_is_full() -> None:
    denied = False
    limits = ServiceLimits(max_runs=1, max_queue=1, drain_seconds=0)
    stall = Stall()
    model = ScriptedModel([Step("Hello.", stall_after=1, stall=stall)] * 9)

    def authorize(principal: Principal | None, action: str, resource: Any) -> bool:
        return not denied and owns(principal, action, resource)  # type: ignore[arg-type]

    async with serving(model, users=True, authorize=authorize, limits=limits) as endpoints:

        async def start(key: str) -> Answer:
            named = {"Idempotency-Key": key}
            return await ask(endpoints, "POST", "/runs", json={"message": "Hi"}, headers=named, user="ann")

        first = await start("first")
        others = [await start(f"more-{number}") for number in range(5)]
        assert others[-1].status == 503
        assert (await start("first")).json() == first.json()
        denied = True
        assert (await start("first")).status == 503
        stall.release()


# How much one may ask for.


def refused_later(answer: Answer) -> bool:
    return int(answer.headers["retry-after"]) >= 1 and bool(answer.error["message"])


async def test_starts_within_a_minute_are_bounded_for_each_principal() -> None:
    limits = ServiceLimits(max_starts_per_minute=3, drain_seconds=0)
    async with serving(users=True, limits=limits) as endpoints:

        async def start(user: str, key: str, path: str = "/runs") -> Answer:
            return await ask(
                endpoints, "POST", path, json={"message": "Hi"}, headers={"Idempotency-Key": key}, user=user
            )

        first = await start("ann", "1")
        assert (await start("ann", "1")).status == 201  # nothing new
        replied = await start("ann", "2", "/runs/reply")
        assert replied.status == 200
        # What is refused for another reason does not count.
        assert (await ask(endpoints, "POST", "/runs", json={"message": ""}, user="ann")).status == 422
        retried = await ask(endpoints, "POST", f"/runs/{replied.json()['run_id']}/retry", user="ann")
        assert retried.status == 201
        for path in ("/runs", "/runs/stream", "/runs/reply"):
            answer = await start("ann", path, path)
            assert (answer.status, answer.error["code"]) == (429, "too_many_starts")
            assert refused_later(answer)
            assert int(answer.headers["retry-after"]) <= 60
        assert (await start("ann", "1")).json() == first.json()
        assert (await start("bob", "1")).status == 201


async def test_each_bound_has_its_own_clear_answer() -> None:
    limits = ServiceLimits(
        max_body_bytes=20_000,
        max_message_chars=10,
        max_attachments=1,
        max_attachment_bytes=50,
        max_runs_per_principal=1,
        drain_seconds=0,
    )
    stall = Stall()
    model = ScriptedModel([Step("Hello.", stall_after=1, stall=stall)] * 9)
    options = HTTPOptions(max_streams_per_principal=1)
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    small = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    async with serving(model, users=True, limits=limits, options=options) as endpoints:

        async def start(message: Any) -> Answer:
            return await ask(endpoints, "POST", "/runs", json={"message": message}, user="ann")

        for message, status, code, field in (
            ("x" * 30_000, 413, "body_too_large", None),
            ("x" * 11, 422, "invalid_input", "message"),
            ([small, small], 422, "invalid_input", "message"),
            ([image], 413, "attachment_too_large", "message.0.image_url.url"),
        ):
            answer = await start(message)
            assert (answer.status, answer.error["code"], answer.error.get("field")) == (status, code, field)
        run_id = (await start("Hi")).json()["run_id"]
        answer = await start("again")
        assert (answer.status, answer.error["code"], refused_later(answer)) == (429, "too_many_runs", True)
        stream = await endpoints.handle(make_request("GET", f"/runs/{run_id}/stream", user="ann"))
        answer = await ask(endpoints, "GET", f"/runs/{run_id}/stream", user="ann")
        assert (answer.status, answer.error["code"], refused_later(answer)) == (429, "too_many_streams", True)
        await stream.body.aclose()  # type: ignore[union-attr]
        stall.release()


async def test_streams_are_counted_for_a_user_of_a_tenant_not_for_a_name() -> None:
    count = StreamCount(HTTPOptions(max_streams_per_principal=1))
    count.enter(who(Principal("ann", "acme")))
    count.enter(who(Principal("ann", "other")))
    count.enter(who(Principal("ann")))
    count.enter(who(None))
    assert count.open == 4


async def test_a_principal_whose_proof_has_ended_is_401() -> None:
    async with StreamChat(model=ScriptedModel.text("Hi", repeat=True), authorize=owns) as chat:
        ended = Endpoints(chat, principal=lambda request: Principal("ann", expires_at=time.time() - 1))
        lasting = Endpoints(chat, principal=lambda request: Principal("ann", expires_at=time.time() + 60))
        answer = await ask(ended, "GET", "/conversations")
        assert (answer.status, answer.error["code"]) == (401, "credentials_expired")
        assert "invalid_token" in answer.headers["www-authenticate"]
        assert (await ask(lasting, "GET", "/conversations")).status == 200


async def test_whether_one_is_given_streams_may_be_asked_of_another_service() -> None:
    async def in_the_roll_out(principal: Principal | None) -> bool:
        return principal is not None and principal.id == "ann"

    async with serving(users=True, streaming=in_the_roll_out) as endpoints:
        for user, status in (("ann", 200), ("bob", 409)):
            reply = (await ask(endpoints, "POST", "/runs/reply", json={"message": "Hi"}, user=user)).json()
            run = f"/runs/{reply['run_id']}"
            for method in ("GET", "HEAD"):
                assert (await ask(endpoints, method, f"{run}/stream", user=user)).status == status
            # The log by pages is no stream.
            assert (await ask(endpoints, "GET", f"{run}/events", user=user)).status == 200
            conversation = f"/conversations/{reply['conversation_id']}/stream"
            idle = await ask(endpoints, "GET", conversation, user=user)
            assert idle.status == (204 if user == "ann" else 409)


# What is odd.

ODD = ("a\x00b", "\udcff", "é", "x" * 5000, "..", "%2e%2e", "'; DROP TABLE runs; --", "{id}", "*")


@pytest.mark.parametrize("store", ["memory", "sqlite", "postgres"])
async def test_what_is_odd_is_refused_or_taken_and_never_a_failure(
    store: str, tmp_path: Any, request: pytest.FixtureRequest
) -> None:
    chat: dict[str, Any] = {}
    # A database is tried with what reaches it.
    odds: tuple[str, ...] = ODD[:4]
    names = ["idempotency-key", "x-client-id"]
    if store == "memory":
        odds, names = ODD, [*names, "last-event-id", "x-job-secret", "content-type", "origin"]
    if store == "sqlite":
        chat["buffer"] = SQLEventBuffer(f"sqlite:///{tmp_path / 'runs.db'}")
    elif store == "postgres":
        chat["buffer"] = SQLEventBuffer(request.getfixturevalue("postgres_url"), create_tables=True)
    async with serving(users=True, job_secret="s", **chat) as endpoints:

        async def statuses(method: str, target: str, **request: Any) -> None:
            answer = await ask(endpoints, method, target, user="ann", **request)
            assert answer.status < 500, (method, target[:60], request, answer.body)

        for method, path in [*changing(endpoints), ("GET", "/runs/x"), ("GET", "/conversations/x/messages")]:
            for odd in odds if "/x" in path else [""]:
                for body in ({}, {"call_id": "\x00", "approved": True}, {"call_id": "\x00", "output": 1}):
                    await statuses(method, path.replace("/x", f"/{odd}"), json=body)
        for tail in ("stream", "events", "presence"):
            for odd in odds:
                await statuses("GET", f"/runs/{odd}/{tail}")
        for query in ("after=%00", f"after={'x' * 5000}", "after=%ff", "limit=%00", "&" * 500, "a=1&" * 500):
            await statuses("GET", f"/conversations?{query}")
        for name in names:
            for odd in (*odds, "http://[", ""):
                await statuses("POST", "/runs", json={"message": "Hi"}, headers={name: odd})
                await statuses("POST", "/jobs/a:b", json={"result": 1}, headers={name: odd})
        for text in (rb"\u0000", rb"\ud800", rb"\udfff\ud800", "\u202e".encode(), b"\xff"):
            await statuses("POST", "/runs/reply", body=b'{"message": "x%b"}' % text)
        for value in (b"1" * 5000, b"1e999", b"-0", b"[" * 150 + b"]" * 150, b"[" * 9999, b'{"":{"":{}}}'):
            await statuses("POST", "/runs", body=b'{"message": "x", "metadata": {"a": %b}}' % value)
        reply = await ask(endpoints, "POST", "/runs/reply", json={"message": "\x00 Hi"}, user="ann")
        assert reply.json()["status"] == "success"


# What the log says.

SECRETS = {
    "message": "canary-message",
    "system": "canary-system",
    "answer": "canary-answer",
    "argument": "canary-argument",
    "output": "canary-output",
    "claim": "canary-claim",
    "metadata": "canary-metadata",
    "token": "canary-token",
    "cookie": "canary-cookie",
    "job": "canary-job",
    "query": "canary-query",
}


async def test_the_log_has_no_secrets_and_nothing_that_anyone_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = ToolRegistry()

    @tools.tool(requires_approval=True)
    async def look(what: str, ctx: ToolContext) -> str:
        return SECRETS["output"]

    @tools.tool()
    async def fail(what: str) -> str:
        raise ValueError("a message of the tool's author")

    said = SECRETS["argument"]
    answers: list[Any] = [
        Step(
            "Hm",
            calls=[Call("look", {"what": said}), Call("fail", {"what": said}), Call("none", {"x": said})],
        ),
        Step(calls=[Call("look", {"what": {"not": said}})]),
        SECRETS["answer"],
        RuntimeError("of the model"),
    ]
    principal = Principal("ann", claims={"email": SECRETS["claim"]})
    # The server's own log of access has addresses: nothing secret may stand in one.
    caplog.set_level(logging.DEBUG)
    chat = StreamChat(
        model=ScriptedModel(answers, strict=False),
        tools=tools,
        authorize=lambda who, action, resource: resource.conversation_id != "forbidden",
        instructions=SECRETS["system"],
        job_secret=SECRETS["job"],
        limits=ServiceLimits(max_message_chars=100, drain_seconds=0, look_every=0.05),
    )
    asked = {
        "Authorization": f"Bearer {SECRETS['token']}",
        "Cookie": f"session={SECRETS['cookie']}",
        "X_Job_Secret": SECRETS["job"],
    }
    async with serve(asgi_app(chat, principal=lambda scope: principal)) as port:

        async def post(path: str, body: Any) -> tuple[int, Any]:
            async with request(port, "POST", path, body, **asked) as connection:
                return connection.status, json.loads(await connection.body())

        body = {"message": SECRETS["message"], "metadata": {"a": SECRETS["metadata"]}}
        status, told = await post("/runs/reply", body)
        assert (status, told["status"]) == (200, "suspended")
        call_id = told["waits"][0]["call_id"]
        run = f"/runs/{told['run_id']}"
        edited = {"call_id": call_id, "approved": True, "arguments": {"what": {"not": said}, said: said}}
        assert (await post(f"{run}/approvals", edited))[0] == 422
        assert (await post(f"{run}/approvals", {"call_id": call_id, "approved": False, "reason": said}))[
            0
        ] == 202
        async with request(port, "GET", f"{run}/stream", **asked) as connection:
            assert SECRETS["answer"].encode() in await connection.body()
        assert (await post("/runs/reply", body))[1]["status"] == "error"
        for path, sent in (
            ("/runs", {"message": SECRETS["message"] * 20}),
            ("/runs", {"message": SECRETS["message"], "conversation_id": "forbidden"}),
            ("/runs", {"message": SECRETS["message"], "system_message": SECRETS["system"]}),
            ("/runs", {"message": [{"type": SECRETS["message"]}]}),
            ("/runs", {SECRETS["message"]: 1}),
            (f"{run}/approvals", {"call_id": call_id, "approved": True, "reason": said}),
            (f"{run}/tool-results", {"call_id": "none", "output": SECRETS["output"]}),
            (f"{run}/retry", {"call_id": "none"}),
            (f"/jobs/{told['run_id']}:x", {"result": SECRETS["output"]}),
        ):
            assert (await post(path, sent))[0] >= 400, path

        async def broken(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("the store is broken")

        monkeypatch.setattr(chat.buffer, "get", broken)
        assert (await post(f"{run}/cancel", {"reason": SECRETS["message"]}))[0] == 500
        monkeypatch.undo()
    logged = "\n".join(
        logging.Formatter().format(record)
        for record in caplog.records
        if record.name.startswith(("streamchat", "uvicorn"))
    )
    assert "correlation id" in logged
    assert [name for name, secret in SECRETS.items() if secret in logged] == []


# What pages need of other origins.

# Said for those on the way, or safe to read in any case.
_FOR_OTHERS = {
    "access-control-allow-origin",
    "access-control-expose-headers",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "vary",
    "x-accel-buffering",
    "x-content-type-options",
}


async def test_pages_of_allowed_origins_may_send_and_see_every_header_that_means_something() -> None:
    async with guessed() as endpoints:
        allowing = Endpoints(
            endpoints.chat, principal=lambda request: Principal("ann"), cors=CORS(["https://a"])
        )
        own, page = await settle(endpoints, "ann"), {"Origin": "https://a"}
        preflight = await ask(allowing, "OPTIONS", "/runs", headers=page)
        taken = preflight.headers["access-control-allow-headers"].lower().split(", ")
        seen: set[str] = set()
        exposed: set[str] = set()
        for method, path, operation, schemas in operations(allowing):
            sent = {each["name"].lower() for each in operation["parameters"] if each["in"] == "header"}
            # A job is done by a program, which has no origin.
            assert sent - {"x-job-secret"} <= set(taken), path
            body, _ = body_of(method, path, operation, schemas)
            target = path.replace("{id}", own.conversation if "conv" in path or "vercel" in path else own.run)
            for cursor in ({}, {"Last-Event-ID": "odd"}):
                answer = await ask(
                    allowing,
                    method,
                    target,
                    json=put(put(body, OWN, own.conversation), GUESS, "new"),
                    headers={**page, **cursor},
                )
                seen |= set(answer.headers)
                if method == "DELETE":
                    own = await settle(endpoints, "ann")
                exposed |= set(answer.headers["access-control-expose-headers"].lower().split(", "))
        assert seen - _FOR_OTHERS <= exposed
        assert "x-run-id" in seen


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "javascript:alert(1)", "ftp://a/b", "gopher://a", "//a/b", ""]
)
async def test_no_wire_takes_attachments_that_are_neither_whole_nor_on_the_web(url: str) -> None:
    image = {"type": "image_url", "image_url": {"url": url}}
    bodies: dict[str, Any] = {
        "/runs": {"message": [image]},
        "/runs/reply": {"message": [image]},
        "/runs/stream": {"message": [image]},
        "/v1/chat/completions": {"model": "scripted", "messages": [{"role": "user", "content": [image]}]},
        "/vercel": {
            "id": "c",
            "messages": [
                {"id": "m", "role": "user", "parts": [{"type": "file", "mediaType": "image/png", "url": url}]}
            ],
        },
        "/ag-ui": {
            "threadId": "t",
            "runId": "r",
            "state": {},
            "messages": [
                {
                    "id": "m",
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "url", "value": url}}],
                }
            ],
            "tools": [],
            "context": [],
            "forwardedProps": {},
        },
    }
    async with serving() as endpoints:
        starting = {
            path
            for path, methods in openapi_document(endpoints.routes)["paths"].items()
            if "{id}" not in path and "requestBody" in methods.get("post", {})
        }
        assert starting == set(bodies)
        for path, body in bodies.items():
            answer = await ask(endpoints, "POST", path, json=body)
            assert answer.status in (400, 422), (path, answer.body)
            right = json.loads(json.dumps(body).replace(json.dumps(url), '"https://a.example/b.png"'))
            assert (await ask(endpoints, "POST", path, json=right)).status in (200, 201), path
        assert len((await ask(endpoints, "GET", "/conversations")).json()["conversations"]) == len(bodies)


async def test_what_a_client_sent_is_logged_where_that_is_switched_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    audio = {"type": "input_audio", "input_audio": {"data": "!", "format": "x"}}

    async def refused(endpoints: Endpoints) -> tuple[str, list[str]]:
        caplog.clear()
        answer = await ask(endpoints, "POST", "/runs", json={"message": [audio]})
        assert answer.status == 422
        said = [record.getMessage() for record in caplog.records if record.name == "streamchat.contents"]
        return answer.error["correlation_id"], said

    async with serving() as endpoints:
        assert (await refused(endpoints))[1] == []
        caplog.set_level(logging.DEBUG, logger="streamchat.contents")
        correlation, (said,) = await refused(endpoints)
        assert correlation in said
