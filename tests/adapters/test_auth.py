"""Who asks: bearer tokens that an application's verifier judges, sessions, users of a middleware."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from hypothesis import given
from hypothesis import strategies as st
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware

from streamchat import Principal, ServiceLimits, StreamChat, ToolRegistry, owns
from streamchat.adapters import asgi
from streamchat.adapters import fastapi as adapter
from streamchat.adapters.asgi import asgi_app
from streamchat.client import StreamChatClient
from streamchat.errors import InvalidInput, StreamChatError
from streamchat.http import CORS, Endpoints, HTTPError
from streamchat.http.bearer import Bearer
from streamchat.testing import ScriptedModel, Stall, Step
from tests.adapters.serving import fetch, request, serve

pytestmark = pytest.mark.anyio


class TokenError(Exception):
    pass


def verify(token: str) -> dict[str, Any] | None:
    """As verifiers of identity tokens are: claims, or an exception of the library's own."""
    if token == "keys-away":
        raise OSError("the keys cannot be fetched")
    if token == "nameless":
        return {"iss": "https://id.example"}
    if token == "stale":
        return {"sub": "ann", "exp": int(time.time()) - 1}
    if not token.startswith("good-"):
        raise TokenError(token)
    return {"sub": token[5:], "org": "acme", "email": "ann@example.org", "exp": int(time.time()) + 3600}


async def verify_async(token: str) -> Principal | None:
    await asyncio.sleep(0)
    return Principal(token[5:]) if token.startswith("good-") else None


def make_chat(model: ScriptedModel | None = None, authorize: Any = owns) -> StreamChat:
    model = model or ScriptedModel.text("Hello there.", repeat=True)
    return StreamChat(model=model, authorize=authorize, limits=ServiceLimits(drain_seconds=0))


@contextmanager
def by_asgi(chat: StreamChat, verifier: Any) -> Iterator[Any]:
    mounted = asgi_app(chat, principal=asgi.bearer_principal(verifier, refused=TokenError))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await mounted({**scope, "root_path": "/chat"}, receive, send)

    yield app


@contextmanager
def by_fastapi(chat: StreamChat, verifier: Any) -> Iterator[Any]:
    app = FastAPI(lifespan=chat.lifespan)
    principal = adapter.bearer_principal(verifier, refused=TokenError)
    app.include_router(adapter.chat_router(chat, principal=principal), prefix="/chat")
    yield app


@contextmanager
def by_django(chat: StreamChat, verifier: Any) -> Iterator[Any]:
    import django
    from django.test import override_settings

    django.setup()
    from django.core.asgi import get_asgi_application

    from streamchat.adapters.django.auth import bearer_principal

    lifespan = asgi_app(chat, principal=lambda scope: None)
    setting = {"CHAT": lambda: chat, "PRINCIPAL": bearer_principal(verifier, refused=(TokenError,))}
    with override_settings(STREAMCHAT=setting, ROOT_URLCONF="tests.adapters.django_project.exempt"):
        application = get_asgi_application()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await (application if scope["type"] == "http" else lifespan)(scope, receive, send)

        yield app


