"""The Django adapter in a project with sessions, users and middleware of its own, under ASGI and WSGI."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from websockets.exceptions import InvalidStatus

from streamchat.core.sse import SSEDecoder
from streamchat.errors import InvalidInput
from streamchat.http import OpenAIOptions
from streamchat.testing import Stall
from tests.adapters.django_project.ready import make_ready
from tests.adapters.serving import Connection, fetch, read_until, request, serve
from tests.http.test_websocket import opened

pytest.importorskip("django")
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def project() -> Iterator[dict[str, str]]:
    """The project, set up once; yields the session cookies of its users."""
    make_ready()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore
    from django.db import connections

    cookies = {}
    for name in ("ann", "bob"):
        user, _ = User.objects.get_or_create(username=name)
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        cookies[name] = f"sessionid={session.session_key}"
    connections.close_all()
    yield cookies
    connections.close_all()


@asynccontextmanager
async def site(wrapped: Any = lambda application: application) -> AsyncIterator[tuple[int, Stall]]:
    """The project on a server, with a service of its own, as Django's ASGI knows no lifespan."""
    from django.core.asgi import get_asgi_application

    from streamchat.adapters.django import conf
    from tests.adapters.django_project import chat

    chat.stall = Stall()
    conf.chat.cache_clear()
    conf.endpoints.cache_clear()
    async with serve(wrapped(get_asgi_application()), lifespan="off") as port:
        try:
            yield port, chat.stall
        finally:
            await conf.chat().drain(0)
    await conf.chat().close()


async def csrf(port: int, cookie: str) -> dict[str, str]:
    """The headers of a page that is signed in and knows its CSRF token."""
    async with request(port, "GET", "/token/", Cookie=cookie) as connection:
        token = (await connection.body()).decode().split('"')[3]
        own = connection.headers["set-cookie"].partition(";")[0]
    return {"Cookie": f"{cookie}; {own}", "X_CSRFToken": token}


async def test_a_signed_in_page_starts_streams_resumes_and_is_told_when_it_has_all(
    project: dict[str, str],
) -> None:
    async with site() as (port, stall):
        page = await csrf(port, project["ann"])
        status, started = await fetch(port, "POST", "/chat/runs", {"message": "Hi"}, **page)
        assert status == 201
        url = started["stream_url"]
        assert url == f"/chat/runs/{started['run_id']}/stream"
        async with request(port, "GET", url, Accept_Encoding="gzip", **page) as connection:
            assert connection.headers["content-encoding"] == "identity"
            assert connection.headers["x-seen"] == "yes"
            blocks = connection.blocks()
            got = await read_until(blocks, b"text_delta")
            # Quiet, but alive; and what was sent has arrived while the run is at work.
            await read_until(blocks, b": heartbeat")
            stall.release()
            got += await read_until(blocks, b"event: finalized")
        frames = [frame for frame in SSEDecoder().feed(got) if frame.data]
        async with request(port, "GET", url, Last_Event_ID=frames[2].id, **page) as connection:
            rest = SSEDecoder().feed(await connection.body())
        assert [frame.id for frame in rest if frame.data][-1] == frames[-1].id
        async with request(port, "GET", url, Last_Event_ID=frames[-1].id, **page) as connection:
            assert connection.status == 204


async def test_who_is_not_signed_in_or_another_gets_nothing(project: dict[str, str]) -> None:
    async with site() as (port, stall):
        stall.release()
        ann, bob = await csrf(port, project["ann"]), await csrf(port, project["bob"])
        _, reply = await fetch(port, "POST", "/chat/runs/reply", {"message": "Hi"}, **ann)
        run = f"/chat/runs/{reply['run_id']}"
        assert (await fetch(port, "GET", run, Cookie=project["ann"]))[0] == 200
        assert (await fetch(port, "GET", run))[0] == 401
        foreign = await fetch(port, "GET", run, **bob)
        unknown = await fetch(port, "GET", "/chat/runs/none", **bob)
        assert foreign[0] == unknown[0] == 404
        assert foreign[1]["error"]["message"] == unknown[1]["error"]["message"]
        # Another site's page has the cookie, but not the token.
        async with request(
            port, "POST", "/chat/runs", {"message": "Hi"}, Cookie=project["ann"]
        ) as connection:
            assert connection.status == 403


