"""``/ws`` over a real server: the cursors of the native wire, several runs on a connection, cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from streamchat import ServiceLimits, StreamChat
from streamchat.adapters.asgi import ASGIApp, asgi_app
from streamchat.core.fold import fold
from streamchat.errors import RunNotFound
from streamchat.events import parse_event
from streamchat.http import CORS, Endpoints, HTTPOptions
from streamchat.http.requests import ClientGone
from streamchat.http.websocket import WebSocketSession, admit
from streamchat.principal import Principal
from streamchat.service.access import owns
from streamchat.service.hub import Subscription
from streamchat.testing import Call, ScriptedModel, Stall, Step
from streamchat.tools import ToolRegistry
from tests.adapters.serving import fetch, serve, stream
from tests.http.asking import make_request, serving
from tests.npm.support import NODE
from tests.project.support import ROOT

pytestmark = pytest.mark.anyio

HELLO = "Hello there. How are you today?"


class Socket:
    """A client that keeps what it was sent: answers in order, and the events of each run by id."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.answers: list[dict[str, Any]] = []
        self.events: dict[str, dict[str, dict[str, Any]]] = {}
        self.twice = 0

    async def say(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def take(self) -> dict[str, Any]:
        """One message: its first line, its events kept."""
        text = await self.connection.recv()
        head, *lines = [json.loads(line) for line in str(text).split("\n")]
        if head["type"] == "events":
            kept = self.events.setdefault(head["run_id"], {})
            for line in lines:
                self.twice += line["id"] in kept
                kept[line["id"]] = line["data"]
        elif head["type"] != "heartbeat":
            assert not lines
            self.answers.append(head)
        return head

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """The next answer, or event message, that has these fields."""
        while True:
            head = await self.take()
            if wanted.items() <= head.items():
                return head

    async def until_event(self, run_id: str, kind: str) -> str:
        """The id of the first event of a kind."""
        while True:
            for id, event in self.events.get(run_id, {}).items():
                if event["type"] == kind:
                    return id
            await self.take()

    async def closed(self) -> int:
        """The code that the server closes with, after whatever it still sends."""
        try:
            while True:
                await self.take()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 0

    def state(self, run_id: str) -> Any:
        return fold(parse_event(event) for event in self.events[run_id].values())


@asynccontextmanager
async def opened(port: int, path: str = "/ws", **options: Any) -> AsyncIterator[Socket]:
    async with connect(f"ws://127.0.0.1:{port}{path}", proxy=None, **options) as connection:
        yield Socket(connection)


def make_app(model: ScriptedModel | None = None, options: HTTPOptions | None = None, **chat: Any) -> ASGIApp:
    model = model or ScriptedModel.text(HELLO, repeat=True)
    return asgi_app(StreamChat(model=model, **{"allow_anonymous": True, **chat}), options=options)


async def test_a_run_is_started_and_streamed_and_has_what_server_sent_events_say() -> None:
    async with serve(make_app()) as port, opened(port) as socket:
        await socket.say("start", message="Hi", conversation_id="c1", ref="a")
        started = await socket.until(type="started", ref="a")
        run_id = started["run_id"]
        assert (started["conversation_id"], started["new"]) == ("c1", True)
        end = await socket.until(type="end", run_id=run_id, reason="finished")
        _, frames = await stream(port, f"/runs/{run_id}/stream")
        read = {frame.id: json.loads(frame.data) for frame in frames}
        assert socket.events[run_id] == read
        assert end["last_event_id"] == frames[-1].id
        assert socket.state(run_id).text == HELLO


async def test_a_cursor_means_what_it_means_elsewhere() -> None:
    async with serve(make_app()) as port:
        async with opened(port) as socket:
            await socket.say("start", message="Hi")
            run_id = (await socket.until(type="started"))["run_id"]
            await socket.until(type="end")
        ids = list(socket.events[run_id])
        for at, cursor in enumerate(ids):
            async with opened(port) as again:
                await again.say("attach", run_id=run_id, last_event_id=cursor)
                attached = await again.until(type="attached")
                assert attached["last_event_id"] == cursor
                await again.until(type="end", reason="finished")
                assert list(again.events.get(run_id, {})) == ids[at + 1 :]
        async with opened(port) as socket:
            await socket.say("attach", run_id=run_id, last_event_id="nonsense", ref="b")
            assert (await socket.until(type="error", ref="b"))["error"]["code"] == "invalid_cursor"
            await socket.say("attach", run_id=run_id, last_event_id=f"{ids[-1].partition('.')[0]}.999")
            await socket.until(type="end", reason="finished")
            (reset,) = socket.events[run_id].values()
            assert (reset["type"], reset["snapshot"]["status"]) == ("history_reset", "success")


async def test_a_connection_that_drops_is_gone_on_with_where_it_was() -> None:
    stall = Stall()
    model = ScriptedModel([Step(HELLO, stall_after=3, stall=stall)])
    async with serve(make_app(model)) as port:
        async with opened(port) as socket:
            await socket.say("start", message="Hi")
            run_id = (await socket.until(type="started"))["run_id"]
            await socket.until_event(run_id, "text_delta")
        stall.release()
        async with opened(port) as again:
            again.events = socket.events
            await again.say("attach", run_id=run_id, last_event_id=list(socket.events[run_id])[-1])
            await again.until(type="end", reason="finished")
        assert again.twice == 0
        assert again.state(run_id).text == HELLO
        assert [event["seq"] for event in again.events[run_id].values()] == list(
            range(1, len(again.events[run_id]) + 1)
        )


async def test_a_cancel_is_told_on_the_same_connection() -> None:
    stall = Stall()
    model = ScriptedModel([Step(HELLO, stall_after=2, stall=stall)])
    async with serve(make_app(model)) as port, opened(port) as socket:
        await socket.say("start", message="Hi")
        run_id = (await socket.until(type="started"))["run_id"]
        await stall.reached()
        await socket.say("cancel", run_id=run_id, reason="enough", ref="c")
        await socket.until(type="end", reason="finished")
        assert [a["type"] for a in socket.answers if a.get("ref") == "c"] == ["accepted"]
        state = socket.state(run_id)
        assert (state.status, state.cancelled.reason) == ("cancelled", "enough")
        await socket.say("cancel", run_id=run_id)
        await socket.until(type="accepted")


async def test_several_runs_share_a_connection() -> None:
    stalls = [Stall(), Stall()]
    model = ScriptedModel([Step(HELLO, stall_after=1, stall=stall) for stall in stalls])
    async with serve(make_app(model)) as port, opened(port) as socket:
        runs = []
        for stall in stalls:
            await socket.say("start", message="Hi")
            runs.append((await socket.until(type="started"))["run_id"])
            await stall.reached()
        stalls[1].release()
        assert (await socket.until(type="end"))["run_id"] == runs[1]
        await socket.say("detach", run_id=runs[0])
        await socket.until(type="detached")
        seen = len(socket.events[runs[0]])
        stalls[0].release()
        await socket.say("attach", run_id=runs[0], last_event_id=list(socket.events[runs[0]])[-1])
        await socket.until(type="end", run_id=runs[0])
        assert len(socket.events[runs[0]]) > seen
        assert socket.twice == 0
        assert [socket.state(run).text for run in runs] == [HELLO, HELLO]


async def test_a_run_that_waits_is_answered_on_the_same_connection() -> None:
    tools = ToolRegistry()

    @tools.tool(requires_approval=True)
    async def delete(path: str) -> str:
        """Asks first."""
        return f"deleted {path}"

    @tools.tool(client_side=True)
    async def locate() -> str:
        """The page runs it."""
        return ""

    model = ScriptedModel(
        [Step(calls=[Call("delete", {"path": "a"}, id="d"), Call("locate", id="l")]), "Done."]
    )
    async with serve(make_app(model, tools=tools)) as port, opened(port) as socket:
        await socket.say("start", message="Hi")
        run_id = (await socket.until(type="started"))["run_id"]
        await socket.until_event(run_id, "suspended")
        await socket.say("approval", run_id=run_id, call_id="nope", approved=True)
        assert (await socket.until(type="error"))["error"]["code"] == "wait_not_found"
        await socket.say("approval", run_id=run_id, call_id="d", approved=True, arguments={"path": "b"})
        await socket.say("tool_result", run_id=run_id, call_id="l", output="Oslo")
        await socket.until(type="end", reason="finished")
        outputs = [call.output for call in socket.state(run_id).calls]
        assert outputs == ["deleted b", "Oslo"]


@pytest.mark.parametrize(
    ("text", "code", "field"),
    [
        ("{", "invalid_json", "body"),
        ("[]", "invalid_input", "body"),
        ('{"type": "fly"}', "invalid_input", "body"),
        ('{"type": "start"}', "invalid_input", "message"),
        ('{"type": "attach"}', "invalid_input", "run_id"),
        ('{"type": "cancel", "run_id": "x", "more": 1}', "invalid_input", "more"),
        ('{"type": "cancel", "run_id": "x"}', "run_not_found", None),
    ],
)
async def test_a_message_that_is_none_is_answered_and_the_connection_stays(
    text: str, code: str, field: str | None
) -> None:
    async with serve(make_app()) as port, opened(port) as socket:
        await socket.connection.send(text)
        error = (await socket.until(type="error"))["error"]
        assert (error["code"], error.get("field")) == (code, field)
        assert error["correlation_id"]
        await socket.say("start", message="Hi")
        await socket.until(type="end", reason="finished")


async def test_a_message_in_bytes_is_as_good_as_text_and_one_that_is_too_large_ends_it() -> None:
    async with serve(make_app(options=HTTPOptions(max_body_bytes=200))) as port, opened(port) as socket:
        await socket.connection.send(b'{"type":"start","message":"Hi","ref":"x"}')
        await socket.until(type="started", ref="x")
        await socket.say("start", message="x" * 300)
        assert await socket.closed() == 1009


async def test_an_idempotency_key_starts_one_run() -> None:
    async with serve(make_app()) as port, opened(port) as socket:
        runs = []
        for _ in range(2):
            await socket.say("start", message="Hi", idempotency_key="k")
            runs.append(await socket.until(type="started"))
            await socket.until(type="end")
        assert runs[0]["run_id"] == runs[1]["run_id"]
        assert [run["new"] for run in runs] == [True, False]


async def test_a_browsers_websocket_that_is_cut_off_after_any_event_has_the_log_when_it_comes_back() -> None:
    async with serve(make_app(ScriptedModel([Step(HELLO, pieces_of=9)], repeat=True))) as port:
        module = files("streamchat.web") / "streamchat.js"
        script = [str(NODE), str(ROOT / "tests/web/websocket.mjs"), str(module), f"ws://127.0.0.1:{port}/ws"]
        process = await asyncio.create_subprocess_exec(
            *script, "Hi", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, complaints = await process.communicate()
        assert process.returncode == 0, complaints.decode()
        ends = json.loads(out)
        for end in ends:
            _, status = await fetch(port, "GET", f"/runs/{end['run_id']}")
            assert end["status"] == status["status"] == "success"
            assert end["text"] == HELLO
            assert end["events"] == end["seq"] == int(status["cursor"].rpartition(".")[2])
        assert len(ends) > 2


def page_of_the_docs(folder: Path, port: int) -> Path:
    """Write the page that docs/how-to/use-a-websocket.md has, for this server."""
    text = (ROOT / "docs/how-to/use-a-websocket.md").read_text(encoding="utf-8")
    code = text.partition("```js\n")[2].partition("```\n")[0]
    module = (Path(str(files("streamchat.web"))) / "streamchat.js").as_uri()
    for there, here in (
        ("/streamchat.js", module),
        ("wss://example.com/chat/ws", f"ws://127.0.0.1:{port}/ws"),
    ):
        assert there in code
        code = code.replace(there, here)
    page = folder / "page.mjs"
    page.write_text("const setTimeout = globalThis.wait;\n" + code, encoding="utf-8")
    return page


async def run_page(page: Path, cut: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        *(str(NODE), str(ROOT / "tests/web/websocket_page.mjs"), str(page), cut),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, complaints.decode()
    return json.loads(out)


async def test_the_page_of_the_docs_says_again_what_no_answer_came_to(tmp_path: Path) -> None:
    async with serve(make_app()) as port:
        told = await run_page(page_of_the_docs(tmp_path, port), "start")
        assert told["said"] == [[["start"]], [["start"]]]
        assert (told["shown"]["text"], told["shown"]["status"]) == (HELLO, "success")
        [conversation] = (await fetch(port, "GET", "/conversations"))[1]["conversations"]
        messages = (await fetch(port, "GET", f"/conversations/{conversation['id']}/messages"))[1]["messages"]
        assert len(messages) == 2  # one run, though it was asked for twice


@pytest.mark.parametrize("reason", ["failed", "deleted"])
async def test_the_page_of_the_docs_comes_back_to_what_failed_and_forgets_what_was_deleted(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Subscription.next_bytes
    sent: list[bytes | None] = []

    async def one_then_no_more(subscription: Subscription, wire: Any) -> bytes | None:
        if len(sent) == 1:
            sent.append(None)
            raise RunNotFound("gone") if reason == "deleted" else OSError("the store is away")
        sent.append(await read(subscription, wire))
        return sent[-1]

    monkeypatch.setattr(Subscription, "next_bytes", one_then_no_more)
    model = ScriptedModel([Step(HELLO, pieces_of=3)])
    async with serve(make_app(model, HTTPOptions(retry=7))) as port:
        told = await run_page(page_of_the_docs(tmp_path, port), reason)
    if reason == "deleted":
        assert told["said"] == [[["start"]], []]
        return
    assert sent[0] is not None
    cursor = json.loads(sent[0].splitlines()[-1])["id"]
    assert told["said"] == [[["start"], ["attach", cursor]]]
    [wait] = told["waits"]
    assert 3500 <= wait <= 10_500  # milliseconds: about what the server was told to say
    assert (told["shown"]["text"], told["shown"]["status"]) == (HELLO, "success")


# Who may.


def by_token(scope: Any) -> Principal | None:
    name = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
    return Principal(name) if name else None


def app_with_users(**options: Any) -> ASGIApp:
    chat = StreamChat(model=ScriptedModel.text(HELLO, repeat=True), authorize=owns)
    return asgi_app(chat, principal=by_token, **options)


async def test_nobody_is_refused_before_the_connection_is_open_and_others_runs_are_not_found() -> None:
    async with serve(app_with_users()) as port:
        with pytest.raises(InvalidStatus) as refused:
            async with opened(port):
                pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "unauthenticated"
        async with opened(port, additional_headers={"Authorization": "Bearer ann"}) as socket:
            await socket.say("start", message="Hi")
            run_id = (await socket.until(type="started"))["run_id"]
            await socket.until(type="end")
        async with opened(port, additional_headers={"Authorization": "Bearer bob"}) as socket:
            for kind in ("attach", "cancel"):
                await socket.say(kind, run_id=run_id)
                assert (await socket.until(type="error"))["error"]["code"] == "run_not_found"


@pytest.mark.parametrize(
    ("origin", "cors", "status"),
    [
        ("https://evil.example", None, 403),
        ("https://app.example", CORS(["https://app.example"]), None),
        ("same", None, None),
        ("https://any.example", CORS("*"), None),
    ],
)
async def test_a_page_of_another_origin_is_refused_unless_it_is_let_in(
    origin: str, cors: CORS | None, status: int | None
) -> None:
    async with serve(app_with_users(cors=cors)) as port:
        origin = f"http://127.0.0.1:{port}" if origin == "same" else origin
        opening: Callable[[], Any] = lambda: opened(  # noqa: E731
            port, origin=origin, additional_headers={"Authorization": "Bearer ann"}
        )
        if status is None:
            async with opening() as socket:
                await socket.say("start", message="Hi")
                await socket.until(type="end")
            return
        with pytest.raises(InvalidStatus) as refused:
            async with opening():
                pass
        assert refused.value.response.status_code == status


@pytest.mark.parametrize("credentials", [True, False])
async def test_browsers_send_a_websockets_cookies_so_its_page_must_be_let_in_with_credentials(
    credentials: bool,
) -> None:
    page = "https://app.example"
    signed_in = {"Authorization": "Bearer ann", "Cookie": "session=ann"}
    for cors in [CORS([page], credentials=credentials), *([] if credentials else [CORS("*")])]:
        async with serve(app_with_users(cors=cors)) as port:
            if credentials:
                async with opened(port, origin=page, additional_headers=signed_in):  # type: ignore[arg-type]
                    continue
            with pytest.raises(InvalidStatus) as refused:
                async with opened(port, origin=page, additional_headers=signed_in):  # type: ignore[arg-type]
                    pass
            assert refused.value.response.status_code == 403


async def test_another_path_has_no_websocket() -> None:
    async with serve(make_app()) as port:
        with pytest.raises(InvalidStatus):
            async with opened(port, "/runs"):
                pass


async def test_it_works_where_the_application_is_mounted() -> None:
    app = make_app()

    async def router(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/chat"} if scope["type"] != "lifespan" else scope, receive, send)

    async with serve(router) as port, opened(port, "/chat/ws") as socket:
        await socket.say("start", message="Hi")
        await socket.until(type="end", reason="finished")


# Its end.


async def test_leaving_is_seen_by_the_runs_policy_and_leaves_nothing_behind() -> None:
    stall = Stall()
    model = ScriptedModel([Step(HELLO, stall_after=1, stall=stall)])
    app = make_app(model, on_disconnect="cancel")
    async with serve(app) as port:
        async with opened(port) as socket:
            await socket.say("start", message="Hi")
            run_id = (await socket.until(type="started"))["run_id"]
            await stall.reached()
            await socket.until_event(run_id, "text_delta")
            assert app.endpoints.open_streams == 1
        while (await fetch(port, "GET", f"/runs/{run_id}"))[1]["status"] != "cancelled":
            await asyncio.sleep(0.001)
        assert app.endpoints.open_streams == 0


class Pipe:
    """A connection without a network; what is said is asked for by ``receive`` until nothing is left."""

    def __init__(self, *said: dict[str, Any]) -> None:
        self.said = [json.dumps(each).encode() for each in said]
        self.left = asyncio.Event()

    async def receive(self) -> bytes:
        if self.said:
            return self.said.pop(0)
        await self.left.wait()
        raise ClientGone("gone")

    async def send(self, text: bytes) -> None:
        pass

    async def close(self, code: int) -> None:
        pass


async def test_a_connection_is_over_only_when_its_streams_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    closing, may_close = asyncio.Event(), asyncio.Event()
    close = Subscription.close

    async def slowly(self: Subscription) -> None:
        closing.set()
        await may_close.wait()
        await close(self)

    monkeypatch.setattr(Subscription, "close", slowly)
    async with serving() as endpoints:
        admitted = await admit(endpoints, make_request("GET", "/ws"))
        assert isinstance(admitted, tuple)
        pipe = Pipe({"type": "start", "message": "Hi"})
        session = asyncio.create_task(WebSocketSession(admitted[0], pipe, admitted[1]).run())
        await closing.wait()  # the run is over, and its stream is about to be
        pipe.left.set()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not session.done()
        may_close.set()
        await session


async def test_a_run_that_is_attached_to_many_times_at_once_is_let_go_as_often() -> None:
    stall = Stall()
    async with serving(ScriptedModel([Step(HELLO, stall_after=1, stall=stall)])) as endpoints:
        run = await endpoints.chat.start("c1", "Hi", None)
        await stall.reached()
        admitted = await admit(endpoints, make_request("GET", "/ws"))
        assert isinstance(admitted, tuple)
        attach = {"type": "attach", "run_id": run.run_id}
        pipe = Pipe(attach, attach, {"type": "detach", "run_id": run.run_id}, attach)
        session = asyncio.create_task(WebSocketSession(admitted[0], pipe, admitted[1]).run())
        while pipe.said:
            await asyncio.sleep(0)
        pipe.left.set()
        await session
        assert endpoints.open_streams == 0
        stall.release()


class SlowPipe(Pipe):
    """A client that is always taking something: each send takes its time on the loop's clock, which is
    advanced for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, takes: Callable[[bytes], float]) -> None:
        super().__init__()
        self.sent: list[list[dict[str, Any]]] = []
        self.taken = 0.0
        self.code: int | None = None
        self._takes = takes
        loop = asyncio.get_running_loop()
        clock = loop.time
        monkeypatch.setattr(loop, "time", lambda: clock() + self.taken)
        monkeypatch.setattr(loop, "slow_callback_duration", 1e9)

    async def receive(self) -> bytes:
        while not self.said and not self.left.is_set():
            await asyncio.sleep(0)
        return await super().receive()

    async def send(self, text: bytes) -> None:
        if self.code is not None:
            raise ClientGone("closed")
        self.taken += self._takes(text)
        for _ in range(5):
            await asyncio.sleep(0)
        self.sent.append([json.loads(line) for line in text.split(b"\n")])
        if sum(head["type"] == "end" for head, *_ in self.sent) == self.runs:
            self.left.set()

    async def close(self, code: int) -> None:
        self.code = self.code or code
        self.left.set()

    async def follow(self, endpoints: Endpoints, *runs: str) -> None:
        """Attach to these runs and take what comes until each of them has ended, or the connection has."""
        self.runs = len(runs)
        self.said = [json.dumps({"type": "attach", "run_id": run_id}).encode() for run_id in runs]
        admitted = await admit(endpoints, make_request("GET", "/ws"))
        assert isinstance(admitted, tuple)
        await WebSocketSession(admitted[0], self, admitted[1]).run()

    def ended(self) -> list[str]:
        return [head["run_id"] for head, *_ in self.sent if head["type"] == "end"]


async def over(endpoints: Endpoints, run_id: str) -> list[str]:
    """The ids of a run's events when it is over."""
    async with endpoints.chat.attach(run_id) as subscription:
        return [event.id async for event in subscription]


SLOWLY = HTTPOptions(heartbeat=1e9, send_timeout=1000)


async def test_a_client_that_is_slow_but_moving_gets_all_that_is_pending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tools = ToolRegistry()

    @tools.tool
    async def note(text: str) -> str:
        """Takes it down."""
        return "noted"

    calls = [Call("note", {"text": "x" * 30_000}, id=f"n{at}") for at in range(20)]
    async with serving(ScriptedModel([Step(calls=calls), HELLO]), tools=tools, options=SLOWLY) as endpoints:
        run_id = (await endpoints.chat.start("c1", "Hi")).run_id
        ids = await over(endpoints, run_id)
        # What is largest by itself, the message as a whole, is in time; all of it together takes longer.
        pipe = SlowPipe(monkeypatch, lambda text: len(text) / 700)
        await pipe.follow(endpoints, run_id)
        events = [lines for head, *lines in pipe.sent if head["type"] == "events"]
        assert [line["id"] for lines in events for line in lines] == ids
        assert pipe.ended() == [run_id]
        assert pipe.taken > 1000


async def test_a_message_has_its_time_from_when_it_is_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(options=SLOWLY) as endpoints:
        runs = [(await endpoints.chat.start(f"c{at}", "Hi")).run_id for at in range(12)]
        for run_id in runs:
            await over(endpoints, run_id)
        pipe = SlowPipe(monkeypatch, lambda text: 600)
        await pipe.follow(endpoints, *runs)
        assert sorted(pipe.ended()) == sorted(runs)


async def test_a_client_that_takes_nothing_for_its_time_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(options=SLOWLY) as endpoints:
        runs = [(await endpoints.chat.start(f"c{at}", "Hi")).run_id for at in range(3)]
        for run_id in runs:
            await over(endpoints, run_id)
        pipe = SlowPipe(monkeypatch, lambda text: 1001)
        await pipe.follow(endpoints, *runs)
        assert (pipe.code, pipe.sent, endpoints.open_streams) == (1001, [], 0)


async def test_a_server_that_drains_tells_each_run_and_closes() -> None:
    stall = Stall()
    app = make_app(
        ScriptedModel([Step(HELLO, stall_after=1, stall=stall)]), limits=ServiceLimits(drain_seconds=0.01)
    )
    async with serve(app) as port, opened(port) as socket:
        await socket.say("start", message="Hi")
        run_id = (await socket.until(type="started"))["run_id"]
        await stall.reached()
        await socket.until_event(run_id, "text_delta")
        await app.endpoints.chat.drain()
        end = await socket.until(type="end", run_id=run_id)
        assert (end["reason"], end["last_event_id"]) == ("draining", list(socket.events[run_id])[-1])
        assert end["retry"] > 0
        assert await socket.closed() == 1001


async def test_a_connection_that_nothing_is_attached_to_does_not_hold_up_a_shutdown() -> None:
    app = make_app(options=HTTPOptions(heartbeat=3600), limits=ServiceLimits(drain_seconds=0))
    async with serve(app) as port, opened(port) as socket:
        await socket.say("cancel", run_id="none")
        await socket.until(type="error")
        await app.endpoints.chat.drain()
        with anyio.fail_after(30):
            assert await socket.closed() == 1001


async def test_a_connection_has_a_lifetime_and_a_heartbeat() -> None:
    options = HTTPOptions(heartbeat=0.01, stream_lifetime=0.2)
    async with serve(make_app(options=options)) as port, opened(port) as socket:
        assert await socket.until(type="heartbeat")
        assert await socket.closed() == 1001


async def test_a_deleted_run_ends_its_stream() -> None:
    stall = Stall()
    model = ScriptedModel([Step(HELLO, stall_after=1, stall=stall)])
    async with serve(make_app(model)) as port, opened(port) as socket:
        await socket.say("start", message="Hi", conversation_id="c1")
        run_id = (await socket.until(type="started"))["run_id"]
        await stall.reached()
        assert (await fetch(port, "DELETE", "/conversations/c1"))[0] == 204
        end = await socket.until(type="end", run_id=run_id)
        assert end["reason"] in ("finished", "deleted")


async def test_streams_are_counted_like_any_other() -> None:
    stall = Stall()
    options = HTTPOptions(max_streams=1)
    model = ScriptedModel([Step(HELLO, stall_after=1, stall=stall)], repeat=True)
    async with serve(make_app(model, options)) as port, opened(port) as socket:
        await socket.say("start", message="Hi")
        run_id = (await socket.until(type="started"))["run_id"]
        await socket.say("start", message="Hi")
        error = await socket.until(type="error")
        assert (error["error"]["code"], error["status"]) == ("too_many_streams", 503)
        await socket.say("attach", run_id=run_id)  # in the place of the first
        await socket.until(type="attached")
        stall.release()
        await socket.until(type="end", reason="finished")