@pytest.fixture(params=[by_asgi, by_fastapi, by_django], ids=["asgi", "fastapi", "django"])
def app_of(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    # The settings are read once in a process, and other tests want a database in a file.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.adapters.django_project.settings")
    os.environ.setdefault("DJANGO_TEST_DB", str(tmp_path / "db.sqlite3"))
    return request.param


@pytest.mark.parametrize("verifier", [verify, verify_async], ids=["sync", "async"])
async def test_a_token_that_the_verifier_takes_says_who_asks(app_of: Any, verifier: Any) -> None:
    with app_of(make_chat(), verifier) as app:
        async with serve(app) as port:
            ann, bob = {"Authorization": "Bearer good-ann"}, {"Authorization": "bearer good-bob"}
            status, reply = await fetch(port, "POST", "/chat/runs/reply", {"message": "Hi"}, **ann)
            assert (status, reply["status"]) == (200, "success")
            run = f"/chat/runs/{reply['run_id']}"
            assert (await fetch(port, "GET", run, **ann))[0] == 200
            assert (await fetch(port, "GET", run, **bob))[0] == 404


async def test_refusals_by_a_token_read_alike_in_fastapi_and_asgi_also_for_pages_of_other_origins() -> None:
    chat = make_chat()
    cors = CORS(origins=["https://page.example"])
    router = adapter.chat_router(
        chat, principal=adapter.bearer_principal(verify, refused=TokenError), cors=cors
    )
    inside = FastAPI(lifespan=chat.lifespan)
    inside.include_router(router, prefix="/api/chat")
    raw = asgi_app(make_chat(), principal=asgi.bearer_principal(verify, refused=TokenError), cors=cors)
    seen = []
    for app, prefix in ((inside, "/api/chat"), (raw, "")):
        async with serve(app) as port:
            answers = []
            for origin in ("https://page.example", "https://evil.example"):
                for token in ({}, {"Authorization": "Bearer bad"}, {"Authorization": "Bearer stale"}):
                    for method, path in (
                        ("GET", "/conversations"),
                        ("HEAD", "/conversations"),
                        ("GET", "/runs/x/stream"),
                        ("GET", "/v1/models"),
                        ("GET", "/vercel/x/messages"),
                    ):
                        async with request(port, method, prefix + path, Origin=origin, **token) as answer:
                            body = b"" if method == "HEAD" else await answer.body()
                            said = json.loads(body)["error"] if body else {}
                            assert bool(said) is (method != "HEAD")
                            said.pop("correlation_id", None)
                            headers = {
                                name: value
                                for name, value in answer.headers.items()
                                if name not in ("date", "server", "content-length", "x-request-id")
                            }
                            answers.append((method, path, answer.status, said, headers))
            seen.append(answers)
    assert seen[0] == seen[1]
    assert {answer[2] for answer in seen[0]} == {401}
    allowed = [answer[4].get("access-control-allow-origin") for answer in seen[0]]
    assert allowed == ["https://page.example"] * 15 + [None] * 15


async def test_what_dependencies_of_the_application_refuse_can_be_read_by_pages_of_allowed_origins() -> None:
    def user(needed: int, blocked: bool = False) -> Principal:
        if blocked:
            raise HTTPException(418, "not you")
        return Principal("ann")

    chat = make_chat()
    app = FastAPI(lifespan=chat.lifespan)
    app.include_router(adapter.chat_router(chat, principal=user, cors=CORS(["https://page.example"])))
    async with serve(app) as port:
        for query, status in (("", 422), ("?needed=1&blocked=1", 418), ("?needed=1", 200)):
            for origin, shown in (
                ("https://page.example", "https://page.example"),
                ("https://a.example", None),
            ):
                async with request(port, "GET", f"/conversations{query}", Origin=origin) as answer:
                    assert answer.status == status
                    assert answer.headers.get("access-control-allow-origin") == shown
                    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("make", [asgi_app, adapter.chat_router, Endpoints])
async def test_what_cannot_say_who_asks_is_refused_where_the_endpoints_are_made(make: Any) -> None:
    for nobody in ("ann", ToolRegistry(), Principal("ann")):
        with pytest.raises(InvalidInput, match="give a function that returns a Principal") as caught:
            make(make_chat(), principal=nobody)
        assert caught.value.field == "principal"


@pytest.mark.parametrize("who", ["ann", "", 5, {"id": "ann"}])
async def test_a_function_that_returns_no_principal_is_a_500_that_the_log_explains(
    who: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(scope: Any) -> Any:
        return who

    async with serve(asgi_app(make_chat(), principal=answer)) as port:
        status, body = await fetch(port, "GET", "/conversations")
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert f"the principal function returned {type(who).__name__}" in caplog.text


async def test_no_token_and_a_bad_one_are_401_with_a_challenge(app_of: Any) -> None:
    with app_of(make_chat(), verify) as app:
        async with serve(app) as port:
            refused = [{}, {"Authorization": "Basic good-ann"}]
            bad = [f"Bearer {token}" for token in ("bad", "stale", "good-ann, Bearer good-bob", "", "a b")]
            for header in [*refused, *({"Authorization": text} for text in bad)]:
                async with request(port, "GET", "/chat/conversations", **header) as connection:
                    assert connection.status == 401, header
                    challenge = connection.headers["www-authenticate"]
                    assert challenge.startswith("Bearer")
                    assert ("invalid_token" in challenge) == (header not in refused)


async def test_tokens_in_the_query_count_for_nothing(app_of: Any) -> None:
    with app_of(make_chat(), verify) as app:
        async with serve(app) as port:
            for name in ("access_token", "token", "authorization", "bearer"):
                status, _ = await fetch(port, "GET", f"/chat/conversations?{name}=good-ann")
                assert status == 401


@pytest.mark.parametrize("token", ["keys-away", "nameless"])
async def test_a_verifier_that_cannot_tell_is_a_failure_of_the_server_not_of_the_client(token: str) -> None:
    with by_asgi(make_chat(), verify) as app:
        async with serve(app) as port:
            status, answer = await fetch(port, "GET", "/chat/runs/x", Authorization=f"Bearer {token}")
    assert (status, answer["error"]["code"]) == (500, "internal_error")


async def test_a_stream_ends_with_its_token_and_goes_on_with_a_new_one() -> None:
    stall, renewed = Stall(), asyncio.Event()
    shown: list[str] = []

    async def short_lived(token: str) -> dict[str, Any]:
        shown.append(token)
        if token == "second":
            renewed.set()
        return {"sub": "ann", "exp": time.time() + (1 if token == "first" else 3600)}

    async def headers() -> dict[str, str]:
        # The first one starts the run and opens its stream, which ends while the answer is under way.
        return {"Authorization": f"Bearer {'first' if shown.count('first') < 2 else 'second'}"}

    model = ScriptedModel([Step("Hello there.", stall_after=1, stall=stall)])
    with by_fastapi(make_chat(model), short_lived) as app:
        async with (
            serve(app) as port,
            StreamChatClient(f"http://127.0.0.1:{port}/chat", headers=headers) as client,
        ):

            async def go_on() -> None:
                await renewed.wait()
                stall.release()

            going_on = asyncio.create_task(go_on())
            events = [event async for event in client.ask("Hi")]
            await going_on
    assert shown == ["first", "first", "second"]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "finalized"


async def test_what_proves_the_identity_is_not_kept_with_the_run() -> None:
    chat = make_chat()
    async with chat:
        principal = Principal("ann", claims={"email": "ann@example.org"}, expires_at=time.time() + 60)
        started = await chat.start(None, "Hi", principal)
        run = await chat.buffer.get(started.run_id)
        assert run.principal == principal
        assert run.principal.expires_at is None
    assert "example.org" not in repr(principal)


async def test_of_claims_only_those_that_are_named_are_kept() -> None:
    bearer = Bearer(verify, tenant_claim="org", keep=["email"])
    principal = await bearer.principal("Bearer good-ann")
    assert principal is not None
    assert (principal.id, principal.tenant) == ("ann", "acme")
    assert principal.claims == {"email": "ann@example.org"}
    assert principal.expires_at is not None
    nothing = await Bearer(verify).principal("Bearer good-ann")
    assert nothing is not None
    assert not nothing.claims


@pytest.mark.parametrize("end", ["2000000000", "soon", "", True, [2e9], {}, math.nan, math.inf, 10**400])
async def test_a_token_whose_end_is_no_number_is_refused_not_taken_for_one_without_end(
    end: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "streamchat.http")
    bearer = Bearer(lambda token: {"sub": "ann", "exp": end})
    with pytest.raises(HTTPError) as caught:
        await bearer.principal("Bearer x")
    assert (caught.value.status, caught.value.code) == (401, "invalid_token")
    assert f"its claim 'exp' is of type {type(end).__name__}, not a number" in caplog.text
    assert "2000000000" not in caplog.text


@pytest.mark.parametrize("end", [2_000_000_000, 2e9, None])
async def test_a_token_ends_when_it_says_or_not_at_all(end: Any) -> None:
    principal = await Bearer(lambda token: {"sub": "ann", "exp": end}).principal("Bearer x")
    assert principal is not None
    assert principal.expires_at == end


async def test_a_whole_number_names_a_user_or_a_tenant_as_its_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "streamchat.http")

    async def of(**claims: Any) -> Principal | None:
        return await Bearer(lambda token: claims, tenant_claim="org").principal("Bearer x")

    assert await of(sub=7, org=8) == Principal("7", "8")
    assert await of(sub=0) == Principal("0")
    for wrong in (True, 7.0, ["ann"], {"id": "ann"}):
        for claims in ({"sub": wrong}, {"sub": "ann", "org": wrong}):
            with pytest.raises(HTTPError) as caught:
                await of(**claims)
            assert caught.value.status == 401
            assert f"is of type {type(wrong).__name__}, not text" in caplog.text
    for nameless in ({"sub": ""}, {"sub": None}, {"iss": "x"}):
        with pytest.raises(StreamChatError, match="have no 'sub' to name the user by") as failed:
            await of(**nameless)
        assert not isinstance(failed.value, HTTPError)


@given(st.text(max_size=60) | st.from_regex(r"(?i)bearer ?[ -~]{0,20}", fullmatch=True))
def test_any_header_is_nobody_a_token_for_the_verifier_or_a_refusal(header: str) -> None:
    asked: list[str] = []

    async def judge(token: str) -> Principal:
        asked.append(token)
        return Principal("ann")

    async def ask() -> Principal | None:
        return await Bearer(judge).principal(header)

    principal: Principal | None = None
    refused = 0
    try:
        principal = asyncio.run(ask())
    except HTTPError as error:
        refused = error.status
    if refused:
        assert (refused, asked) == (401, [])
    else:
        assert (principal is None) == (not asked)
        # What the verifier sees is one token, whole, with nothing around it.
        assert all(
            header.rstrip(" ").endswith(token) and token.isascii() and " " not in token for token in asked
        )


class Session:
    """As Starlette's SessionMiddleware: what the application wrote at sign-in is in the scope."""

    def __init__(self, app: Any, session: dict[str, Any]) -> None:
        self.app = app
        self.session = session

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app({**scope, "session": self.session}, receive, send)


@pytest.mark.parametrize("by", ["asgi", "fastapi"])
async def test_the_session_says_who_asks(by: str) -> None:
    seen: list[Principal | None] = []
    session: dict[str, Any] = {}

    def note(who: Principal | None, *_: Any) -> bool:
        seen.append(who)
        return True

    chat = make_chat(authorize=note)
    app: Any
    if by == "asgi":
        app = asgi_app(chat, principal=asgi.session_principal("uid", tenant_key="org"))
    else:
        app = FastAPI(lifespan=chat.lifespan)
        principal = adapter.session_principal("uid", tenant_key="org")
        app.include_router(adapter.chat_router(chat, principal=principal))
    async with serve(Session(app, session)) as port:
        assert (await fetch(port, "GET", "/conversations"))[0] == 401
        session.update(uid=7, org="acme")
        assert (await fetch(port, "GET", "/conversations"))[0] == 200
    assert seen == [Principal("7", "acme")]


async def test_a_middleware_that_is_missing_is_named_to_the_operator(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for principal in (asgi.session_principal(), asgi.user_principal()):
        async with serve(asgi_app(make_chat(), principal=principal)) as port:
            assert (await fetch(port, "GET", "/conversations"))[0] == 500
    assert "SessionMiddleware" in caplog.text
    assert "AuthenticationMiddleware" in caplog.text


class Nameless(BaseUser):
    @property
    def is_authenticated(self) -> bool:
        return True


class ByHeader(AuthenticationBackend):
    async def authenticate(self, conn: Any) -> Any:
        name = conn.headers.get("x-user")
        return None if name is None else (AuthCredentials(), SimpleUser(name))


async def test_the_user_of_an_authentication_middleware_says_who_asks() -> None:
    chat = make_chat()
    app = FastAPI(lifespan=chat.lifespan)
    app.include_router(adapter.chat_router(chat, principal=adapter.user_principal()))
    app.add_middleware(AuthenticationMiddleware, backend=ByHeader())
    async with serve(app) as port:
        assert (await fetch(port, "GET", "/conversations"))[0] == 401
        assert (await fetch(port, "GET", "/conversations", X_User="ann"))[0] == 200
    asked = asgi.user_principal(lambda user: Principal(user.username, "acme"))
    assert await asked({"user": SimpleUser("bob")}) == Principal("bob", "acme")
    for nameless in (Nameless(), SimpleUser("")):
        with pytest.raises(StreamChatError, match="identify"):
            await asgi.user_principal()({"user": nameless})


async def test_fastapis_document_shows_where_the_token_goes_and_other_routes_may_ask_too() -> None:
    app = FastAPI()
    dependency = Depends(adapter.bearer_principal(verify, refused=TokenError))

    @app.get("/me")
    async def me(who: Any = dependency) -> Any:
        return who and who.id

    assert "HTTPBearer" in app.openapi()["components"]["securitySchemes"]
    async with serve(app) as port:
        assert await fetch(port, "GET", "/me", Authorization="Bearer good-ann") == (200, "ann")
        assert (await fetch(port, "GET", "/me", Authorization="Bearer bad"))[0] == 401
        assert await fetch(port, "GET", "/me") == (200, None)
