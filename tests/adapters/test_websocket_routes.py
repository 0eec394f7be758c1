"""``/ws`` as a framework's own route: FastAPI's dependencies say who asks, or Django's session."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, WebSocket
from fastapi.requests import HTTPConnection
from starlette.middleware import Middleware
from websockets.exceptions import InvalidStatus

from streamchat.adapters.fastapi import bearer_principal, chat_router, session_principal
from streamchat.http import CORS
from streamchat.principal import Principal
from streamchat.service.access import owns
from streamchat.service.chat import ServiceLimits, StreamChat
from streamchat.testing import ScriptedModel, Stall, Step
from tests.adapters.serving import fetch, serve
from tests.http.test_websocket import HELLO, Socket, opened

pytestmark = pytest.mark.anyio


def make_chat(model: ScriptedModel | None = None, **more: Any) -> StreamChat:
    return StreamChat(
        model=model or ScriptedModel.text(HELLO, repeat=True),
        limits=ServiceLimits(drain_seconds=0),
        **{"authorize": owns, **more},
    )


async def current_user(x_user: Annotated[str, Header()] = "") -> Principal | None:
    if x_user == "blocked":
        raise HTTPException(418, "not you")
    return Principal(x_user) if x_user else None


def make_app(principal: Any = current_user, chat: StreamChat | None = None, **router: Any) -> FastAPI:
    chat = chat or make_chat()
    app = FastAPI(lifespan=chat.lifespan)
    app.include_router(chat_router(chat, principal=principal, **router), prefix="/chat")
    return app


class Sessions:
    """Puts a session where Starlette's middleware does."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = dict(scope.get("headers", ())).get(b"x-user")
        scope["session"] = {} if name is None else {"user_id": name.decode()}
        await self.app(scope, receive, send)


def connected(port: int, user: str = "", **options: Any) -> AbstractAsyncContextManager[Socket]:
    headers = {**options.pop("additional_headers", {}), **({"X-User": user} if user else {})}
    return opened(port, options.pop("path", "/chat/ws"), additional_headers=headers, **options)


async def refused(port: int, user: str = "", **options: Any) -> int:
    with pytest.raises(InvalidStatus) as refusal:
        async with connected(port, user, **options):
            pass
    return int(refusal.value.response.status_code)


async def test_the_router_serves_a_websocket_to_whom_its_dependency_names() -> None:
    app = make_app()
    async with serve(app) as port:
        async with connected(port, "ann") as socket:
            await socket.say("start", message="Hi")
            run_id = (await socket.until(type="started"))["run_id"]
            await socket.until(type="end", reason="finished")
            assert socket.state(run_id).text == HELLO
        async with connected(port, "bob") as socket:
            for kind in ("attach", "cancel"):
                await socket.say(kind, run_id=run_id)
                assert (await socket.until(type="error"))["error"]["code"] == "run_not_found"
        assert await refused(port) == 401
        assert await refused(port, "blocked") == 418
        app.dependency_overrides[current_user] = lambda: Principal("ann")
        async with connected(port) as socket:
            await socket.say("attach", run_id=run_id)
            await socket.until(type="end", reason="finished")


async def test_dependencies_of_whoever_includes_the_router_hold_for_its_websocket() -> None:
    async def members_only(x_member: Annotated[str, Header()] = "") -> None:
        if x_member != "yes":
            raise HTTPException(403)

    chat = make_chat()
    outer = APIRouter(prefix="/chat", dependencies=[Depends(members_only)])
    outer.include_router(chat_router(chat, principal=current_user))
    app = FastAPI(lifespan=chat.lifespan)
    app.include_router(outer)
    async with serve(app) as port:
        assert await refused(port, "ann") == 403
        async with connected(port, "ann", additional_headers={"X-Member": "yes"}) as socket:
            await socket.say("start", message="Hi")
            await socket.until(type="end", reason="finished")


async def test_what_dependencies_hold_is_let_go_before_the_websocket_is_open() -> None:
    held: list[str] = []

    async def session() -> AsyncIterator[str]:
        held.append("session")
        yield "session"
        held.remove("session")

    async def user(session: str = Depends(session)) -> Principal:
        assert held
        return Principal("ann")

    async with serve(make_app(user)) as port, connected(port):
        assert held == []