async def test_where_a_project_requires_login_the_endpoints_still_decide_by_themselves(
    project: dict[str, str],
) -> None:
    from django.conf import settings
    from django.contrib.auth import middleware
    from django.test import override_settings

    if not hasattr(middleware, "LoginRequiredMiddleware"):
        pytest.skip("Django has no LoginRequiredMiddleware")
    required = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    with override_settings(MIDDLEWARE=required):
        async with site() as (port, stall):
            stall.release()
            async with request(port, "GET", "/bare/") as connection:
                assert connection.status == 302  # a view of the project's own
            for path, status in (("/chat/health/live", 200), ("/chat/conversations", 401)):
                assert (await fetch(port, "GET", path))[0] == status
            job = await fetch(port, "POST", "/chat/jobs/x:y", {"result": 1}, X_Job_Secret="no")
            assert (job[0], job[1]["error"]["code"]) == (404, "job_not_found")
            page = await csrf(port, project["ann"])
            assert (await fetch(port, "POST", "/chat/runs", {"message": "Hi"}, **page))[0] == 201


async def test_bad_requests_are_answered_as_everywhere(project: dict[str, str]) -> None:
    async with site() as (port, _):
        page = await csrf(port, project["ann"])
        status, answer = await fetch(port, "POST", "/chat/runs", {"messag": "Hi"}, **page)
        assert (status, answer["error"]["field"]) == (422, "message")
        status, answer = await fetch(port, "POST", "/chat/runs", {"message": "x" * 3_000_000}, **page)
        assert status == 413
        assert (await fetch(port, "GET", "/chat/nothing", **page))[0] == 404
        assert (await fetch(port, "GET", "/chat/health/ready"))[0] == 200


