"""The FastAPI adapter inside an application that has users, dependencies and middleware of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from starlette.middleware.base import BaseHTTPMiddleware

from streamchat.adapters.fastapi import chat_router, event_response
from streamchat.core.sse import SSEDecoder
from streamchat.events import EVENT_TYPES
from streamchat.http import CORS, Endpoints
from streamchat.http.openapi import openapi_document
from streamchat.orchestrator import orchestrate
from streamchat.principal import Principal
from streamchat.service.access import owns
from streamchat.service.chat import ServiceLimits, StreamChat
from streamchat.testing import ScriptedModel, Stall, Step
from streamchat.wire.ag_ui import AGUIEncoder, AGUIWire
from tests.adapters.serving import Connection, fetch, read_until, request, serve, stream

pytestmark = pytest.mark.anyio


def make_chat(model: ScriptedModel | None = None) -> StreamChat:
    return StreamChat(
        model=model or ScriptedModel.text("Hello there.", repeat=True),
        authorize=owns,
        limits=ServiceLimits(drain_seconds=0),
    )


async def current_user(x_user: Annotated[str, Header()] = "") -> Principal | None:
    if x_user == "blocked":
        raise HTTPException(418, "not you")
    return Principal(x_user) if x_user else None


def make_app(chat: StreamChat | None = None, principal: Any = current_user, **router: Any) -> FastAPI:
    chat = chat or make_chat()
    app = FastAPI(lifespan=chat.lifespan)
    app.include_router(chat_router(chat, principal=principal, **router), prefix="/api/chat")
    return app


@asynccontextmanager
async def stalled(app_of: Any = make_app) -> AsyncIterator[tuple[int, FastAPI, str, Stall]]:
    stall = Stall()
    app = app_of(make_chat(ScriptedModel([Step("Hello there.", stall_after=1, stall=stall)])))
    async with serve(app) as port:
        status, started = await fetch(port, "POST", "/api/chat/runs", {"message": "Hi"}, X_User="ann")
        assert status == 201
        await stall.reached()
        yield port, app, started["stream_url"], stall


async def test_a_router_in_the_application_streams_resumes_and_ends_with_204() -> None:
    async with serve(make_app()) as port:
        status, started = await fetch(port, "POST", "/api/chat/runs", {"message": "Hi"}, X_User="ann")
        assert status == 201
        url = started["stream_url"]
        assert url == f"/api/chat/runs/{started['run_id']}/stream"
        async with request(port, "GET", url, X_User="ann") as connection:
            assert connection.headers["content-type"] == "text/event-stream; charset=utf-8"
            frames = SSEDecoder().feed(await connection.body())
        assert frames[-1].event == "finalized"
        events = [frame for frame in frames if frame.data]
        for number, event in enumerate(events[:-1]):
            async with request(port, "GET", url, X_User="ann", Last_Event_ID=event.id) as connection:
                rest = SSEDecoder().feed(await connection.body())
            assert [frame for frame in rest if frame.data] == events[number + 1 :]
        async with request(port, "GET", url, X_User="ann", Last_Event_ID=frames[-1].id) as connection:
            assert connection.status == 204


async def test_the_principal_is_a_dependency_like_any_other() -> None:
    app = make_app()
    async with serve(app) as port:
        assert (await fetch(port, "POST", "/api/chat/runs", {"message": "Hi"}))[0] == 401
        refused = await fetch(port, "POST", "/api/chat/runs", {"message": "Hi"}, X_User="blocked")
        assert refused == (418, {"detail": "not you"})
        _, started = await fetch(port, "POST", "/api/chat/runs", {"message": "Hi"}, X_User="ann")
        run = f"/api/chat/runs/{started['run_id']}"
        assert (await fetch(port, "GET", run, X_User="ann"))[0] == 200
        assert (await fetch(port, "GET", run, X_User="bob"))[0] == 404
        app.dependency_overrides[current_user] = lambda: Principal("ann")
        assert (await fetch(port, "GET", run))[0] == 200
        # Health is for the machines that start and stop processes.
        app.dependency_overrides[current_user] = lambda: None
        assert (await fetch(port, "GET", "/api/chat/health/ready"))[0] == 200


async def test_what_the_dependencies_hold_is_let_go_before_the_stream_begins() -> None:
    held: list[str] = []

    async def session() -> AsyncIterator[str]:
        held.append("session")
        yield "session"
        held.remove("session")

    async def user(response: Response, session: str = Depends(session)) -> Principal:
        assert held
        response.set_cookie("seen", "yes")
        return Principal("ann")

    def app_of(chat: StreamChat) -> FastAPI:
        return make_app(chat, user, dependencies=[Depends(session)])

    async with stalled(app_of) as (port, _, url, stall), request(port, "GET", url) as connection:
        assert connection.headers["set-cookie"].startswith("seen=yes")
        blocks = connection.blocks()
        await read_until(blocks, b"text_delta")
        assert held == []
        stall.release()
        await read_until(blocks, b"event: finalized")


async def test_a_dependency_whose_end_fails_closes_the_stream() -> None:
    async def user() -> AsyncIterator[Principal]:
        yield Principal("ann")
        raise HTTPException(500, "the session could not be closed")

    async with stalled() as (port, app, url, stall):
        app.dependency_overrides[current_user] = user
        async with request(port, "GET", url) as connection:
            assert connection.status == 500
        app.dependency_overrides.clear()
        stall.release()
        async with request(port, "GET", url, X_User="ann") as connection:
            assert SSEDecoder().feed(await connection.body())[-1].event == "finalized"


async def test_a_principal_of_another_type_is_the_applications_mistake_and_said_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serve(make_app(principal=lambda: "ann")) as port,
        request(port, "GET", "/api/chat/runs/x") as c,
    ):
        assert c.status == 500
        assert b"Principal" not in await c.body()
    assert "the principal function returned str" in caplog.text


async def test_a_disconnect_is_noticed_while_the_stream_is_quiet_through_middleware() -> None:
    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    def app_of(chat: StreamChat) -> FastAPI:
        app = make_app(chat)
        app.add_middleware(GZipMiddleware, minimum_size=1)
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
        return app

    async with stalled(app_of) as (port, _, url, stall):
        for abort in (False, True):
            connection = await Connection.open(port)
            await connection.send("GET", url, X_User="ann", Accept_Encoding="gzip")
            await connection.head()
            assert connection.headers["content-encoding"] == "identity"
            await read_until(connection.blocks(), b"text_delta")
            await connection.close(abort=abort)
        async with request(port, "GET", url, X_User="ann") as connection:
            blocks = connection.blocks()
            await read_until(blocks, b"text_delta")
            stall.release()
            await read_until(blocks, b"event: finalized")


async def test_the_service_lives_inside_a_lifespan_of_the_applications_own() -> None:
    chat, order = make_chat(), list[str]()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        order.append("up")
        async with chat:
            yield
        order.append("down")

    app = FastAPI(lifespan=lifespan)
    app.include_router(chat_router(chat, principal=current_user))
    async with serve(app) as port:
        assert (await fetch(port, "POST", "/runs/reply", {"message": "Hi"}, X_User="ann"))[0] == 200
    assert order == ["up", "down"]


async def test_behind_a_proxy_that_strips_a_prefix_urls_are_the_clients() -> None:
    async with serve(make_app(), root_path="/outer") as port:
        _, started = await fetch(port, "POST", "/api/chat/runs", {"message": "Hi"}, X_User="ann")
        assert started["stream_url"] == f"/outer/api/chat/runs/{started['run_id']}/stream"


async def test_the_openapi_document_says_of_every_status_what_the_endpoints_own_says() -> None:
    chat = make_chat()
    inside = make_app(chat, lambda: Principal("ann")).openapi()
    raw = openapi_document(Endpoints(chat, principal=lambda request: None).routes, prefix="/api/chat")

    def types(document: Any) -> dict[tuple[str, str, str], list[str]]:
        return {
            (path, method, status): sorted(answer.get("content", {}))
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            for status, answer in operation["responses"].items()
            if not path.endswith("/openapi.json")
        }

    assert types(inside) == types(raw)
    streamed = {key[:2] for key, kinds in types(raw).items() if kinds == ["text/event-stream"]}
    assert len(streamed) > 4
    for path, method in streamed:
        answers = inside["paths"][path][method]["responses"]
        assert "501" in answers
        for status in set(answers) - {"200", "204"}:
            schema = answers[status]["content"]["application/json"]["schema"]
            assert set(schema["properties"]["error"]["properties"]) > {"code", "message", "correlation_id"}


async def test_the_openapi_document_has_every_endpoint_and_every_event() -> None:
    document = make_app().openapi()
    streamed = document["paths"]["/api/chat/runs/{id}/stream"]["get"]
    schema = streamed["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert schema == {"$ref": "#/components/schemas/StreamedEvent"}
    union = document["components"]["schemas"]["StreamedEvent"]
    assert set(union["discriminator"]["mapping"]) == {*EVENT_TYPES, "history_reset"}
    start = document["paths"]["/api/chat/runs"]["post"]
    assert "message" in start["requestBody"]["content"]["application/json"]["schema"]["required"]
    assert {parameter["name"] for parameter in streamed["parameters"]} >= {"id", "Last-Event-ID"}
    assert "500" not in start["responses"]


async def test_a_bare_generator_is_streamed_without_a_service() -> None:
    app = FastAPI()

    @app.get("/answer")
    async def answer() -> Any:
        return event_response(orchestrate(ScriptedModel.text("Hi."), [{"role": "user", "content": "Hi"}]))

    @app.get("/ag-ui")
    async def ag_ui() -> Any:
        wire = AGUIWire(AGUIEncoder(thread_id="t", run_id="r"))
        return event_response(orchestrate(ScriptedModel.text("Hi."), "Hi"), wire=wire)

    async with serve(app) as port:
        status, frames = await stream(port, "/answer")
        _, foreign = await stream(port, "/ag-ui")
    assert status == 200
    assert frames[-1].event == "finalized"
    assert json.loads(foreign[-1].data)["type"] == "RUN_FINISHED"


async def test_behind_a_cors_middleware_the_router_judges_origins_by_its_own_setting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    page = "https://page.example"
    asked = {"Origin": page, "Sec_Fetch_Site": "cross-site", "X_User": "ann"}
    for cors, status in ((None, 403), (CORS([page]), 201)):
        app = make_app(cors=cors)
        app.add_middleware(CORSMiddleware, allow_origins=[page], allow_headers=["*"])
        caplog.set_level("INFO", "streamchat.http")
        async with (
            serve(app) as port,
            request(port, "POST", "/api/chat/runs", {"message": "Hi"}, **asked) as connection,
        ):
            assert connection.status == status
            assert connection.headers["access-control-allow-origin"] == page
    assert f"a page of '{page}' asks, which cors=CORS(…) does not let in" in caplog.text


async def test_pages_of_other_origins_are_let_in_by_setting_alone() -> None:
    app = make_app(cors=CORS(origins=["https://page.example"]))
    async with serve(app) as port:
        for origin, allowed in (
            ("https://page.example", "https://page.example"),
            ("https://evil.example", None),
        ):
            async with request(
                port,
                "OPTIONS",
                "/api/chat/runs",
                Origin=origin,
                Access_Control_Request_Method="POST",
                Access_Control_Request_Headers="last-event-id",
            ) as connection:
                assert connection.headers.get("access-control-allow-origin") == allowed


async def test_a_client_that_leaves_while_its_body_is_read_does_no_harm() -> None:
    async with serve(make_app()) as port:
        connection = await Connection.open(port)
        await connection.send_raw(
            b"POST /api/chat/runs HTTP/1.1\r\nHost: test\r\nX-User: ann\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        await connection.close(abort=True)
        await asyncio.sleep(0)
        assert (await fetch(port, "GET", "/api/chat/conversations", X_User="ann"))[1]["conversations"] == []