@pytest.mark.parametrize(
    ("origin", "cors", "status"),
    [
        ("https://evil.example", None, 403),
        ("https://app.example", CORS(["https://app.example"]), None),
        ("same", None, None),
    ],
)
async def test_pages_of_other_origins_are_refused_unless_they_are_let_in(
    origin: str, cors: CORS | None, status: int | None
) -> None:
    async with serve(make_app(cors=cors)) as port:
        origin = f"http://127.0.0.1:{port}" if origin == "same" else origin
        if status is None:
            async with connected(port, "ann", origin=origin):
                pass
        else:
            assert await refused(port, "ann", origin=origin) == status


async def test_tokens_and_sessions_are_asked_of_a_handshake_too() -> None:
    verify = {"good": Principal("ann")}.get
    async with serve(make_app(bearer_principal(verify))) as port:
        assert await refused(port) == 401
        assert await refused(port, additional_headers={"Authorization": "Bearer bad"}) == 401
        async with connected(port, additional_headers={"Authorization": "Bearer good"}):
            pass
    chat = make_chat()
    app = FastAPI(lifespan=chat.lifespan, middleware=[Middleware(Sessions)])
    app.include_router(chat_router(chat, principal=session_principal()), prefix="/chat")
    async with serve(app) as port:
        assert await refused(port) == 401
        async with connected(port, "ann") as socket:
            await socket.say("start", message="Hi")
            await socket.until(type="end", reason="finished")


async def test_a_dependency_that_takes_a_request_is_named_and_lets_nobody_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def token(request: Request) -> str:
        return request.headers.get("x-user", "")

    async def user(token: str = Depends(token)) -> Principal | None:
        return Principal(token) if token else None

    async with serve(make_app(user)) as port:
        assert (await fetch(port, "POST", "/chat/runs", {"message": "Hi"}, X_User="ann"))[0] == 201
        assert await refused(port, "ann") == 500
    assert "token takes a Request" in caplog.text
    assert "HTTPConnection" in caplog.text


@pytest.mark.parametrize("principal", [None, current_user])
async def test_a_dependency_of_the_router_that_takes_a_request_is_named_too(
    principal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def limiter(request: Request) -> None:
        """Count how often it is asked from here."""

    chat = make_chat(authorize=None, allow_anonymous=True)
    async with serve(make_app(principal, chat, dependencies=[Depends(limiter)], prefix="/v1")) as port:
        assert (await fetch(port, "POST", "/chat/v1/runs", {"message": "Hi"}, X_User="ann"))[0] == 201
        assert await refused(port, "ann", path="/chat/v1/ws") == 500
    assert "limiter takes a Request" in caplog.text
    assert "HTTPConnection" in caplog.text
    assert "TypeError" not in caplog.text


async def test_dependencies_of_the_router_hold_for_its_websocket_and_may_take_either() -> None:
    async def members_only(connection: HTTPConnection) -> None:
        if connection.headers.get("x-member") != "yes":
            raise HTTPException(403)

    async def limiter(
        request: Request = None,  # type: ignore[assignment]
        websocket: WebSocket = None,  # type: ignore[assignment]
    ) -> None:
        assert (request or websocket).headers["x-member"] == "yes"

    member = {"X-Member": "yes"}
    async with serve(make_app(dependencies=[Depends(members_only), Depends(limiter)])) as port:
        assert await refused(port, "ann") == 403
        assert (await fetch(port, "POST", "/chat/runs", {"message": "Hi"}, X_User="ann", **member))[0] == 201
        async with connected(port, "ann", additional_headers=member) as socket:
            await socket.say("start", message="Hi")
            await socket.until(type="end", reason="finished")


async def test_anybody_may_where_anonymous_users_are_allowed() -> None:
    chat = make_chat(authorize=None, allow_anonymous=True)
    async with serve(make_app(None, chat)) as port, connected(port) as socket:
        await socket.say("start", message="Hi")
        await socket.until(type="end", reason="finished")


async def test_who_leaves_is_noticed_and_nothing_is_left_behind() -> None:
    stall = Stall()
    model = ScriptedModel([Step(HELLO, stall_after=1, stall=stall)])
    async with serve(make_app(chat=make_chat(model, on_disconnect="cancel"))) as port:
        async with connected(port, "ann") as socket:
            await socket.say("start", message="Hi")
            run_id = (await socket.until(type="started"))["run_id"]
            await stall.reached()
            await socket.until_event(run_id, "text_delta")
        while (await fetch(port, "GET", f"/chat/runs/{run_id}", X_User="ann"))[1]["status"] != "cancelled":
            pass


async def test_the_applications_document_is_as_it_was() -> None:
    async with serve(make_app()) as port:
        _, document = await fetch(port, "GET", "/openapi.json")
    assert "/chat/runs" in document["paths"]
    assert "/chat/ws" not in document["paths"]
    assert json.dumps(document)