async def test_a_client_that_leaves_is_noticed_and_no_database_connection_is_held(
    project: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from streamchat.adapters.django import conf

    closed: list[int] = []
    close = BaseDatabaseWrapper.close

    def counted(self: Any) -> None:
        if self.connection is not None:
            closed.append(threading.get_ident())
        close(self)

    monkeypatch.setattr(BaseDatabaseWrapper, "close", counted)
    async with site() as (port, stall):
        page = await csrf(port, project["ann"])
        _, started = await fetch(port, "POST", "/chat/runs", {"message": "Hi"}, **page)
        await stall.reached()
        endpoints = conf.endpoints()
        for abort in (False, True):
            closed.clear()
            connection = await Connection.open(port)
            await connection.send("GET", started["stream_url"], b"", **page)
            await connection.head()
            await read_until(connection.blocks(), b"text_delta")
            assert closed, "the session's connection is still open, although CONN_MAX_AGE would keep it"
            assert endpoints.open_streams == 1
            await connection.close(abort=abort)
            while endpoints.open_streams:
                await asyncio.sleep(0.001)
        stall.release()


async def test_a_bare_generator_is_streamed_from_a_view(project: dict[str, str]) -> None:
    async with site() as (port, _):
        for path in ("/bare/", "/bare-sync/"):  # the view may be either; the server may not
            async with request(port, "GET", path) as connection:
                assert SSEDecoder().feed(await connection.body())[-1].event == "finalized"
        async with request(port, "GET", "/bare-ag-ui/") as connection:
            frames = SSEDecoder().feed(await connection.body())
        assert json.loads(frames[-1].data)["type"] == "RUN_FINISHED"


def test_under_wsgi_all_but_streams_works(
    project: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    from django.core.wsgi import get_wsgi_application

    from streamchat.adapters.django import conf
    from tests.adapters.django_project import chat

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    chat.stall = Stall()
    chat.stall.release()
    conf.chat.cache_clear()
    conf.endpoints.cache_clear()
    server = make_server("127.0.0.1", 0, cast(Any, get_wsgi_application()), handler_class=Quiet)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:

        async def talk() -> None:
            port = server.server_port
            page = await csrf(port, project["ann"])
            status, reply = await fetch(port, "POST", "/chat/runs/reply", {"message": "Hi"}, **page)
            assert (status, reply["status"]) == (200, "success")
            run = f"/chat/runs/{reply['run_id']}"
            status, log = await fetch(port, "GET", f"{run}/events", **page)
            assert log["events"][-1]["type"] == "finalized"
            for method, path in (("GET", f"{run}/stream"), ("POST", "/chat/runs/stream")):
                status, answer = await fetch(
                    port, method, path, {"message": "Hi"} if method == "POST" else None, **page
                )
                assert (status, answer["error"]["code"]) == (501, "streaming_unavailable")
            listed = await fetch(port, "GET", "/chat/conversations", **page)
            assert len(listed[1]["conversations"]) == 1
            # wsgiref says that nothing is text/plain.
            for task, status in (("cancel", 202), ("retry", 201)):
                assert (await fetch(port, "POST", f"{run}/{task}", **page))[0] == status
            for path in ("/bare/", "/bare-sync/"):
                async with request(port, "GET", path) as connection:
                    assert connection.status == 500
                assert "ImproperlyConfigured: this server cannot stream (WSGI)" in capsys.readouterr().err

        asyncio.run(talk())
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def test_the_system_check_says_what_is_wrong_with_the_setting(project: dict[str, str]) -> None:
    from django.core.management import call_command
    from django.core.management.base import SystemCheckError
    from django.test import override_settings

    call_command("check")
    chat = {"CHAT": "tests.adapters.django_project.chat.make_chat"}
    for setting, said in (
        ({}, "STREAMCHAT = "),
        ({"CHAT": "nowhere.chat"}, "cannot be imported"),
        ({"CHAT": "tests.adapters.django_project.chat.stall"}, "a StreamChat"),
        ({"CHAT": "tests.adapters.django_project.chat.make_chat", "CHATS": 1}, "CHATS"),
        ({"CHAT": None}, "a StreamChat"),
        ({**chat, "HTTP": {"hartbeat": 1}}, r"\['HTTP'\] knows heartbeat.*not hartbeat"),
        ({**chat, "HTTP": {"heartbeat": "15"}}, "heartbeat='15' must be a number above 0"),
        ({**chat, "HTTP": 15}, r"\['HTTP'\] is 15, of type int: give a dict"),
        ({**chat, "HTTP": {"vercel": {"taget": "v7"}}}, r"\['HTTP'\]\['vercel'\] knows target.*not taget"),
        ({**chat, "HTTP": {"vercel": {"target": "v8"}}}, "target='v8' must be one of 'v5'"),
        ({**chat, "HTTP": {"ag_ui": True}}, "ag_ui=True is of type bool"),
        ({**chat, "CORS": ["https://a.example"]}, r"\['CORS'\] is .* of type list: give a dict"),
        ({**chat, "CORS": {"origin": "*"}}, r"\['CORS'\] knows origins.*not origin"),
        ({**chat, "CORS": {}}, r"\['CORS'\] lacks origins"),
        ({**chat, "CORS": {"origins": "https://a.example"}}, "origins='https://a.example'"),
        ({**chat, "DATABASE": 5}, r"STREAMCHAT\['DATABASE'\]=5 is of type int"),
        ({**chat, "DATABASE": "no such"}, "E002"),
        ({**chat, "ADMIN_SHOWS_CONTENT": "yes"}, r"\['ADMIN_SHOWS_CONTENT'\] is 'yes': give True or False"),
        ({**chat, "PRINCIPAL": 5}, r"\['PRINCIPAL'\] is 5"),
    ):
        with override_settings(STREAMCHAT=setting), pytest.raises(SystemCheckError, match=said):
            call_command("check")
    with override_settings(ASGI_APPLICATION=None), pytest.raises(SystemCheckError, match="streamchat\\.W001"):
        call_command("check", fail_level="WARNING")


async def test_a_page_of_an_allowed_origin_may_send_the_csrf_token(project: dict[str, str]) -> None:
    from django.conf import settings
    from django.test import override_settings

    page = "https://page.example"
    cors = {"origins": [page], "credentials": True, "headers": ["X-Mine"]}
    with override_settings(
        STREAMCHAT={**settings.STREAMCHAT, "CORS": cors},
        CSRF_TRUSTED_ORIGINS=[page],
        CSRF_HEADER_NAME="HTTP_X_TOKEN",
    ):
        async with site() as (port, stall):
            stall.release()
            asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "x-token"}
            async with request(port, "OPTIONS", "/chat/runs", Origin=page, **asked) as connection:
                allowed = connection.headers["access-control-allow-headers"].split(", ")
                assert {"X-Token", "X-Mine", "Last-Event-ID"} <= set(allowed)
            signed = await csrf(port, project["ann"])
            signed["X_Token"] = signed.pop("X_CSRFToken")
            async with request(
                port, "POST", "/chat/runs", {"message": "Hi"}, Origin=page, **signed
            ) as connection:
                assert connection.status == 201
                assert connection.headers["access-control-allow-origin"] == page


def test_options_of_a_wire_may_stand_in_the_setting(project: dict[str, str]) -> None:
    from django.test import override_settings

    from streamchat.adapters.django import conf

    setting = {
        "CHAT": "tests.adapters.django_project.chat.make_chat",
        "HTTP": {"heartbeat": 3, "vercel": {"target": "v7"}, "openai": OpenAIOptions(models=["agent"])},
    }
    with override_settings(STREAMCHAT=setting):
        options = conf.endpoints().options
    assert (options.heartbeat, options.vercel.target, options.openai.models) == (3, "v7", ["agent"])


def test_the_applications_name_is_free_of_the_packages(project: dict[str, str]) -> None:
    from django.apps import apps
    from django.conf import settings
    from django.urls import reverse

    assert apps.get_app_config("streamchat").name == "streamchat.adapters.django"
    assert reverse("streamchat:endpoint", kwargs={"path": "runs"}) == "/chat/runs"
    # Settings are read once in a process, so that of whichever test was first.
    assert Path(settings.DATABASES["default"]["NAME"]).exists()


async def test_a_jobs_worker_needs_no_csrf_token_but_the_jobs_secret(project: dict[str, str]) -> None:
    async with site() as (port, _):
        status, answer = await fetch(port, "POST", "/chat/jobs/run:call", {"result": 1})
        assert status == 404
        assert answer["error"]["code"] == "job_not_found", "our answer, not Django's page"
        async with request(port, "POST", "/chat/runs", {"message": "Hi"}) as refused:
            assert refused.status == 403


def with_websocket(application: Any) -> Any:
    from streamchat.adapters.django.websocket import with_websocket

    return with_websocket(application)


async def refused(port: int, path: str = "/chat/ws", **options: Any) -> int:
    with pytest.raises(InvalidStatus) as refusal:
        async with opened(port, path, **options):
            pass
    return int(refusal.value.response.status_code)


def test_what_is_no_application_gets_no_websocket() -> None:
    with pytest.raises(InvalidInput, match="application=None"):
        with_websocket(None)


async def test_a_websocket_is_served_to_the_sessions_user(project: dict[str, str]) -> None:
    async with site(with_websocket) as (port, stall):
        stall.release()
        ann, bob = ({"Cookie": project[name]} for name in ("ann", "bob"))
        here = f"http://127.0.0.1:{port}"
        async with opened(port, "/chat/ws", additional_headers=ann, origin=here) as socket:
            await socket.say("start", message="Hi")
            run_id = (await socket.until(type="started"))["run_id"]
            await socket.until(type="end", reason="finished")
            assert socket.state(run_id).text == "Hello there."
        async with opened(port, "/chat/ws", additional_headers=bob) as socket:
            await socket.say("attach", run_id=run_id)
            assert (await socket.until(type="error"))["error"]["code"] == "run_not_found"
        # What is no WebSocket goes to the project as before.
        assert (await fetch(port, "GET", f"/chat/runs/{run_id}", **ann))[0] == 200
        assert (await fetch(port, "GET", "/chat/ws", **ann))[0] == 404


async def test_a_handshake_that_the_project_or_the_endpoints_refuse_opens_nothing(
    project: dict[str, str],
) -> None:
    from django.conf import settings
    from django.test import override_settings

    middleware = "tests.adapters.django_project.middleware.Sluice"
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, middleware]):
        async with site(with_websocket) as (port, _):
            ann = {"Cookie": project["ann"]}
            assert await refused(port) == 401
            assert await refused(port, additional_headers=ann, origin="https://evil.example") == 403
            for path in ("/chat/wss", "/chat/runs/ws", "/nothing/ws", "/admin/ws"):
                assert await refused(port, path, additional_headers=ann) in (403, 404)
            # A middleware of the project's own stands in front, as of any request.
            assert await refused(port, additional_headers={**ann, "X-Sluice": "shut"}) == 418
            assert await refused(port, additional_headers={**ann, "X-Sluice": "elsewhere"}) == 403


async def test_a_websocket_ends_with_its_client_and_runs_go_on(project: dict[str, str]) -> None:
    from streamchat.adapters.django import conf

    async with site(with_websocket) as (port, stall):
        ann = {"Cookie": project["ann"]}
        async with opened(port, "/chat/ws", additional_headers=ann) as socket:
            await socket.say("start", message="Hi")
            run_id = (await socket.until(type="started"))["run_id"]
            await stall.reached()
            await socket.until_event(run_id, "text_delta")
            assert conf.endpoints().open_streams == 1
        while conf.endpoints().open_streams:
            await asyncio.sleep(0.001)
        stall.release()
        async with opened(port, "/chat/ws", additional_headers=ann) as again:
            again.events = socket.events
            await again.say("attach", run_id=run_id, last_event_id=list(socket.events[run_id])[-1])
            await again.until(type="end", reason="finished")
            assert again.twice == 0
            assert again.state(run_id).text == "Hello there."
